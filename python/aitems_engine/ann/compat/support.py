"""What both adapters need."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aitems_engine.ann import AnnIndex
from aitems_engine.errors import InvalidInputError

RECALL_TARGET = 0.99  # the peers reach it at their usual settings where their metric is kind to a graph


def empty_index(dim: int, metric: str, recall_target: float = RECALL_TARGET, rerank: str = "float") -> AnnIndex:
    """Return an index that fills later: exact while small; a merge that finds it large builds lists or a graph."""
    return AnnIndex.build(np.empty((0, dim), np.float32), metric=metric, recall_target=recall_target, rerank=rerank)


def settle(index: AnnIndex, threads: int) -> None:
    """Merge at once after a large addition, as the peers index while adding; small ones wait for the background."""
    described = index.describe()
    if described["added"] >= max(4096, described["items"] // 2):
        index.compact(max(threads, 0))


def keys_of(keys: ArrayLike) -> NDArray[np.int64]:
    """Return labels as int64; negative ones raise OverflowError, as with the peers."""
    array = np.atleast_1d(np.asarray(keys, np.uint64))
    if array.ndim != 1:
        raise InvalidInputError(f"keys must be one number or one-dimensional, got shape {array.shape}")
    if array.size and array.max() > np.uint64(np.iinfo(np.int64).max):
        raise InvalidInputError(f"keys must be below 2**63, got {array.max()}")
    return array.astype(np.int64)
