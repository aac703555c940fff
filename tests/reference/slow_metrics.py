"""Slow, obvious twins of evaluation/metrics.py and of `Taxonomy.node_probabilities`: one row, one class at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from aitems_engine.catalog.taxonomy import Taxonomy


def macro_f1(truth: Sequence[int], predicted: Sequence[int]) -> float:
    values = []
    for c in sorted(set(truth) | set(predicted)):
        tp = sum(t == c and p == c for t, p in zip(truth, predicted, strict=True))
        fp = sum(t != c and p == c for t, p in zip(truth, predicted, strict=True))
        fn = sum(t == c and p != c for t, p in zip(truth, predicted, strict=True))
        values.append(2 * tp / (2 * tp + fp + fn))
    return sum(values) / len(values)


def nll(truth: Sequence[int], rows: Sequence[Sequence[float]]) -> float:
    return sum(-math.log(max(row[t], 1e-12)) for t, row in zip(truth, rows, strict=True)) / len(truth)


def brier(truth: Sequence[int], rows: Sequence[Sequence[float]]) -> float:
    total = 0.0
    for t, row in zip(truth, rows, strict=True):
        total += sum((p - (1.0 if c == t else 0.0)) ** 2 for c, p in enumerate(row))
    return total / len(truth)


def reliability_bins(confidence: Sequence[float], correct: Sequence[bool], num_bins: int) -> list[list[int]]:
    """Rows of each bin: cut the sorted rows at n*b/num_bins, then move a cut inside equal values to their start."""
    order = sorted(range(len(confidence)), key=lambda i: (confidence[i], i))
    cuts = {0, len(order)}
    for b in range(1, num_bins):
        cut = b * len(order) // num_bins
        while cut > 0 and confidence[order[cut - 1]] == confidence[order[cut]]:
            cut -= 1
        cuts.add(cut)
    edges = sorted(cuts)
    return [order[a:b] for a, b in pairwise(edges)]


def ece(confidence: Sequence[float], correct: Sequence[bool], num_bins: int) -> float:
    gap = 0.0
    for rows in reliability_bins(confidence, correct, num_bins):
        gap += abs(sum(confidence[i] for i in rows) - sum(bool(correct[i]) for i in rows))
    return gap / len(confidence)


def coverage_points(confidence: Sequence[float], correct: Sequence[bool]) -> list[tuple[float, float, float]]:
    points = []
    for threshold in sorted(set(confidence), reverse=True):
        kept = [i for i in range(len(confidence)) if confidence[i] >= threshold]
        points.append((threshold, len(kept) / len(confidence), sum(bool(correct[i]) for i in kept) / len(kept)))
    return points


def hierarchical(taxonomy: Taxonomy, truth: Sequence[str], predicted: Sequence[str | None]) -> tuple[float, float]:
    """Precision and recall over ancestor sets."""
    shared = given = wanted = 0
    for t, p in zip(truth, predicted, strict=True):
        a, b = set(taxonomy.lineage(t)), set(taxonomy.lineage(p)) if p is not None else set()
        shared, given, wanted = shared + len(a & b), given + len(b), wanted + len(a)
    return shared / max(given, 1), shared / wanted


def expected_top_k(truth: int, scores: Sequence[float], k: int) -> float:
    """Share of all orders of the ties that put the truth among the first k."""
    better = sum(s > scores[truth] for s in scores)
    equal = sum(s == scores[truth] for s in scores)
    places = [better + i for i in range(equal)]
    return sum(place < k for place in places) / equal


def node_probability(taxonomy: Taxonomy, leaf_probabilities: dict[str, float], node_id: str) -> float:
    """Probability of a node by adding up the leaves that have it in their lineage."""
    return math.fsum(p for leaf, p in leaf_probabilities.items() if node_id in taxonomy.lineage(leaf))
