"""Slow, obvious nearest-neighbour search: float32 scores in the order that the kernels promise, then a full sort."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

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


def codes_of(query: NDArray[np.float32]) -> tuple[NDArray[np.int64], np.float32]:
    """Return signed 8-bit codes of a query and the factor that biases are multiplied with."""
    most = np.abs(query).max(initial=np.float32(0))
    if most < 1e-30:
        return np.zeros(len(query), np.int64), np.float32(1)
    factor = np.float32(1) / (most / np.float32(127))
    scaled = query * factor
    return np.trunc(scaled + np.where(scaled < 0, np.float32(-0.5), np.float32(0.5))).astype(np.int64), factor


def centroids_of(parts: dict[str, NDArray], dim: int) -> NDArray[np.int64]:
    """Return the unsigned codes of the lists' centroids, row-major."""
    dim4 = -(-dim // 4)
    packed = parts["centroid_codes"].reshape(-1, dim4, 16, 4)
    return packed.transpose(0, 2, 1, 3).reshape(-1, dim4 * 4)[: len(parts["list_blocks"]) - 1, :dim].astype(np.int64)


def signs(
    parts: dict[str, NDArray],
    vectors: dict[int, NDArray[np.float32]],
    query: NDArray[np.float32],
    probes: int,
    l2: bool,
) -> list[int]:
    """Return ids by what the signs of the rows in the `probes` nearest lists estimate, best first, then the lower id.

    `parts` is what the native index exports as its graph; `vectors` the stored vector of each id.
    """
    dim, f32 = len(query), np.float32
    codes, factor = codes_of(query)
    centroids, scales = centroids_of(parts, dim), parts["centroid_scales"]
    biases = parts["centroid_biases"] if l2 else np.zeros(len(scales), f32)
    scores = [
        f32(int((row - 128) @ codes)) * s + b * factor for row, s, b in zip(centroids, scales, biases, strict=False)
    ]
    order = sorted(range(len(centroids)), key=lambda at: (-scores[at], at))[:probes]
    padded = np.zeros(-(-dim // 32) * 32, f32)
    padded[:dim] = query
    widest = offset = f32(0)
    for group in padded.reshape(-1, 4):
        total = f32(0)
        for value in group:
            total += abs(value)
        widest, offset = max(widest, total), offset + total
    step = 2 * widest / f32(127) if widest else f32(1)
    held = []
    for at in order:
        base = scores[at] / factor - biases[at]
        centroid = scales[at] * (centroids[at] - 128).astype(f32)
        for row in range(*(parts["list_blocks"][at : at + 2] * 16)):
            if (id := int(parts["ids"][row])) < 0:
                continue
            beyond = vectors[id].astype(np.float64) - centroid.astype(np.float64)
            magnitudes = sum(abs(beyond).tolist())
            own = f32(sum((beyond * beyond).tolist()) / magnitudes) if magnitudes else f32(0)
            bits = np.zeros(len(padded), bool)
            bits[:dim] = beyond > 0
            entries = 0
            for group, chosen in zip(padded.reshape(-1, 4), bits.reshape(-1, 4), strict=True):
                entry = f32(0)
                for value in group:
                    entry += abs(value) - value
                for value in group[chosen]:
                    entry += 2 * value
                entries += int(np.clip(entry * (1 / step) + f32(0.5), 0, 127))
            estimate = (f32(entries) * step - offset) * own + base
            if l2:
                estimate += f32(-sum((vectors[id].astype(np.float64) ** 2).tolist()) / 2)
            held.append((-estimate, id))
    return [id for _, id in sorted(held)]


def walk(graph: dict[str, NDArray], query: NDArray[np.float32], lists: int, beam: int, together: int = 4) -> list[int]:
    """Return the rows that a walk on the graph holds in the end, best first: (score, lower row) in a sorted list.

    `graph` is what the native index exports; starts are the first blocks of the `lists` lists with the best centroids.
    The neighbours of the best `together` rows are met at a time.
    """
    codes, factor = codes_of(query)
    rows = len(graph["ids"])

    def score(table: NDArray, scale: np.float32, bias: NDArray, row: int) -> np.float32:
        total = np.float32(int((table[row, : len(codes)].astype(np.int64) - 128) @ codes)) * scale
        return total + bias[row] * factor if len(bias) else total

    centroids = centroids_of(graph, len(query))
    num_lists = len(graph["list_blocks"]) - 1
    order = sorted(
        range(num_lists),
        key=lambda at: (-score(centroids, graph["centroid_scales"][at], graph["centroid_biases"], at), at),
    )
    starts = []
    for at in order[:lists]:
        first, end = graph["list_blocks"][at : at + 2] * 16
        starts += [row for row in range(first, min(end, first + 16)) if graph["ids"][row] >= 0]
    table, neighbours = graph["codes"].reshape(rows, -1), graph["neighbours"].reshape(rows, -1)
    seen = set(starts)
    held: list[tuple[float, int]] = []
    walked: set[int] = set()

    def meet(found: Iterable[int]) -> None:
        for row in found:
            seen.add(row)
            held.append((-float(score(table, graph["scales"][graph["levels"][row]], graph["biases"], row)), row))
        held.sort()
        del held[beam:]

    meet(starts)
    while waiting := [row for _, row in held if row not in walked]:
        walked.update(waiting[:together])
        met = [int(n) for row in waiting[:together] for n in neighbours[row] if n < rows]
        meet(n for n in dict.fromkeys(met) if n not in seen)
    return [row for _, row in held]


def reachable(graph: dict[str, NDArray]) -> set[int]:
    """Return the rows that can be reached from the first blocks of all lists."""
    rows = len(graph["ids"])
    neighbours = graph["neighbours"].reshape(rows, -1)
    blocks = graph["list_blocks"]
    starts = [range(first * 16, first * 16 + 16) for first, end in pairwise(blocks.tolist()) if first < end]
    queue = [row for block in starts for row in block if graph["ids"][row] >= 0]
    found = set(queue)
    while queue:
        fresh = {int(n) for n in neighbours[queue.pop()] if n < rows} - found
        found |= fresh
        queue += fresh
    return found
