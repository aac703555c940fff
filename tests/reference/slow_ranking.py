"""Ranking measures as their definitions read: every order of tied items is listed and averaged."""

from __future__ import annotations

import itertools
import math


def orders(scores: dict[str, float]) -> list[list[str]]:
    """All orders of the items by falling score; ties in every order."""
    groups = [[i for i, s in scores.items() if s == value] for value in sorted(set(scores.values()), reverse=True)]
    return [
        [item for part in parts for item in part]
        for parts in itertools.product(*(list(itertools.permutations(g)) for g in groups))
    ]


def recall(order: list[str], relevant: set[str], k: int) -> float:
    return len(set(order[:k]) & relevant) / len(relevant)


def ndcg(order: list[str], relevant: set[str], k: int) -> float:
    gained = sum(1 / math.log2(place + 2) for place, item in enumerate(order[:k]) if item in relevant)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return gained / ideal


def mrr(order: list[str], relevant: set[str], k: int) -> float:
    return next((1 / (place + 1) for place, item in enumerate(order[:k]) if item in relevant), 0.0)


def expected(measure, scores: dict[str, float], relevant: set[str], k: int) -> float:
    found = [measure(order, relevant, k) for order in orders(scores)]
    return sum(found) / len(found)
