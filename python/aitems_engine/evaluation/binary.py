"""Measures of predicted probabilities of a click or a purchase: AUC, AUC within users, log loss.

For calibration see `metrics.reliability_bins` and `metrics.expected_calibration_error`. Labels may be shares between 0
and 1: a row of label .3 counts .3 as positive and .7 as negative, so that estimates can be held against the true
probabilities of a simulation. Slow twins are in tests/reference/slow_binary.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError

FloatVector = npt.NDArray[np.float64]
_SMALLEST = 1e-12


def _checked(labels: npt.ArrayLike, values: npt.ArrayLike) -> tuple[FloatVector, FloatVector]:
    y, s = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    if y.ndim != 1 or y.shape != s.shape or len(y) == 0:
        raise InvalidInputError(f"labels and scores must be vectors of one length, not empty, got {y.shape}, {s.shape}")
    if not (y.min() >= 0 and y.max() <= 1) or np.isnan(s).any():
        raise InvalidInputError("labels must be from 0 to 1 and scores no NaN")
    return y, s


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood; probabilities are kept 1e-12 away from 0 and 1."""
    y, p = _checked(labels, probabilities)
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the share of pairs of a positive and a negative row that stand in the right order; ties count half.

    Returns
    -------
    float
        NaN where one of the two kinds is missing.
    """
    return float(group_aucs(labels, scores, np.zeros(np.shape(np.asarray(labels)), np.int64))[0][0])


def group_aucs(
    labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.NDArray[np.integer[Any]]
) -> tuple[FloatVector, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the AUC within each group.

    Returns
    -------
    aucs : float64 array, shape (num_groups,)
        NaN where a group has only positive or only negative rows.
    rows : int64 array, shape (num_groups,)
        Size of each group.
    groups : int64 array, shape (num_groups,)
        Their numbers, ascending.
    """
    y, s = _checked(labels, scores)
    if groups.shape != y.shape:
        raise InvalidInputError(f"there must be one group for each of {len(y)} rows, got {groups.shape}")
    names, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((s, group))
    y, s, group = y[order], s[order], group[order]
    # runs of one group and one score
    new = np.r_[True, (s[1:] != s[:-1]) | (group[1:] != group[:-1])]
    starts = np.flatnonzero(new)
    positive, negative = np.add.reduceat(y, starts), np.add.reduceat(1 - y, starts)
    owner = group[starts]
    positives, negatives = (np.bincount(owner, x, len(names)) for x in (positive, negative))
    # negatives of the same group below each run
    before = np.cumsum(negative) - negative
    first = np.searchsorted(owner, np.arange(len(names)))
    won = np.bincount(owner, positive * (before - before[first][owner] + 0.5 * negative), len(names))
    pairs = positives * negatives
    aucs = np.divide(won, pairs, out=np.full(len(names), np.nan), where=pairs > 0)
    return aucs, np.bincount(group, minlength=len(names)), names.astype(np.int64)


def grouped_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.NDArray[np.integer[Any]]) -> float:
    """Return gAUC: the mean of the groups' AUCs weighted by rows, of the groups that have one (Zhu et al. 2017)."""
    return _weighted(*group_aucs(labels, scores, groups)[:2])


def bootstrap_grouped_auc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.NDArray[np.integer[Any]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return gAUC with its 95 % bootstrap interval over groups."""
    aucs, rows, _ = group_aucs(labels, scores, groups)
    aucs, rows = aucs[~np.isnan(aucs)], rows[~np.isnan(aucs)]
    if len(aucs) == 0:
        return np.nan, np.nan, np.nan
    draws = np.random.default_rng(seed).multinomial(len(aucs), np.full(len(aucs), 1 / len(aucs)), size=samples)
    low, high = np.quantile((draws @ (aucs * rows)) / (draws @ rows), [0.025, 0.975])
    return _weighted(aucs, rows), float(low), float(high)


def bootstrap_auc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.NDArray[np.integer[Any]],
    *,
    samples: int = 200,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return AUC with its 95 % bootstrap interval; groups (users) are drawn whole, since their rows are alike."""
    y, s = _checked(labels, scores)
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        drawn = rng.integers(0, len(starts), len(starts))
        # positions of the drawn groups' rows, one group after another
        lengths = sizes[drawn]
        offsets = np.repeat(starts[drawn] - (np.cumsum(lengths) - lengths), lengths)
        rows = order[np.arange(lengths.sum()) + offsets]
        found.append(auc(y[rows], s[rows]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return auc(y, s), float(low), float(high)


def _weighted(aucs: FloatVector, rows: npt.NDArray[np.int64]) -> float:
    known = ~np.isnan(aucs)
    return float(np.average(aucs[known], weights=rows[known])) if known.any() else float("nan")
