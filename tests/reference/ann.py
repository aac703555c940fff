"""Slow, obvious nearest-neighbour search: float32 scores in the order that the kernels promise, then a full sort."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LANES = 16


def lane_sum(products: NDArray[np.float32]) -> np.float32:
    """Return the sum in 16 lanes (lane l takes l, l + 16, ...), then 8 + 8, 4 + 4, 2 + 2, 1 + 1, all in float32."""
    padded = np.zeros(-(-len(products) // LANES) * LANES, np.float32)
    padded[: len(products)] = products
    lanes = np.zeros(LANES, np.float32)
    for row in padded.reshape(-1, LANES):
        lanes = lanes + row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return np.float32(lanes[0])


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows over their norms (summed in double precision, in order); zero rows stay zero."""
    out = np.zeros(rows.shape, np.float32)
    for i, row in enumerate(rows.astype(np.float64)):
        squared = 0.0
        for value in row.tolist():
            squared += value * value
        out[i] = row * (1 / squared**0.5 if squared else 0.0)
    return out


def score(query: NDArray[np.float32], vector: NDArray[np.float32], metric: str) -> np.float32:
    if metric == "l2":
        return -lane_sum((query - vector) * (query - vector))
    return lane_sum(query * vector)


def search(
    vectors: NDArray[np.float32],
    ids: Iterable[int],
    queries: NDArray[np.float32],
    k: int,
    metric: str,
    allowed: Iterable[int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return ids and scores: score descending, id ascending, -1 and -inf where there are no more."""
    if metric == "cosine":
        vectors, queries = unit(vectors), unit(queries)
    keep = None if allowed is None else set(allowed)
    out_ids = np.full((len(queries), k), -1, np.int64)
    out_scores = np.full((len(queries), k), -np.inf, np.float32)
    for q, query in enumerate(queries):
        scored = [(-score(query, v, metric), i) for v, i in zip(vectors, ids, strict=True) if keep is None or i in keep]
        for place, (negative, i) in enumerate(sorted(scored)[:k]):
            out_ids[q, place], out_scores[q, place] = i, -negative
    return out_ids, out_scores
