"""Slow, obvious twins of evaluation/binary.py: every pair of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence


def auc(labels: Sequence[float], scores: Sequence[float]) -> float:
    won = pairs = 0.0
    for i, a in enumerate(labels):
        for j, b in enumerate(labels):
            weight = a * (1 - b)
            pairs += weight
            won += weight * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / pairs if pairs else math.nan


def grouped_auc(labels: Sequence[float], scores: Sequence[float], groups: Sequence[int]) -> float:
    total = rows = 0.0
    for group in set(groups):
        mine = [i for i, g in enumerate(groups) if g == group]
        value = auc([labels[i] for i in mine], [scores[i] for i in mine])
        if not math.isnan(value):
            total, rows = total + value * len(mine), rows + len(mine)
    return total / rows if rows else math.nan
