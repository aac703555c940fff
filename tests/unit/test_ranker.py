"""The ranker in serving: logits to probabilities, the parts of a bundle, and mixtures that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.test_features import make_features, make_query

from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.errors import BundleError, InvalidInputError, ModelMismatchError
from aitems_engine.ranking import FeatureBatch, FeatureSet, FieldSpec, Ranker, open_ranker, ranker_parts
from aitems_engine.ranking.calibration import Calibration, RankerCalibration, sigmoid, straight

pytestmark = pytest.mark.native


def linear(dense: int, codes: int, weights: np.ndarray) -> bytes:
    """Return the network ``dense @ weights``; codes count as often as they do not."""
    nodes = [
        helper.make_node("MatMul", ["dense", "weights"], ["product"]),
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", ["product", "nothing"], ["logits"]),
    ]
    constants = {"weights": weights.astype(np.float32), "axis": np.array([1]), "zero": np.zeros(1, np.float32)}
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("codes", TensorProto.INT32, ["n", codes]),
            helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["n", dense]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def network(features: FeatureSet, outputs: int = 2) -> bytes:
    spec = features.spec
    weights = np.random.default_rng(1).normal(size=(spec.dense, outputs))
    return linear(spec.dense, len(spec.cardinalities), weights)


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return make_features(np.random.default_rng(0))


def test_probabilities(features: FeatureSet) -> None:
    batch = features.gather(make_query(np.random.default_rng(1), 30, 20, training=False))
    ranker = Ranker(network(features), features.spec)
    predictions = ranker.predict(batch)
    weights = np.random.default_rng(1).normal(size=(features.spec.dense, 2)).astype(np.float32)
    want = 1 / (1 + np.exp(-(batch.dense.astype(np.float64) @ weights)))
    np.testing.assert_allclose(predictions.pctr, want[:, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(predictions.pcvr, want[:, 1], rtol=1e-5, atol=1e-7)
    assert (predictions.pctcvr <= predictions.pctr).all()
    part = predictions.rows(2, 5)
    assert len(part) == 3
    np.testing.assert_array_equal(part.pctr, predictions.pctr[2:5])


def test_probabilities_are_calibrated_by_segment(features: FeatureSet, tmp_path: Path) -> None:
    batch = features.gather(make_query(np.random.default_rng(1), 30, 20, training=False))
    segment = features.spec.code_names[0]
    codes = batch.codes[:, 0]
    own = int(codes[0])
    calibration = RankerCalibration(
        Calibration(straight(0.5), {own: straight(1.0, 2.0)}), Calibration(straight(1.0, -1.0)), segment
    )
    model = network(features)
    ranker = Ranker(model, features.spec, calibration)
    logits = ranker.logits(batch).astype(np.float64)
    want = sigmoid(np.where(codes == own, logits[:, 0] + 2, 0.5 * logits[:, 0]))
    predictions = ranker.predict(batch)
    np.testing.assert_allclose(predictions.pctr, want, rtol=1e-6)
    np.testing.assert_allclose(predictions.pcvr, sigmoid(logits[:, 1] - 1), rtol=1e-6)
    write_bundle(tmp_path / "b", ranker_parts(features, model, calibration=calibration))
    _, again = open_ranker(Bundle.open(tmp_path / "b"), features.items)
    np.testing.assert_array_equal(again.predict(batch).pctr, predictions.pctr)
    with pytest.raises(InvalidInputError, match="by 'weather', which is none of the features"):
        Ranker(model, features.spec, RankerCalibration(segment="weather"))


def test_a_network_of_clicks_alone(features: FeatureSet) -> None:
    batch = features.gather(make_query(np.random.default_rng(1), 30, 20, training=False))
    predictions = Ranker(network(features, 1), features.spec).predict(batch)
    assert (predictions.pcvr == 1).all()


def test_extreme_logits() -> None:
    spec = FieldSpec((2,), 1)
    ranker = Ranker(linear(1, 1, np.array([[1e30]])), spec)
    dense = np.array([[1e30], [-1e30], [np.nan], [0.0], [-1e-29]], np.float32)
    predictions = ranker.predict(FeatureBatch(np.zeros((5, 1), np.int32), dense))
    np.testing.assert_allclose(predictions.pctr, [1, 0, 0, 0.5, 1 / (1 + np.exp(10))], rtol=1e-5)


def test_no_rows(features: FeatureSet) -> None:
    spec = features.spec
    empty = FeatureBatch(np.zeros((0, len(spec.cardinalities)), np.int32), np.zeros((0, spec.dense), np.float32))
    assert len(Ranker(network(features), spec).predict(empty)) == 0


def test_another_graph(features: FeatureSet) -> None:
    with pytest.raises(InvalidInputError, match="not a ranker for these features"):
        Ranker(linear(3, 2, np.ones((3, 1))), features.spec)
    with pytest.raises(InvalidInputError, match="logits must have 1 or 2"):
        Ranker(linear(3, 2, np.ones((3, 3))), FieldSpec((2, 2), 3))
    with pytest.raises(InvalidInputError, match="cannot load"):
        Ranker(b"nonsense", features.spec)
    with pytest.raises(InvalidInputError, match="the ranker reads"):
        Ranker(linear(3, 2, np.ones((3, 1))), FieldSpec((2, 2), 3)).logits(
            FeatureBatch(np.zeros((1, 2), np.int32), np.zeros((1, 4), np.float32))
        )


def test_bundle_round_trip(features: FeatureSet, tmp_path: Path) -> None:
    model = network(features)
    write_bundle(tmp_path / "b", ranker_parts(features, model, facts={"auc": 0.7}))
    newer = features.items.over([*reversed(features.items.item_ids), "new"])
    other, ranker = open_ranker(Bundle.open(tmp_path / "b"), newer)
    assert other.digest == features.digest
    np.testing.assert_array_equal(other.counts[:-1], features.counts[::-1])
    query = make_query(np.random.default_rng(3), 30, 20, training=False)
    same, _ = open_ranker(Bundle.open(tmp_path / "b"), features.items)
    first, again = features.gather(query), same.gather(query)
    np.testing.assert_array_equal(first.codes, again.codes)
    np.testing.assert_array_equal(first.dense, again.dense)
    np.testing.assert_array_equal(Ranker(model, features.spec).predict(first).pctr, ranker.predict(again).pctr)


def test_mixtures_are_refused(features: FeatureSet, tmp_path: Path) -> None:
    parts = ranker_parts(features, network(features))
    others = make_features(np.random.default_rng(9))
    foreign = ranker_parts(others, network(others, 1))
    for part in ("features.json", "ranker.onnx"):
        write_bundle(tmp_path / part, {**parts, part: foreign[part]})
        with pytest.raises(ModelMismatchError, match=f"'{part}' is .*'ranker.json' belongs to"):
            open_ranker(Bundle.open(tmp_path / part), features.items)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("ranker.json", "{}"),
        ("features.json", "{}"),
        ("counted_items.json", "[]"),
        ("counted_items.json", "{"),
        ("item_counts.safetensors", b"xx"),
    ],
)
def test_damaged_parts(features: FeatureSet, tmp_path: Path, part: str, value: str | bytes) -> None:
    write_bundle(tmp_path / "b", {**ranker_parts(features, network(features)), part: value})
    with pytest.raises(BundleError, match="do not fit together"):
        open_ranker(Bundle.open(tmp_path / "b"), features.items)


def test_head_says_what_belongs_together(features: FeatureSet) -> None:
    head = json.loads(str(ranker_parts(features, network(features))["ranker.json"]))
    assert head["features"] == features.digest
    counted = features.with_counts(np.zeros_like(features.counts))
    assert counted.digest == features.digest
