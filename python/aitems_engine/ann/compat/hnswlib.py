"""The interface of hnswlib 0.8 (`Index`) over `AnnIndex`.

`ef`, `M` and `ef_construction` are kept and returned but steer nothing; the search is measured to reach
`recall_target` (0.99). NaN and infinity are refused, and a query has the index's dimension (hnswlib checks neither).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.ann.compat.support import RECALL_TARGET, empty_index, keys_of, settle
from aitems_engine.errors import AitemsError, IndexFormatError, NotSupportedError

METRICS = {"l2": "l2", "ip": "ip", "cosine": "cosine"}


class HnswlibError(AitemsError, RuntimeError):
    """What hnswlib raises as RuntimeError."""


class Index:
    """`hnswlib.Index(space, dim)`: space "l2" (distance squared), "ip" (1 - dot product) or "cosine" (1 - cosine)."""

    def __init__(self, space: str, dim: int = 0) -> None:
        if isinstance(space, (Index, Mapping)):
            raise NotSupportedError("an index cannot be made from another one here; use save_index and load_index")
        if space not in METRICS:
            raise HnswlibError(f"space must be one of {', '.join(METRICS)}, got {space!r}")
        self.space, self.dim = space, int(dim)
        self.M, self.ef_construction, self.ef = 0, 0, 10
        self.num_threads = os.cpu_count() or 1
        self._held: AnnIndex | None = None
        self._deleted: dict[int, NDArray[np.float32]] = {}
        self._labels: set[int] = set()  # live ones
        self._max_elements = 0
        self._replace = False

    def init_index(
        self,
        max_elements: int,
        M: int = 16,
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
        *,
        recall_target: float = RECALL_TARGET,
    ) -> None:
        if self._held is not None:
            raise HnswlibError("the index is initialised already")
        self._held = empty_index(self.dim, METRICS[self.space], recall_target)
        self._max_elements, self.M, self.ef_construction = int(max_elements), M, ef_construction
        self._replace = allow_replace_deleted

    def add_items(
        self, data: ArrayLike, ids: ArrayLike | None = None, num_threads: int = -1, replace_deleted: bool = False
    ) -> None:
        """Add rows, or replace those whose label is there; without `ids` labels go on from the number of elements."""
        index, rows = self._index(), self._rows(data)
        if replace_deleted and not self._replace:
            raise HnswlibError("init_index was called without allow_replace_deleted=True")
        labels = np.arange(len(rows)) + self.get_current_count() if ids is None else keys_of(ids)
        if len(labels) != len(rows):
            raise HnswlibError(f"one id a row is needed, got {len(labels)} ids for {len(rows)} rows")
        last = len(labels) - 1 - np.unique(labels[::-1], return_index=True)[1]  # of a label given twice
        labels, rows = labels[last], rows[last]
        fresh = [label for label in labels.tolist() if label not in self._labels and label not in self._deleted]
        reused = min(len(fresh), len(self._deleted)) if replace_deleted else 0
        if self.get_current_count() + len(fresh) - reused > self._max_elements:
            raise HnswlibError(f"the index holds at most {self._max_elements} elements; call resize_index")
        index.upsert(labels, rows)
        self._labels.update(labels.tolist())
        for label in labels.tolist():
            self._deleted.pop(label, None)
        for label in list(self._deleted)[:reused]:
            del self._deleted[label]
        settle(index, self._threads(num_threads))

    def knn_query(
        self, data: ArrayLike, k: int = 1, num_threads: int = -1, filter: Callable[[int], bool] | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return labels (uint64) and distances (float32) of shape (n, k); `filter` is called once an element.

        Raises
        ------
        HnswlibError
            There are fewer than `k` elements (that pass).
        """
        index, rows = self._index(), self._rows(data)
        if k == 0:
            return np.empty((len(rows), 0), np.uint64), np.empty((len(rows), 0), np.float32)
        only = None if filter is None else Filter.ids([label for label in self._labels if filter(label)])
        hits = index.search(rows, k, only, self._threads(num_threads))
        if (hits.ids < 0).any():
            few = int((hits.ids >= 0).sum(axis=1).min())
            raise HnswlibError(f"k is {k}, but only {few} elements were found; ask for fewer")
        distances = -hits.scores if self.space == "l2" else 1 - hits.scores
        return hits.ids.astype(np.uint64), distances

    def mark_deleted(self, label: int) -> None:
        if label in self._deleted:
            raise HnswlibError(f"label {label} is deleted already")
        vector = self.get_items([label])[0]
        self._index().delete([label])
        self._labels.remove(label)
        self._deleted[label] = np.asarray(vector, np.float32)

    def unmark_deleted(self, label: int) -> None:
        if label not in self._deleted:
            raise HnswlibError(f"label {label} is not deleted" if label in self._labels else f"no label {label}")
        self._index().upsert([label], self._deleted[label][None])
        self._labels.add(label)
        del self._deleted[label]

    def get_items(self, ids: ArrayLike | None = None, return_type: str = "numpy") -> Any:
        """Return vectors, (n, dim) or a list of lists; for "cosine" they are normalised, as in hnswlib."""
        if return_type not in ("numpy", "list"):
            raise ValueError(f"return_type must be 'numpy' or 'list', got {return_type!r}")
        index, labels = self._index(), keys_of([] if ids is None else ids)
        missing = [label for label in labels.tolist() if label not in self._labels]
        if missing:
            raise HnswlibError(f"no label {missing[0]}")
        rows = index.vectors(labels)
        return rows if return_type == "numpy" else rows.tolist()

    def get_ids_list(self) -> list[int]:
        """Return all labels, deleted ones included."""
        return sorted(self._labels | self._deleted.keys())

    def get_max_elements(self) -> int:
        return self._max_elements

    def get_current_count(self) -> int:
        """Return the number of elements, deleted ones included."""
        return len(self._labels) + len(self._deleted)

    max_elements = property(get_max_elements)
    element_count = property(get_current_count)

    def set_ef(self, ef: int) -> None:
        """Keep `ef`; the search follows `recall_target` instead."""
        self.ef = int(ef)

    def set_num_threads(self, num_threads: int) -> None:
        self.num_threads = int(num_threads)

    def resize_index(self, new_size: int) -> None:
        if new_size < self.get_current_count():
            raise HnswlibError(f"{self.get_current_count()} elements do not fit into {new_size}")
        self._max_elements = int(new_size)

    def save_index(self, path_to_index: str | Path) -> None:
        index, deleted = self._index(), self._deleted
        vectors = np.stack(list(deleted.values())) if deleted else np.empty((0, self.dim), np.float32)
        kept = {
            "space": self.space,
            "max_elements": self._max_elements,
            "M": self.M,
            "ef_construction": self.ef_construction,
            "deleted": list(deleted),
            "deleted_vectors": base64.b64encode(vectors.tobytes()).decode(),
        }
        index._info["hnswlib"] = kept
        try:
            index.save(path_to_index)
        finally:
            del index._info["hnswlib"]

    def load_index(self, path_to_index: str | Path, max_elements: int = 0, allow_replace_deleted: bool = False) -> None:
        """Open a file of `save_index` (or of `AnnIndex.save`; hnswlib's own files cannot be read)."""
        try:
            index = AnnIndex.open(path_to_index, dim=self.dim)
        except (OSError, IndexFormatError) as error:
            raise HnswlibError(str(error)) from error
        kept = index._info.pop("hnswlib", None) or {}
        if index.describe()["metric"] != METRICS[self.space]:
            raise HnswlibError(f"{path_to_index} has the metric {index.describe()['metric']}, not {self.space}")
        self._held = index
        self._labels = set(index.ids.tolist())
        vectors = np.frombuffer(base64.b64decode(kept.get("deleted_vectors", "")), np.float32).reshape(-1, self.dim)
        self._deleted = dict(zip(kept.get("deleted", []), vectors, strict=True))
        self.M, self.ef_construction = kept.get("M", 16), kept.get("ef_construction", 200)
        self._max_elements = max(max_elements or kept.get("max_elements", 0), self.get_current_count())
        self._replace = allow_replace_deleted

    def index_file_size(self) -> int:
        """Return the memory of the index in bytes, about the size of its file."""
        return int(self._index().describe()["memory_bytes"])

    def __repr__(self) -> str:
        return f"<aitems_engine.ann.compat.hnswlib.Index(space={self.space!r}, dim={self.dim})>"

    def __reduce__(self) -> NoReturn:
        raise NotSupportedError("this index cannot be pickled; use save_index and load_index")

    def _index(self) -> AnnIndex:
        if self._held is None:
            raise HnswlibError("the index is not initialised; call init_index or load_index first")
        return self._held

    def _rows(self, data: ArrayLike) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(data, np.float32)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise HnswlibError(f"data must have shape (n, {self.dim}) or ({self.dim},), got {np.shape(data)}")
        return rows

    def _threads(self, num_threads: int) -> int:
        return self.num_threads if num_threads <= 0 else num_threads


def __getattr__(name: str) -> NoReturn:
    if name == "BFIndex":
        raise NotSupportedError("there is no BFIndex; use AnnIndex.build(vectors, kind='exact')")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
