"""What is decided after training, on validation rows: prior strength, temperature, abstention thresholds. NumPy only.

Temperature scaling: Guo et al. 2017. Re-applied prior: logits learnt under logit adjustment are balanced over leaves
(Menon et al. 2021); adding strength * log prior trades macro-F1 against accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.evaluation import metrics

FloatArray = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.int64]

STRENGTHS = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
MIN_THRESHOLD_ROWS = 50


@dataclass(frozen=True)
class Thresholds:
    """Lowest probability of the best leaf at which an answer is given, in general and by top category."""

    default: float
    by_top: dict[str, float]


def softmax(logits: npt.NDArray[np.floating]) -> FloatArray:
    """Return row-wise softmax in float64."""
    values = np.asarray(logits, np.float64)
    values = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(values / values.sum(1, keepdims=True))


def choose_prior_strength(
    logits: npt.NDArray[np.floating], labels: LabelArray, log_prior: FloatArray, adjustment: float
) -> float:
    """Return how much of the log prior is added to the logits again.

    Parameters
    ----------
    logits : float array, shape (n, leaves)
        Of validation rows, learnt with `adjustment` * log prior added in the loss.
    labels : int64 array, shape (n,)
        Their leaves.
    log_prior : float array, shape (leaves,)
        Of the training rows.
    adjustment : float
        Strength used in training; candidates are multiples of it.

    Returns
    -------
    float
        The candidate with the highest accuracy + macro-F1; ties: the one nearest to `adjustment`.
    """
    if adjustment == 0 or len(labels) == 0:
        return adjustment
    scores = {}
    for factor in STRENGTHS:
        predicted = (logits + factor * adjustment * log_prior).argmax(1)
        scores[factor] = float((predicted == labels).mean()) + metrics.macro_f1(labels, predicted, logits.shape[1])
    best = max(scores.values())
    return adjustment * min((f for f, s in scores.items() if s >= best - 1e-9), key=lambda f: abs(f - 1))


def negative_log_likelihood(logits: npt.NDArray[np.floating], labels: LabelArray) -> float:
    """Return the mean of -log softmax(logits)[label]."""
    values = np.asarray(logits, np.float64)
    top = values.max(1)
    log_sum = top + np.log(np.exp(values - top[:, None]).sum(1))
    return float(np.mean(log_sum - values[np.arange(len(labels)), labels]))


def fit_temperature(logits: npt.NDArray[np.floating], labels: LabelArray) -> float:
    """Return the temperature in [0.1, 10] with the lowest negative log-likelihood (golden section on its logarithm)."""
    if len(labels) == 0:
        return 1.0
    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(0.1), np.log(10.0)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = (negative_log_likelihood(logits / np.exp(x), labels) for x in (left, right))
    for _ in range(30):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = negative_log_likelihood(logits / np.exp(left), labels)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = negative_log_likelihood(logits / np.exp(right), labels)
    return float(np.exp((low + high) / 2))


def lowest_threshold(confidence: FloatArray, correct: npt.NDArray[np.bool_], target: float) -> float:
    """Return the lowest confidence at which the rows at or above it reach the target accuracy.

    0 where all rows together do; 1 where no threshold does (then everything below certainty is abstained).
    """
    if len(confidence) == 0 or correct.mean() >= target:
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    # equal confidences are accepted together: only the last row of each value can be a threshold
    ranked = confidence[order]
    last = np.r_[ranked[1:] != ranked[:-1], True]
    reached = np.flatnonzero(last & (accuracy >= target))
    return float(ranked[reached[-1]]) if len(reached) else 1.0


def choose_thresholds(
    probabilities: npt.NDArray[np.floating], labels: LabelArray, tops: Sequence[str], target: float
) -> Thresholds:
    """Return abstention thresholds that reach a target accuracy on validation rows.

    Parameters
    ----------
    probabilities : float array, shape (n, leaves)
        Of validation rows.
    labels : int64 array, shape (n,)
        Their leaves.
    tops : sequence of str
        Top category of each leaf; a threshold belongs to the top category of the predicted leaf.
    target : float in (0, 1]
        Accuracy of the answered rows, in general and within each top category.

    Notes
    -----
    Top categories with fewer than 50 validation rows predicted into them use the general threshold.
    """
    if len(labels) == 0:
        return Thresholds(0.0, {})
    predicted = probabilities.argmax(1)
    confidence = np.asarray(probabilities.max(1), np.float64)
    correct = predicted == labels
    default = lowest_threshold(confidence, correct, target)
    by_top = {}
    owner = np.asarray(tops, dtype=object)[predicted]
    for top in sorted(set(tops)):
        mine = owner == top
        if mine.sum() >= MIN_THRESHOLD_ROWS:
            by_top[top] = lowest_threshold(confidence[mine], correct[mine], target)
    return Thresholds(default, by_top)
