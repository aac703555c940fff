"""The interface of usearch 2 (`Index`, `Matches`, `BatchMatches`) over `AnnIndex`.

`connectivity` and the expansions are kept and returned but steer nothing; the search is measured to reach a recall of
0.99. Vectors are kept as float32 (dtype "f16" and "bf16": half precision). For "cos" they come back
normalised. Beside `exact=True`, small sets are searched exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aitems_engine.ann import AnnIndex
from aitems_engine.ann.compat.support import empty_index, keys_of, settle
from aitems_engine.errors import AitemsError, InvalidInputError, NotSupportedError

METRICS = {"ip": "ip", "cos": "cosine", "l2sq": "l2"}
NAMES = {ours: theirs for theirs, ours in METRICS.items()}
FLOATS, HALVES = ("f32", "f64"), ("f16", "bf16")
MISSING = ("join", "cluster", "pairwise_distance", "level_stats", "levels_stats", "metadata", "serialized_length")


class UsearchError(AitemsError, RuntimeError):
    """What usearch raises as RuntimeError."""


@dataclass
class Match:
    """One result."""

    key: int
    distance: float

    def to_tuple(self) -> tuple[int, float]:
        return int(self.key), float(self.distance)


@dataclass
class Matches:
    """Results of one query, nearest first."""

    keys: NDArray[np.uint64]
    distances: NDArray[np.float32]
    visited_members: int = 0
    computed_distances: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Match:
        return Match(int(self.keys[index]), float(self.distances[index]))

    def __iter__(self) -> Iterator[Match]:
        return (self[i] for i in range(len(self)))

    def to_list(self) -> list[tuple[int, float]]:
        return [match.to_tuple() for match in self]


@dataclass
class BatchMatches(Sequence[Matches]):
    """Results of several queries. Row i holds `counts[i]` results; behind them key 0, distance infinity."""

    keys: NDArray[np.uint64]
    distances: NDArray[np.float32]
    counts: NDArray[np.int64]
    visited_members: int = 0
    computed_distances: int = 0

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        return Matches(self.keys[index, : self.counts[index]], self.distances[index, : self.counts[index]])

    def to_list(self) -> list[tuple[int, float]]:
        return [match.to_tuple() for matches in self for match in matches]

    def count_matches(self, expected: NDArray[Any], count: int | None = None) -> int:
        """Return for how many queries the expected key is among the first `count` results."""
        return int((self.keys[:, :count] == np.asarray(expected)[:, None]).any(axis=1).sum())

    def mean_recall(self, expected: NDArray[Any], count: int | None = None) -> float:
        return self.count_matches(expected, count) / len(expected)


class Index:
    """`usearch.index.Index(ndim=..., metric="ip" | "cos" | "l2sq")`. Distances: 1 - dot, 1 - cosine, squared l2."""

    def __init__(
        self,
        *,
        ndim: int = 0,
        metric: Any = "cos",
        dtype: Any = None,
        connectivity: int | None = None,
        expansion_add: int | None = None,
        expansion_search: int | None = None,
        multi: bool = False,
        path: str | os.PathLike[str] | None = None,
        view: bool = False,
        enable_key_lookups: bool = True,
    ) -> None:
        self.metric = str(getattr(metric, "name", metric)).lower()
        self.dtype = "f32" if dtype is None else str(getattr(dtype, "name", dtype)).lower()
        if self.metric not in METRICS:
            raise NotSupportedError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if self.dtype not in FLOATS + HALVES:
            raise NotSupportedError(f"dtype must be one of {', '.join(FLOATS + HALVES)}, got {dtype!r}")
        if multi:
            raise NotSupportedError("several vectors a key are not supported; give each its own key")
        self.ndim, self.multi, self.path = int(ndim), False, path
        self.connectivity = 16 if connectivity is None else connectivity
        self.expansion_add = 128 if expansion_add is None else expansion_add
        self.expansion_search = 64 if expansion_search is None else expansion_search
        self._held: AnnIndex | None = None
        if path is not None and Path(path).exists():
            self.load(path)

    def add(
        self, keys: ArrayLike | None, vectors: ArrayLike, *, copy: bool = True, threads: int = 0, **_: Any
    ) -> NDArray[np.uint64]:
        """Add vectors under new keys (None: from the length on); returns the keys. A key that is there is an error."""
        index, rows = self._index(), self._rows(vectors)
        labels = np.arange(len(index), len(index) + len(rows)) if keys is None else keys_of(keys)
        there = index.contains(labels)
        if there.any():
            raise UsearchError(f"key {labels[there][0]} is there already; remove it first")
        index.upsert(labels, rows)
        settle(index, threads)
        return labels.astype(np.uint64)

    def search(
        self,
        vectors: ArrayLike,
        count: int = 10,
        radius: float = np.inf,
        *,
        threads: int = 0,
        exact: bool = False,
        **_: Any,
    ) -> Matches | BatchMatches:
        """Return the `count` nearest within `radius`: `Matches` for one vector, `BatchMatches` for rows of them."""
        hits = self._index().search(self._rows(vectors), count, None, threads, form="exact" if exact else "auto")
        distances = -hits.scores if self.metric == "l2sq" else 1 - hits.scores
        outside = (hits.ids < 0) | (distances > radius)
        keys = np.where(outside, 0, hits.ids).astype(np.uint64)
        distances = np.where(outside, np.float32(np.inf), distances)
        found = BatchMatches(keys, distances, (~outside).sum(axis=1))
        return found if np.ndim(vectors) == 2 else found[0]

    def get(self, keys: ArrayLike, dtype: Any = None) -> Any:
        """Return the vector of a key or None; for several keys a tuple of them."""
        labels, index = keys_of(keys), self._index()
        there = index.contains(labels)
        rows = iter(index.vectors(labels[there]))
        found = tuple(next(rows) if held else None for held in there)
        return found if np.ndim(keys) else found[0]

    __getitem__ = get

    def contains(self, keys: ArrayLike) -> Any:
        there = self._index().contains(keys_of(keys))
        return there if np.ndim(keys) else bool(there[0])

    __contains__ = contains

    def count(self, keys: ArrayLike) -> Any:
        """Return how many vectors each key has: 0 or 1."""
        there = self._index().contains(keys_of(keys)).astype(np.uint64)
        return there if np.ndim(keys) else int(there[0])

    def remove(self, keys: ArrayLike, *, compact: bool = False, threads: int = 0) -> Any:
        """Remove keys; returns how many were there, for one key whether it was."""
        index = self._index()
        removed = index.delete(keys_of(keys))
        if compact:
            index.compact(threads)
        return removed if np.ndim(keys) else bool(removed)

    def __delitem__(self, keys: ArrayLike) -> None:
        self.remove(keys)

    def rename(self, from_: ArrayLike, to: ArrayLike) -> Any:
        """Give vectors new keys; returns how many were renamed, for one key whether it was."""
        old, new, index = keys_of(from_), keys_of(to), self._index()
        if len(old) != len(new):
            raise InvalidInputError(f"as many new keys as old ones are needed, got {len(new)} for {len(old)}")
        there = index.contains(old)
        if index.contains(new[there]).any():
            raise InvalidInputError("a new key is there already; remove it first")
        index.upsert(new[there], index.vectors(old[there]))
        index.delete(old[there])
        return int(there.sum()) if np.ndim(from_) else bool(there[0])

    @property
    def keys(self) -> NDArray[np.uint64]:
        """All keys, ascending."""
        return self._index().ids.astype(np.uint64)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors, in the order of `keys`."""
        index = self._index()
        return index.vectors(index.ids)

    def __len__(self) -> int:
        return 0 if self._held is None else len(self._held)

    size = capacity = property(__len__)

    @property
    def memory_usage(self) -> int:
        return int(self._index().describe()["memory_bytes"])

    def save(self, path_or_buffer: str | os.PathLike[str] | None = None, progress: Any = None) -> None:
        self._index().save(self._path(path_or_buffer))

    def load(self, path_or_buffer: str | os.PathLike[str] | None = None, progress: Any = None) -> None:
        """Map a file of `save`, replacing what is here (usearch's own files cannot be read)."""
        self._held = AnnIndex.open(self._path(path_or_buffer))
        described = self._held.describe()
        self.ndim, self.metric = described["dim"], NAMES[described["metric"]]
        self.dtype = "f32" if described["rerank"] == "float" else "f16"

    view = load  # both map the file; a view takes writes, too, and leaves the file alone

    @staticmethod
    def restore(path_or_buffer: str | os.PathLike[str], view: bool = False, **settings: Any) -> Index | None:
        """Return the index of a file; None if there is no file."""
        return Index(path=path_or_buffer, **settings) if Path(path_or_buffer).exists() else None

    def clear(self) -> None:
        """Remove everything."""
        self._held = None

    reset = clear

    def copy(self) -> Index:
        other = Index(ndim=self.ndim, metric=self.metric, dtype=self.dtype, connectivity=self.connectivity)
        other.expansion_add, other.expansion_search = self.expansion_add, self.expansion_search
        if len(self):
            other.add(self.keys, self.vectors)
        return other

    def __repr__(self) -> str:
        return f"aitems_engine.ann.compat.usearch.Index({self.dtype} x {self.ndim}, {self.metric}, {len(self)} vectors)"

    def __getattr__(self, name: str) -> NoReturn:
        if name in MISSING:
            raise NotSupportedError(f"Index.{name} is not supported")
        raise AttributeError(f"Index has no attribute {name!r}")

    def _index(self) -> AnnIndex:
        if self._held is None:
            if self.ndim < 1:
                raise InvalidInputError("ndim must be 1 or more; give it to Index(ndim=...) or load a file")
            rerank = "half" if self.dtype in HALVES else "float"
            self._held = empty_index(self.ndim, METRICS[self.metric], rerank=rerank)
        return self._held

    def _rows(self, vectors: ArrayLike) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(vectors, np.float32)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != self.ndim:
            raise InvalidInputError(
                f"vectors must have shape (n, {self.ndim}) or ({self.ndim},), got {np.shape(vectors)}"
            )
        return rows

    def _path(self, given: Any) -> Path:
        path = self.path if given is None else given
        if not isinstance(path, (str, os.PathLike)):
            raise NotSupportedError("an index is saved to and loaded from a path, not a buffer")
        return Path(path)
