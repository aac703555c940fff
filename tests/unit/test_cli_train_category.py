"""The command line from simulated products to a report: simulate, train, classify, evaluate."""

from __future__ import annotations

import json

import pytest

from aitems_engine.cli import main


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "category", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "aitems train category --products shop/products.parquet --taxonomy shop/taxonomy.csv --out bundle" in shown


def test_a_missing_label_column_is_named(tmp_path, capsys):
    (tmp_path / "products.csv").write_text("product_id,title\n1,운동화\n")
    assert main(["train", "category", "--products", str(tmp_path / "products.csv"), "--out", str(tmp_path / "b")]) == 1
    assert "category" in capsys.readouterr().err


@pytest.mark.slow
def test_simulate_train_classify_evaluate(tmp_path, capsys):
    shop, bundle = tmp_path / "shop", tmp_path / "bundle"
    products, taxonomy = str(shop / "products.parquet"), str(shop / "taxonomy.csv")
    assert main(["simulate", "shop", "--products", "3000", "--leaves", "20", "--seed", "1", "--out", str(shop)]) == 0
    small = ["--gram-buckets", "8192", "--gram-dim", "32", "--title-filters", "16", "--vocab-size", "3000"]
    train = ["train", "category", "--products", products, "--taxonomy", taxonomy, "--out", str(bundle)]
    assert main([*train, *small, "--epochs", "5", "--threads", "1", "--device", "cpu", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "3000 products, 20 leaves" in shown
    assert "accuracy of what is answered" in shown
    page = (tmp_path / "bundle-report" / "report.html").read_text(encoding="utf-8")
    assert "Learning curve" in page

    out = tmp_path / "categories.jsonl"
    assert main(["classify", "--bundle", str(bundle), "--products", products, "--out", str(out)]) == 0
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 3000
    assert (
        main(["evaluate", "category", "--bundle", str(bundle), "--products", products, "--out", str(tmp_path / "r")])
        == 0
    )
    measured = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert measured["accuracy"] > 0.85
    assert measured["ece"] < 0.2
