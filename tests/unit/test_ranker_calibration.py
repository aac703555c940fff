"""Calibration of rankers: it repairs what is wrong, keeps the order, and survives files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.evaluation.binary import auc, log_loss
from aitems_engine.evaluation.metrics import expected_calibration_error
from aitems_engine.ranking import Examples, FieldSpec
from aitems_engine.ranking.calibration import Calibration, CalibrationTable, RankerCalibration, sigmoid, straight
from aitems_engine.training.ranker_calibration import calibrate_ranker, fit_calibration

FITTED = ("platt", "isotonic")


def drawn(n=20_000, seed=0, bend=lambda x: 2 * x + 1):
    """Return logits as a ranker gives them, labels, and the true probabilities: the ranker says `bend` of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.2, n)
    p = sigmoid(truth)
    return bend(truth), (rng.random(n) < p).astype(float), p


@pytest.mark.parametrize("method", FITTED)
def test_repairs_a_stretched_and_shifted_ranker_at_equal_auc(method):
    calibration = fit_calibration(*drawn()[:2], method=method)
    logits, labels, truth = drawn(seed=1)
    p = calibration.probabilities(logits)
    assert expected_calibration_error(sigmoid(logits), labels) > 0.05
    assert expected_calibration_error(p, labels) < 0.015
    assert np.abs(p - truth).mean() < 0.02
    assert auc(labels, p) == pytest.approx(auc(labels, logits), abs=1e-6)
    assert p.dtype == np.float32


def test_isotonic_bends_where_a_line_cannot():
    def bend(x):
        return np.where(x > -1, 0.3 * (x + 1) - 1, 3 * (x + 1) - 1)

    logits, labels, truth = drawn(60_000, 1, bend)
    line, curve = (
        fit_calibration(*drawn(60_000, 0, bend)[:2], method=method).probabilities(logits) for method in FITTED
    )
    assert np.abs(curve - truth).mean() < 0.3 * np.abs(line - truth).mean()
    assert auc(labels, curve) == pytest.approx(auc(labels, logits), abs=1e-6)


def test_platt_equals_logistic_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    logits, labels, _ = drawn(3000)
    peer = linear.LogisticRegression(C=1e9, tol=1e-8).fit(logits[:, None], labels)
    want = peer.predict_proba(logits[:, None])[:, 1]
    assert np.abs(fit_calibration(logits, labels).probabilities(logits) - want).max() < 1e-3


def test_isotonic_is_close_to_that_of_scikit_learn():
    isotonic = pytest.importorskip("sklearn.isotonic")
    logits, labels, _ = drawn(20_000)
    want = isotonic.IsotonicRegression().fit(logits, labels).predict(logits)
    got = fit_calibration(logits, labels, method="isotonic").probabilities(logits)
    assert np.abs(got - want).mean() < 0.015


@given(st.integers(0, 10_000), st.integers(2, 1500), st.sampled_from(FITTED), st.integers(0, 3))
@settings(max_examples=40)
def test_rises_strictly_whatever_the_rows(seed, n, method, decimals):
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=n) * 5, decimals)
    labels = (rng.random(n) < rng.random()).astype(float)
    labels[:2] = 0, 1
    calibration = fit_calibration(logits, labels, method=method)
    x = np.sort(np.r_[logits, rng.normal(size=50) * 20])
    assert (np.diff(calibration.default(x))[np.diff(x) > 0] > 0).all()
    p = calibration.probabilities(x)
    assert ((p >= 0) & (p <= 1)).all()


def test_segments_have_their_own_table_where_they_are_large():
    sizes = (6000, 6000, 50)
    parts = [drawn(n, i, lambda x, i=i: x + 2 * i) for i, n in enumerate(sizes)]
    logits, labels, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    segments = np.repeat([7, 8, 9], sizes)
    calibration = fit_calibration(logits, labels, segments)
    assert sorted(calibration.by_segment) == [7, 8]
    p = calibration.probabilities(logits, segments)
    large = segments < 9
    assert np.abs(p - truth)[large].mean() < 0.02
    assert np.array_equal(p[~large], calibration.probabilities(logits)[~large])
    unknown = calibration.probabilities(logits, np.full(len(logits), 123))
    assert np.array_equal(unknown, calibration.probabilities(logits))
    for segment in (7, 8):
        mine = segments == segment
        assert auc(labels[mine], p[mine]) == pytest.approx(auc(labels[mine], logits[mine]), abs=1e-6)


def test_a_segment_of_one_label_falls_back():
    logits, labels, _ = drawn(9000)
    segments = np.where(np.arange(9000) < 3000, 1, 2)
    labels[:3000] = 0
    assert sorted(fit_calibration(logits, labels, segments).by_segment) == [2]


@pytest.mark.parametrize("method", ["none", *FITTED])
def test_sampled_negatives_are_put_back(method):
    logits, labels, truth = drawn(200_000, bend=lambda x: x - np.log(0.1))  # what a ranker trained on a tenth says
    kept = (labels == 1) | (np.random.default_rng(5).random(len(labels)) < 0.1)
    calibration = fit_calibration(logits[kept], labels[kept], method=method, negatives_kept=0.1)
    p = calibration.probabilities(logits)
    assert p.mean() == pytest.approx(truth.mean(), rel=0.03)
    assert np.abs(p - truth).mean() < 0.015


@pytest.mark.parametrize("method", FITTED)
def test_conversions_are_calibrated_over_all_impressions(method):
    """Clicks and conversions share a cause: of clicked rows the calibration would be too high."""
    rng = np.random.default_rng(3)
    n = 300_000
    cause = rng.normal(size=n)
    pctr, pcvr = sigmoid(cause - 1.5), sigmoid(cause - 1)
    click = rng.random(n) < pctr
    bought = (click & (rng.random(n) < pcvr)).astype(float)
    calibration = fit_calibration(0.5 * cause + 1, bought, method=method, ceiling=pctr)
    p = calibration.probabilities(0.5 * cause + 1)
    assert p.sum() == pytest.approx(pcvr.sum(), rel=0.02)
    assert (pctr * p).sum() == pytest.approx(bought.sum(), rel=0.01)
    assert log_loss(bought, pctr * p) < log_loss(bought, pctr * sigmoid(0.5 * cause + 1))


@pytest.mark.parametrize("kept", [1.0, 0.2])
def test_a_ranker_is_calibrated_as_a_whole(kept):
    """Clicks by placement, conversions over all impressions; rows without a click may have been thinned out."""
    rng = np.random.default_rng(4)
    n = 200_000
    cause, placement = rng.normal(size=n), rng.integers(1, 3, n)
    pctr, pcvr = sigmoid(cause - placement), sigmoid(cause - 1)
    click = rng.random(n) < pctr
    bought = click & (rng.random(n) < pcvr)
    known = ~click | bought | (np.arange(n) < 0.9 * n)
    examples = Examples(
        placement[:, None].astype(np.int32),
        np.zeros((n, 0), np.float32),
        click.astype(np.float32),
        bought.astype(np.float32),
        np.arange(n),
        np.arange(n),
        known,
    )
    logits = np.stack([2 * cause + 1, 0.5 * cause], 1).astype(np.float32)
    drawn_rows = click | (rng.random(n) < kept)
    fields = FieldSpec((3,), 0, ("context.placement",))
    calibration = calibrate_ranker(
        logits[drawn_rows], examples.take(drawn_rows), fields, segment="context.placement", negatives_kept=kept
    )
    clicks = calibration.click.probabilities(logits[:, 0], placement)
    conversions = calibration.purchase.probabilities(logits[:, 1], placement)
    for where in (1, 2):
        mine = placement == where
        assert clicks[mine].sum() == pytest.approx(pctr[mine].sum(), rel=0.02)
        assert conversions[mine].sum() == pytest.approx(pcvr[mine].sum(), rel=0.06)
    again = RankerCalibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert np.array_equal(again.click.probabilities(logits[:, 0], placement), clicks)
    with pytest.raises(InvalidInputError, match=r"segment must be one of context\.placement, got 'hour'"):
        calibrate_ranker(logits, examples, fields, segment="hour")


def test_survives_json_exactly():
    logits, labels, _ = drawn(9000)
    segments = np.arange(9000) % 2
    calibration = fit_calibration(logits, labels, segments, method="isotonic")
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert np.array_equal(again.probabilities(logits, segments), calibration.probabilities(logits, segments))


@pytest.mark.parametrize("knots", [1, 2, 3, 50])
def test_probabilities_equal_the_slow_way(knots):
    rng = np.random.default_rng(knots)
    table = CalibrationTable(*(np.cumsum(rng.exponential(size=(2, knots)) + 1e-3, axis=1) - knots / 2))
    logits = np.concatenate([rng.normal(size=500) * knots, table.given, [np.nan, np.inf, -np.inf, 1e30, 0.0, -0.0]])
    with np.errstate(invalid="ignore"):
        want = sigmoid(table(logits))
    np.testing.assert_allclose(table.probabilities(logits), want, rtol=1e-6, atol=1e-40)
    both = np.stack([logits, logits], 1).astype(np.float32)
    np.testing.assert_array_equal(table.probabilities(both[:, 1]), table.probabilities(both[:, 1].copy()))
    assert len(table.probabilities(logits[:0])) == 0


def test_without_tables_a_logit_is_what_it_says():
    assert Calibration().probabilities(np.array([0.0, np.nan, 1e9, -1e9])).tolist()[:1] == [0.5]
    p = Calibration().probabilities(np.array([0.3, np.nan, 1e9, -1e9]))
    assert p[0] == pytest.approx(sigmoid(np.array([0.3]))[0])
    assert np.isnan(p[1])
    assert p[2:].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"default": {"given": [1.0], "calibrated": [1.0]}},
        {"default": {"given": [1.0, 1.0], "calibrated": [1.0, 2.0]}, "by_segment": {}},
        {"default": {"given": [0.0, 1.0], "calibrated": [2.0, 1.0]}, "by_segment": {}},
        {"default": {"given": [], "calibrated": []}, "by_segment": {}},
        {"default": {"given": [0.0], "calibrated": [float("nan")]}, "by_segment": {}},
        {"default": {"given": ["a"], "calibrated": [1.0]}, "by_segment": {}},
        {"default": {"given": [0.0], "calibrated": [1.0]}, "by_segment": {"x": {"given": [0.0], "calibrated": [1.0]}}},
    ],
)
def test_damaged_tables_are_refused(values):
    with pytest.raises(DataError, match="calibration"):
        Calibration.from_json(values)
    with pytest.raises(DataError, match="calibration"):
        RankerCalibration.from_json({"click": values, "purchase": values, "segment": ""})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.ones(5)}, "rows of both labels, got 5 of 5"),
        ({"labels": np.ones(4)}, "vectors of one length"),
        ({"logits": np.full(5, np.nan)}, "logits finite"),
        ({"method": "spline"}, "must be one of isotonic, platt, none"),
        ({"negatives_kept": 0.0}, "negatives_kept above 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    values = {"logits": np.arange(5.0), "labels": np.array([0.0, 1, 0, 1, 1])} | change
    with pytest.raises(InvalidInputError, match=message):
        fit_calibration(**values)


def test_segments_need_one_value_a_row():
    with pytest.raises(InvalidInputError, match="one segment for each"):
        Calibration(CalibrationTable(np.zeros(1), np.zeros(1)), {1: straight()}).probabilities(
            np.zeros(3), np.zeros(2, int)
        )
