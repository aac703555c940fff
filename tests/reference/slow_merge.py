"""Merging candidates of one history, step by step."""

from __future__ import annotations

import numpy as np


def merge_one(
    found: dict[str, list[tuple[int, float]]],
    method: str,
    budget: int,
    quotas: dict[str, int],
    weights: dict[str, float],
) -> list[tuple[int, np.float32, dict[str, tuple[int, float]]]]:
    """Return (item, fused score, source -> (rank, score)) of each candidate, best first.

    `found` holds (item, score) of each source, best first.
    """
    provenance: dict[int, dict[str, tuple[int, float]]] = {}
    fused: dict[int, float] = {}
    for source, listed in found.items():
        for rank, (item, score) in enumerate(listed, start=1):
            worth = 1 / (60 + rank) if method == "rrf" else 1 - (rank - 1) / len(listed)
            fused[item] = fused.get(item, 0.0) + weights.get(source, 1.0) * worth
            provenance.setdefault(item, {})[source] = (rank, score)
    ordered = sorted(fused, key=lambda item: (-np.float32(fused[item]), item))
    reserved = [i for i in ordered if any(rank <= quotas.get(s, 0) for s, (rank, _) in provenance[i].items())]
    others = [i for i in ordered if i not in reserved]
    kept = set((reserved + others)[:budget])
    return [(i, np.float32(fused[i]), provenance[i]) for i in ordered if i in kept]
