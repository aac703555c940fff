"""Calibration on validation rows against brute force and known cases."""

from __future__ import annotations

import numpy as np
import pytest

from aitems_engine.training.calibration import (
    choose_prior_strength,
    choose_thresholds,
    fit_weights,
    lowest_threshold,
    negative_log_likelihood,
    softmax,
)


def sample(rng, logits):
    """Labels drawn from the distribution of the logits."""
    p = softmax(logits)
    return (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)


def test_one_component_finds_the_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = sample(rng, logits / 1.7)
    assert 1 / fit_weights([logits], labels)[0] == pytest.approx(1.7, rel=0.05)


def test_weights_have_the_lowest_likelihood_of_a_grid():
    rng = np.random.default_rng(1)
    first, second, prior = rng.normal(size=(500, 4)), rng.normal(size=(500, 4)), np.log([0.7, 0.1, 0.1, 0.1])
    labels = sample(rng, 1.5 * first + 0.5 * second + 0.8 * prior)
    found = fit_weights([first, second, prior], labels)

    def at(w):
        return negative_log_likelihood(w[0] * first + w[1] * second + w[2] * prior, labels)

    best = at(found)
    for moved in np.vstack([np.eye(3), -np.eye(3)]) * 0.05:
        assert at(found + moved) > best
    assert found == pytest.approx([1.5, 0.5, 0.8], abs=0.35)


def test_a_harmful_component_is_left_out():
    rng = np.random.default_rng(2)
    good = rng.normal(size=(2000, 3))
    labels = sample(rng, 2 * good)
    weights = fit_weights([good, -good + rng.normal(size=good.shape)], labels)
    assert weights[1] == 0
    assert weights[0] > 1


def test_no_rows_give_equal_weights():
    assert fit_weights([np.zeros((0, 3)), np.zeros((0, 3))], np.zeros(0, np.int64)).tolist() == [0.5, 0.5]
    assert choose_prior_strength(np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(3), 0.4) == 0.4


def test_prior_strength_takes_the_best_candidate():
    rng = np.random.default_rng(3)
    prior = np.log([0.9, 0.05, 0.05])
    balanced = rng.normal(size=(5000, 3)) * 0.1
    labels = np.zeros(5000, np.int64)
    assert choose_prior_strength(balanced, labels, prior, 0.0) > 0  # all are the frequent leaf: the prior helps
    separable = np.eye(3)[rng.integers(0, 3, 500)] * 100
    assert choose_prior_strength(separable, separable.argmax(1), prior, 0.3) == 0.3  # nothing to gain: stays


def test_threshold_is_the_lowest_that_reaches_the_target():
    rng = np.random.default_rng(4)
    for _ in range(50):
        confidence = rng.integers(0, 8, 40) / 8
        correct = rng.random(40) < confidence
        target = float(rng.choice([0.5, 0.8, 0.95, 1.0]))
        found = lowest_threshold(confidence, correct, target)
        reaching = [t for t in [0.0, *np.unique(confidence)] if correct[confidence >= t].mean() >= target]
        assert found == (min(reaching) if reaching else 1.0)


def test_thresholds_by_top_category():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 4000)
    sure = softmax(np.eye(4)[labels] * 5)
    unsure = softmax(np.eye(4)[labels] * 1.0 + rng.normal(size=(4000, 4)))
    probabilities = np.where((labels < 2)[:, None], sure, unsure)
    found = choose_thresholds(probabilities, labels, ["a", "a", "b", "b"], 0.9)
    assert found.by_top["a"] < found.by_top["b"]
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    for top, leaves in (("a", (0, 1)), ("b", (2, 3))):
        answered = np.isin(predicted, leaves) & (confidence >= found.by_top[top])
        assert (predicted[answered] == labels[answered]).mean() >= 0.9
    few = choose_thresholds(probabilities[:40], labels[:40], ["a", "a", "b", "b"], 0.9)
    assert few.by_top == {}
    assert choose_thresholds(probabilities[:0], labels[:0], ["a"] * 4, 0.9).default == 0.0
