"""The two towers and their loss written as they are defined, one row at a time, in doubles."""

from __future__ import annotations

import math

import numpy as np


def unit(vector: np.ndarray) -> np.ndarray:
    length = math.sqrt(float(vector @ vector))
    return vector / length if length > 0 else vector


def user_vector(history: list[int], table: np.ndarray, layers: list, decay: float, longest: int) -> np.ndarray:
    """The history is oldest first."""
    seen = history[-longest:] if longest else history
    total, weights = np.zeros(table.shape[1]), 0.0
    for age, item in enumerate(reversed(seen)):
        total += decay**age * table[item].astype(np.float64)
        weights += decay**age
    if not seen:
        return total
    mean = x = total / weights
    for place, (weight, bias) in enumerate(layers):
        x = x @ weight.astype(np.float64) + bias
        if place < len(layers) - 1:
            x = np.maximum(x, 0)
    return unit(mean + x if layers else mean)


def sampled_loss(
    user: np.ndarray,
    columns: np.ndarray,
    own: int,
    hidden: np.ndarray,
    draws: np.ndarray,
    expected: np.ndarray,
    temperature: float,
    logq: float,
) -> float:
    """-log of exp(target) / (exp(target) + sum over drawn negatives of exp(score) / expected draws ** logq)."""
    scores = columns.astype(np.float64) @ user / temperature
    total = math.exp(scores[own])
    for column, score in enumerate(scores):
        if column != own and not hidden[column]:
            total += draws[column] * math.exp(score) / expected[column] ** logq
    return -math.log(math.exp(scores[own]) / total)


def full_loss(user: np.ndarray, vectors: np.ndarray, target: int, hidden: set[int], temperature: float) -> float:
    """Softmax over the whole catalogue, but for a user's other items."""
    scores = vectors.astype(np.float64) @ user / temperature
    left = [i for i in range(len(vectors)) if i == target or i not in hidden]
    return -math.log(math.exp(scores[target]) / sum(math.exp(scores[i]) for i in left))
