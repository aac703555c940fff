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

STRENGTHS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
# rows x leaves of one component that calibration looks at; more are left out at random
MAX_CELLS = 20_000_000
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


def fit_weights(components: Sequence[npt.NDArray[np.floating]], labels: LabelArray) -> FloatArray:
    """Return the factors w >= 0 whose sum of w * component has the lowest negative log-likelihood.

    Parameters
    ----------
    components : sequence of float arrays, shape (n, leaves) or (leaves,)
        Logits of the parts of an ensemble on validation rows; their common scale is the inverse temperature.
    labels : int64 array, shape (n,)
        The true leaves.

    Returns
    -------
    float64 array, shape (components,)

    Notes
    -----
    The likelihood is concave in w, so Newton's steps find the only optimum (multinomial logistic regression with one
    weight a component). A component whose weight would be negative is left out.
    """
    count = len(components)
    weights = np.full(count, 1 / count)
    if len(labels) == 0:
        return weights
    active = list(range(count))
    while active:
        for _ in range(25):
            gradient, hessian = likelihood_slope([components[i] for i in active], weights[active], labels)
            # a little damping keeps the step finite where components are collinear
            step = np.linalg.solve(hessian + 1e-8 * np.eye(len(active)) * max(1.0, np.trace(hessian)), gradient)
            step *= min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
            weights[active] -= step
            if np.abs(step).max() < 1e-5:
                break
        if len(active) == 1 or weights[active].min() >= 0:
            break
        worst = active[int(np.argmin(weights[active]))]
        weights[worst] = 0.0
        active.remove(worst)
    return np.asarray(np.maximum(weights, 0.0))


def likelihood_slope(
    components: Sequence[npt.NDArray[np.floating]], weights: FloatArray, labels: LabelArray
) -> tuple[FloatArray, FloatArray]:
    """Return gradient and Hessian of the negative log-likelihood by the weights, in blocks of rows."""
    n, leaves = len(labels), max(c.shape[-1] for c in components)
    gradient, hessian = np.zeros(len(weights)), np.zeros((len(weights), len(weights)))
    block = max(1, 4_000_000 // leaves)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        own = labels[rows]
        parts = np.stack(
            [np.broadcast_to(c[rows] if c.ndim == 2 else c, (len(own), leaves)).astype(np.float64) for c in components]
        )
        p = softmax(np.tensordot(weights, parts, 1))
        means = (parts * p).sum(2)
        gradient += (means - parts[:, np.arange(len(own)), own]).sum(1)
        weighted = parts * np.sqrt(p)
        flat = weighted.reshape(len(weights), -1)
        hessian += flat @ flat.T - means @ means.T
    return gradient / n, hessian / n


def choose_prior_strength(
    logits: npt.NDArray[np.floating], labels: LabelArray, log_prior: FloatArray, likeliest: float
) -> float:
    """Return how much of the log prior is added to the logits again.

    Parameters
    ----------
    logits : float array, shape (n, leaves)
        Of validation rows, without prior.
    labels : int64 array, shape (n,)
        Their leaves.
    log_prior : float array, shape (leaves,)
        Of the training rows.
    likeliest : float
        Strength with the highest likelihood; candidates lie from 0.5 below to 1 above it.

    Returns
    -------
    float
        The candidate with the highest accuracy + macro-F1; ties: the one nearest to `likeliest`.
    """
    if len(labels) == 0:
        return likeliest
    scores = {}
    for offset in STRENGTHS:
        predicted = (logits + (likeliest + offset) * log_prior).argmax(1)
        scores[offset] = float((predicted == labels).mean()) + metrics.macro_f1(labels, predicted, logits.shape[1])
    best = max(scores.values())
    return likeliest + min((o for o, s in scores.items() if s >= best - 1e-9), key=abs)


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
