"""Item and user vectors such as a two-tower recommender learns, made from a seed, for benchmarks on a million items.

Items: departments hold categories, categories (with sizes by Zipf's law) hold items, in a space whose spectrum falls as
a power; norms vary by about a quarter. Queries: users, mixtures of one to four categories with noise of their own, so
another distribution than the items'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEPARTMENTS, CATEGORIES = 256, 12_000
SPECTRUM = 0.6  # singular value i of the space is (i + 1) ** -SPECTRUM
SPREAD, ITEM_NOISE, USER_NOISE = 0.55, 0.62, 0.45
NORM_NOISE, POPULARITY = 0.18, 0.12  # of the norm: log-normal part, and what a popular item has more


def two_tower(
    items: int, dim: int, queries: int, *, unit: bool, seed: int = 7
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return float32 items (items, dim) and queries (queries, dim); queries, and items if `unit`, have norm 1."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    rotation = np.linalg.qr(normal(dim, dim))[0]
    falling = np.arange(1, dim + 1, dtype=np.float32) ** -SPECTRUM
    space = falling[:, None] / np.sqrt(np.mean(falling**2)) * rotation
    categories = SPREAD * (
        normal(DEPARTMENTS, dim)[rng.integers(DEPARTMENTS, size=CATEGORIES)] + normal(CATEGORIES, dim)
    )
    sizes = np.arange(1, CATEGORIES + 1) ** -0.9
    rows = categories[rng.choice(CATEGORIES, items, p=sizes / sizes.sum())]
    rows += ITEM_NOISE * normal(items, dim)
    rows = rows @ space
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if not unit:
        rows *= np.exp(NORM_NOISE * normal(items, 1)) * np.maximum(1 + POPULARITY * normal(items, 1), 0.4)

    wanted = rng.integers(1, 5, size=queries)  # categories a user likes
    likes = rng.choice(CATEGORIES, (queries, 4), p=sizes**0.75 / (sizes**0.75).sum())
    weights = rng.exponential(size=(queries, 4)) * (np.arange(4) < wanted[:, None])
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    users = (np.einsum("qc,qcd->qd", weights, categories[likes]) + USER_NOISE * normal(queries, dim)) @ space
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    return np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(users, np.float32)
