"""`aitems train ranking` and `aitems evaluate ranking`, end to end on a small simulated shop."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aitems_engine.bundle import Bundle
from aitems_engine.catalog.items import ItemTable
from aitems_engine.catalog.products import read_products
from aitems_engine.cli import main
from aitems_engine.ranking import open_ranker
from aitems_engine.simulator import simulate_shop

pytestmark = [pytest.mark.slow, pytest.mark.native]
QUICK = [
    "--quiet",
    "--learning-rate",
    "0.01",
    "--epochs",
    "2",
    "--dim",
    "4",
    "--hidden",
    "16",
    "--device",
    "cpu",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    simulate_shop(folder, products=300, leaves=20, users=600, seed=3, progress=False)
    return folder


def files(shop):
    return ["--events", str(shop / "events.parquet"), "--products", str(shop / "products.parquet")]


def measures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_train_then_evaluate_side_by_side(shop, tmp_path, capsys):
    for name in ("esmm", "dcn-v2"):
        assert main(["train", "ranking", name, *files(shop), "--out", str(tmp_path / name), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "impressions to learn from" in printed
    models = ["--model", str(tmp_path / "esmm"), "--model", str(tmp_path / "dcn-v2")]
    assert main(["evaluate", "ranking", *models, *files(shop), "--out", str(tmp_path / "report")]) == 0
    found = measures(tmp_path / "report")
    assert set(found) == {"esmm", "dcn-v2"}
    assert found["esmm"]["click"]["auc"] > 0.55
    assert found["esmm"]["click"]["ece"] < 0.05
    assert "purchase" not in found["dcn-v2"]
    facts = Bundle.open(tmp_path / "esmm").read_json("ranker.json")["facts"]
    # the same rows, the same features: what training measured on its test is what the report says
    assert facts["test"]["click"]["auc"] == pytest.approx(found["esmm"]["click"]["auc"], abs=1e-6)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "expected / observed" in page
    assert (tmp_path / "report" / "click_calibration_2.png").exists()


def test_a_stopped_training_gives_the_same_bundle(shop, tmp_path, capsys):
    state = tmp_path / "state.safetensors"
    digests = []
    for name in ("first", "second"):
        arguments = ["--checkpoint", str(state)] if name == "second" else []
        assert (
            main(["train", "ranking", "deepfm", *files(shop), "--out", str(tmp_path / name), *QUICK, *arguments]) == 0
        )
        digests.append(Bundle.open(tmp_path / name).parts["ranker.onnx"].sha256)
    assert main(["train", "ranking", "deepfm", *files(shop), "--out", str(tmp_path / "third"), *QUICK, *arguments]) == 0
    digests.append(Bundle.open(tmp_path / "third").parts["ranker.onnx"].sha256)
    assert len(set(digests)) == 1


def test_declared_features_and_what_is_served(shop, tmp_path):
    declared = {"features": [{"kind": "item_code", "attribute": "category"}, {"kind": "item_rate"}]}
    (tmp_path / "features.json").write_text(json.dumps(declared))
    chosen = ["--features", str(tmp_path / "features.json"), "--calibration", "isotonic"]
    assert main(["train", "ranking", "dlrm", *files(shop), "--out", str(tmp_path / "m"), *QUICK, *chosen]) == 0
    items = ItemTable.from_products(read_products(shop / "products.parquet"))
    features, ranker = open_ranker(Bundle.open(tmp_path / "m"), items)
    assert features.spec.code_names == ("item_code.category",)
    assert len(ranker.calibration.click.default.given) > 2
    assert np.isfinite(ranker.calibration.click.default.calibrated).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "a,b"], "--hidden must be sizes such as 128,64, got 'a,b'"),
        (["--dropout", "2"], "dropout must be from 0 and below 1"),
        (["--epochs", "0"], "epochs, patience and batch size must be at least 1"),
    ],
)
def test_wrong_options_are_told(shop, tmp_path, capsys, arguments, message):
    assert main(["train", "ranking", "dcn-v2", *files(shop), "--out", str(tmp_path / "m"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_features_that_are_not_json_are_told(shop, tmp_path, capsys):
    (tmp_path / "features.json").write_text("{")
    chosen = ["--features", str(tmp_path / "features.json")]
    assert main(["train", "ranking", "dlrm", *files(shop), "--out", str(tmp_path / "m"), *chosen]) == 1
    assert "features.json is not JSON" in capsys.readouterr().err
