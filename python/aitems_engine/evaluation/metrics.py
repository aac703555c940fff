"""Measures of a classifier: accuracy, calibration, coverage, and the uncertainty of a difference.

Labels are integers 0..num_classes-1 (positions of leaves); probabilities are rows over the classes. Slow twins are in
tests/reference/slow_metrics.py. Nothing here knows models or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError

IntVector = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


def _labels(truth: Any, predicted: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    a, b = np.asarray(truth), np.asarray(predicted)
    if a.ndim != 1 or a.shape != b.shape:
        raise InvalidInputError(f"truth and predictions must be vectors of one length, got {a.shape} and {b.shape}")
    if len(a) == 0:
        raise InvalidInputError("there is no row to measure")
    return a.astype(np.int64), b.astype(np.int64)


def accuracy(truth: IntVector, predicted: IntVector) -> float:
    """Return the share of rows whose prediction is the truth."""
    a, b = _labels(truth, predicted)
    return float(np.mean(a == b))


def top_k_accuracy(truth: IntVector, ranked: IntVector) -> float:
    """Return the share of rows whose truth is among the predicted; `ranked` has shape (num_rows, k)."""
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or len(ranked) != len(truth) or len(ranked) == 0:
        raise InvalidInputError(f"ranked must have shape ({len(truth)}, k), got {ranked.shape}")
    return float(np.mean((ranked == np.asarray(truth)[:, None]).any(axis=1)))


def top_k_accuracy_of_scores(truth: IntVector, scores: FloatArray, k: int) -> float:
    """Return the expected top-k accuracy when ties are broken at random.

    Notes
    -----
    A row whose truth shares its score with t - 1 others, with b better ones, counts clip((k - b) / t, 0, 1): a model
    that gives one score to all is then worth k / num_classes, not 1.
    """
    own = scores[np.arange(len(truth)), truth][:, None]
    better, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return float(np.mean(np.clip((k - better) / equal, 0.0, 1.0)))


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 and counts of every class; float64 and int64, shape (num_classes,)."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    support: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]


def class_scores(truth: IntVector, predicted: IntVector, num_classes: int) -> ClassScores:
    """Return the scores of each class; 0 where nothing was predicted (precision) or nothing is there (recall)."""
    a, b = _labels(truth, predicted)
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= num_classes:
        raise InvalidInputError(f"labels must be between 0 and {num_classes - 1}")
    support = np.bincount(a, minlength=num_classes)
    guesses = np.bincount(b, minlength=num_classes)
    hits = np.bincount(a[a == b], minlength=num_classes)
    return ClassScores(
        precision=hits / np.maximum(guesses, 1),
        recall=hits / np.maximum(support, 1),
        f1=2.0 * hits / np.maximum(support + guesses, 1),
        support=support,
        predicted=guesses,
    )


def macro_f1(truth: IntVector, predicted: IntVector, num_classes: int | None = None) -> float:
    """Return the mean F1 over the classes that appear in the truth or in the predictions (as scikit-learn takes it)."""
    a, b = _labels(truth, predicted)
    scores = class_scores(a, b, num_classes or int(max(a.max(), b.max())) + 1)
    present = (scores.support > 0) | (scores.predicted > 0)
    return float(np.mean(scores.f1[present]))


def negative_log_likelihood(truth: IntVector, probabilities: FloatArray) -> float:
    """Return the mean of -log p(truth); probabilities below 1e-12 count as 1e-12."""
    own = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(np.mean(-np.log(np.maximum(own, 1e-12))))


def brier_score(truth: IntVector, probabilities: FloatArray) -> float:
    """Return the mean over rows of the squared distance to the one-hot truth (0 best, 2 worst)."""
    p = probabilities.astype(np.float64)
    own = p[np.arange(len(truth)), truth]
    return float(np.mean((p**2).sum(axis=1) - 2.0 * own + 1.0))


@dataclass(frozen=True)
class ReliabilityBins:
    """Bins of equal mass, by rising confidence; float64 except `count` int64, shape (num_bins,)."""

    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by count."""
        return float(np.sum(self.count * np.abs(self.confidence - self.accuracy)) / np.sum(self.count))


def reliability_bins(confidence: FloatArray, correct: npt.NDArray[Any], num_bins: int = 15) -> ReliabilityBins:
    """Return bins of equal mass; rows of equal confidence stay together, so the order of rows does not matter.

    Notes
    -----
    With many ties there are fewer bins than asked for.
    """
    order = np.argsort(confidence, kind="stable")
    values, hits = np.asarray(confidence, dtype=np.float64)[order], np.asarray(correct, dtype=np.float64)[order]
    if len(values) == 0:
        raise InvalidInputError("there is no row to measure")
    edges = np.arange(1, num_bins) * len(values) // num_bins
    # a boundary inside a run of equal values moves to the start of the run
    edges = np.unique(np.searchsorted(values, values[edges], side="left"))
    starts = np.r_[0, edges[edges > 0]].astype(np.int64)
    count = np.diff(np.r_[starts, len(values)])
    return ReliabilityBins(np.add.reduceat(values, starts) / count, np.add.reduceat(hits, starts) / count, count)


def expected_calibration_error(confidence: FloatArray, correct: npt.NDArray[Any], num_bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal mass (see `reliability_bins`)."""
    return reliability_bins(confidence, correct, num_bins).error


@dataclass(frozen=True)
class CoverageCurve:
    """Accuracy of the rows kept when all below a threshold are left out; float64, by rising coverage."""

    threshold: npt.NDArray[np.float64]
    coverage: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """Mean accuracy over all coverages (area under the curve); higher is better."""
        widths = np.diff(np.r_[0.0, self.coverage])
        return float(np.sum(widths * self.accuracy))

    def accuracy_at(self, coverage: float) -> float:
        """Return the accuracy at the smallest coverage that is at least the given one."""
        return float(self.accuracy[min(int(np.searchsorted(self.coverage, coverage - 1e-12)), len(self.accuracy) - 1)])

    def coverage_at(self, accuracy: float) -> float:
        """Return the largest coverage whose accuracy is at least the given one, 0 where there is none."""
        good = np.flatnonzero(self.accuracy >= accuracy)
        return float(self.coverage[good[-1]]) if len(good) else 0.0


def coverage_curve(confidence: FloatArray, correct: npt.NDArray[Any]) -> CoverageCurve:
    """Return accuracy against coverage, one point a distinct confidence (equal ones are kept or left out together)."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    values, hits = np.asarray(confidence, dtype=np.float64)[order], np.asarray(correct, dtype=np.float64)[order]
    last = np.flatnonzero(np.r_[values[1:] != values[:-1], True])
    kept = last + 1
    return CoverageCurve(values[last], kept / len(values), np.cumsum(hits)[last] / kept)


@dataclass(frozen=True)
class HierarchicalScores:
    """Precision, recall and F1 over ancestors (Silla and Freitas 2011, section 4.6)."""

    precision: float
    recall: float
    f1: float


def hierarchical_scores(taxonomy: Taxonomy, truth_nodes: IntVector, predicted_nodes: IntVector) -> HierarchicalScores:
    """Return precision and recall over each node with its ancestors: a near miss counts for what it shares.

    Parameters
    ----------
    truth_nodes, predicted_nodes : int arrays, shape (num_rows,)
        Positions in `taxonomy.node_ids`; a prediction may be an inner node (hedged answer), and -1 is no answer.
    """
    a, b = _labels(truth_nodes, predicted_nodes)
    levels = taxonomy.depths().astype(np.int64) + 1
    shared = float(taxonomy.common_depth(a, b).sum())
    given = float(np.where(b >= 0, levels[b], 0).sum())
    wanted = float(np.where(a >= 0, levels[a], 0).sum())
    precision, recall = shared / max(given, 1.0), shared / max(wanted, 1.0)
    return HierarchicalScores(precision, recall, 2 * precision * recall / max(precision + recall, 1e-300))


@dataclass(frozen=True)
class PairedDifference:
    """First minus second model, with a percentile interval of the paired bootstrap."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired_bootstrap(
    truth: IntVector,
    first: IntVector,
    second: IntVector,
    *,
    measure: str = "accuracy",
    num_classes: int | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Return the difference of two models on the same rows with an interval (Efron and Tibshirani 1993, chapter 13).

    Parameters
    ----------
    measure : "accuracy" or "macro_f1"
    samples : int
        Resamples of the rows, drawn as multinomial weights: macro-F1 then costs three weighted counts a sample.

    Notes
    -----
    Cost O(samples * num_rows). Macro-F1 is taken over the classes present in truth or predictions of the full sample,
    so that a rare class that a resample misses counts 0 for both models.
    """
    a, b1 = _labels(truth, first)
    _, b2 = _labels(truth, second)
    n = len(a)
    rng = np.random.default_rng(seed)
    if measure == "accuracy":
        gain = (a == b1).astype(np.float64) - (a == b2)
        observed = float(gain.mean())
        # only how many rows gained, lost or tied matters
        kinds = rng.multinomial(n, [np.mean(gain > 0), np.mean(gain < 0), np.mean(gain == 0)], size=samples)
        draws = (kinds[:, 0] - kinds[:, 1]) / n
    elif measure == "macro_f1":
        classes = num_classes or int(max(a.max(), b1.max(), b2.max())) + 1
        observed = macro_f1(a, b1, classes) - macro_f1(a, b2, classes)
        draws = np.empty(samples)
        for s in range(samples):
            weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
            draws[s] = _weighted_macro_f1(a, b1, weights, classes) - _weighted_macro_f1(a, b2, weights, classes)
    else:
        raise InvalidInputError(f"measure must be 'accuracy' or 'macro_f1', got '{measure}'")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return PairedDifference(observed, float(low), float(high))


def _weighted_macro_f1(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], classes: int
) -> float:
    support = np.bincount(truth, weights, classes)
    guesses = np.bincount(predicted, weights, classes)
    hit = truth == predicted
    hits = np.bincount(truth[hit], weights[hit], classes)
    present = (np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)) > 0
    f1 = 2.0 * hits / np.maximum(support + guesses, 1e-300)
    return float(np.mean(f1[present]))
