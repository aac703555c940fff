"""Measures against their slow twins, and cases whose answer is known."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import slow_metrics

from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation import metrics

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)
# few distinct values, so that ties are common
confidences = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0]) | st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(pairs)
def test_accuracy_and_macro_f1(rows: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(x) for x in zip(*rows, strict=True))
    assert metrics.accuracy(truth, predicted) == pytest.approx(sum(a == b for a, b in rows) / len(rows))
    expected = slow_metrics.macro_f1(truth.tolist(), predicted.tolist())
    assert metrics.macro_f1(truth, predicted) == pytest.approx(expected)
    assert metrics.macro_f1(truth, predicted, 50) == pytest.approx(expected)


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**31))
def test_likelihood_and_brier(rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes) * 0.3, size=rows)
    truth = rng.integers(0, classes, rows)
    assert metrics.negative_log_likelihood(truth, p) == pytest.approx(slow_metrics.nll(truth.tolist(), p.tolist()))
    assert metrics.brier_score(truth, p) == pytest.approx(slow_metrics.brier(truth.tolist(), p.tolist()))


@given(confidences, st.integers(1, 20))
def test_calibration_error(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = (np.array(x) for x in zip(*rows, strict=True))
    expected = slow_metrics.ece(confidence.tolist(), correct.tolist(), bins)
    assert metrics.expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    again = metrics.expected_calibration_error(confidence[shuffled], correct[shuffled], bins)
    assert again == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    bins = metrics.reliability_bins(confidence, rng.random(200_000) < confidence)
    assert len(bins.count) == 15
    assert bins.count.min() >= 13_333
    assert bins.error < 0.01
    assert metrics.expected_calibration_error(np.ones(100), np.zeros(100)) == 1.0


@given(confidences)
def test_coverage(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(x) for x in zip(*rows, strict=True))
    curve = metrics.coverage_curve(confidence, correct)
    expected = slow_metrics.coverage_points(confidence.tolist(), correct.tolist())
    np.testing.assert_allclose(np.column_stack([curve.threshold, curve.coverage, curve.accuracy]), expected)
    assert curve.coverage[-1] == 1.0
    assert 0 <= curve.area <= 1 + 1e-12


def test_reading_the_coverage_curve() -> None:
    curve = metrics.coverage_curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False]))
    assert curve.accuracy_at(0.5) == 1.0
    assert curve.accuracy_at(0.6) == pytest.approx(2 / 3)
    assert curve.coverage_at(0.9) == 0.5
    assert metrics.coverage_curve(np.array([0.5]), np.array([False])).coverage_at(0.9) == 0.0


def test_ties_are_counted_fairly() -> None:
    scores = np.zeros((1, 10))
    assert metrics.top_k_accuracy_of_scores(np.array([3]), scores, 1) == pytest.approx(0.1)
    assert metrics.top_k_accuracy_of_scores(np.array([3]), scores, 5) == pytest.approx(0.5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 8), st.data())
def test_expected_top_k(scores: list[int], k: int, data: st.DataObject) -> None:
    truth = data.draw(st.integers(0, len(scores) - 1))
    ours = metrics.top_k_accuracy_of_scores(np.array([truth]), np.array([scores], float), k)
    assert ours == pytest.approx(slow_metrics.expected_top_k(truth, scores, k))


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_hierarchical(nodes: int, seed: int) -> None:
    rng = random.Random(seed)
    rows = [f"n{i},{f'n{rng.randrange(i)}' if i and rng.random() > 0.2 else ''},name{i}" for i in range(nodes)]
    t = Taxonomy.from_csv("category_id,parent_id,name\n" + "\n".join(rows))
    truth = [rng.choice(t.node_ids) for _ in range(20)]
    predicted = [rng.choice([*t.node_ids, None]) for _ in range(20)]
    ours = metrics.hierarchical_scores(
        t, t.positions(truth), np.array([-1 if p is None else t.position(p) for p in predicted])
    )
    assert (ours.precision, ours.recall) == pytest.approx(slow_metrics.hierarchical(t, truth, predicted))


def test_bootstrap_of_accuracy_equals_resampling_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 400)
    first = np.where(rng.random(400) < 0.8, truth, 0)
    second = np.where(rng.random(400) < 0.7, truth, 0)
    ours = metrics.paired_bootstrap(truth, first, second, samples=20_000)
    gain = (first == truth).astype(float) - (second == truth)
    draws = [gain[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert ours.difference == pytest.approx(gain.mean())
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(draws, [0.025, 0.975]), atol=0.006)
    assert str(ours).startswith("+0.")


def test_bootstrap_of_macro_f1() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 300)
    first = np.where(rng.random(300) < 0.9, truth, 4 - truth)
    ours = metrics.paired_bootstrap(truth, first, first, measure="macro_f1", samples=50)
    assert (ours.difference, ours.low, ours.high) == (0, 0, 0)
    worse = np.where(rng.random(300) < 0.5, truth, 4 - truth)
    ours = metrics.paired_bootstrap(truth, first, worse, measure="macro_f1", samples=300)
    assert ours.low > 0
    assert ours.low < ours.difference < ours.high
    assert ours.difference == pytest.approx(metrics.macro_f1(truth, first) - metrics.macro_f1(truth, worse))


def test_wrong_inputs() -> None:
    with pytest.raises(InvalidInputError, match="vectors of one length"):
        metrics.accuracy(np.zeros(2), np.zeros(3))
    with pytest.raises(InvalidInputError, match="no row to measure"):
        metrics.accuracy(np.zeros(0), np.zeros(0))
    with pytest.raises(InvalidInputError, match="labels must be between 0 and 2"):
        metrics.class_scores(np.array([3]), np.array([0]), 3)
    with pytest.raises(InvalidInputError, match="measure must be"):
        metrics.paired_bootstrap(np.zeros(1), np.zeros(1), np.zeros(1), measure="auc")


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed: int) -> None:
    measures = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(7) * 0.5, size=500)
    truth, predicted = rng.integers(0, 7, 500), p.argmax(axis=1)
    assert metrics.accuracy(truth, predicted) == pytest.approx(measures.accuracy_score(truth, predicted))
    assert metrics.macro_f1(truth, predicted) == pytest.approx(measures.f1_score(truth, predicted, average="macro"))
    assert metrics.negative_log_likelihood(truth, p) == pytest.approx(measures.log_loss(truth, p, labels=range(7)))
    ranked = np.argsort(-p, axis=1)[:, :3]
    expected = measures.top_k_accuracy_score(truth, p, k=3, labels=range(7))
    assert metrics.top_k_accuracy(truth, ranked) == pytest.approx(expected)
    scores = metrics.class_scores(truth, predicted, 7)
    precision, recall, f1, support = measures.precision_recall_fscore_support(truth, predicted, labels=range(7))
    for ours, theirs in ((scores.precision, precision), (scores.recall, recall), (scores.f1, f1)):
        np.testing.assert_allclose(ours, theirs)
    assert scores.support.tolist() == support.tolist()
