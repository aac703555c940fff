"""AUC, gAUC and log loss against slow twins and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import slow_binary as slow

from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation.binary import auc, bootstrap_auc, bootstrap_grouped_auc, group_aucs, grouped_auc, log_loss
from aitems_engine.evaluation.metrics import expected_calibration_error

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 0.25]), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


@given(ROWS)
def test_equal_their_slow_twins_with_ties_and_shares(rows):
    labels, scores, groups = (np.array(x) for x in zip(*rows, strict=True))
    assert auc(labels, scores) == pytest.approx(slow.auc(labels, scores), abs=1e-12, nan_ok=True)
    assert grouped_auc(labels, scores, groups) == pytest.approx(
        slow.grouped_auc(labels.tolist(), scores.tolist(), groups.tolist()), abs=1e-12, nan_ok=True
    )


def test_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for decimals in (1, 9):
        p = np.round(rng.uniform(0.01, 0.99, 3000), decimals).clip(0.01, 0.99)
        y = (rng.random(3000) < p).astype(float)
        assert auc(y, p) == pytest.approx(sklearn.roc_auc_score(y, p), abs=1e-12)
        assert log_loss(y, p) == pytest.approx(sklearn.log_loss(y, p), abs=1e-9)
        users = rng.integers(0, 100, 3000)
        values, sizes, names = group_aucs(y, p, users)
        for value, size, user in zip(values, sizes, names, strict=True):
            mine = users == user
            assert size == mine.sum()
            assert value == pytest.approx(sklearn.roc_auc_score(y[mine], p[mine]), abs=1e-12)


def test_calibration_error_has_bins_of_equal_mass():
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(1)
    p = rng.random(1500)
    y = (rng.random(1500) < p**2).astype(float)
    rate, mean = calibration.calibration_curve(y, p, n_bins=15, strategy="quantile")
    assert expected_calibration_error(p, y) == pytest.approx(np.abs(rate - mean).mean(), abs=2e-3)


def test_shares_count_as_many_draws_would():
    rng = np.random.default_rng(2)
    p, s = rng.random(200), rng.random(200)
    drawn = [auc((rng.random(200) < p).astype(float), s) for _ in range(400)]
    assert auc(p, s) == pytest.approx(np.mean(drawn), abs=0.01)


def test_intervals_hold_the_value_and_shrink_with_groups():
    rng = np.random.default_rng(3)
    widths = []
    for users in (30, 3000):
        groups = np.repeat(np.arange(users), 10)
        p = rng.random(len(groups))
        y = (rng.random(len(groups)) < p).astype(float)
        for value, low, high in (bootstrap_auc(y, p, groups, samples=50), bootstrap_grouped_auc(y, p, groups)):
            assert low < value < high
            widths.append(high - low)
    assert widths[2] < widths[0] / 3
    assert widths[3] < widths[1] / 3


def test_one_kind_only_has_no_auc():
    assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert np.isnan(grouped_auc([1, 0], [0.1, 0.2], np.array([0, 1])))
    assert np.isnan(bootstrap_grouped_auc([1, 0], [0.1, 0.2], np.array([0, 1]))[0])


@pytest.mark.parametrize(("labels", "scores"), [([], []), ([1, 0], [0.5]), ([2, 0], [0.1, 0.2]), ([1, 0], [np.nan, 0])])
def test_bad_input_is_refused(labels, scores):
    with pytest.raises(InvalidInputError, match=r"labels and scores must be vectors|labels must be from 0 to 1"):
        auc(labels, scores)
