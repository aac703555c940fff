"""Items like those of the history: cosine of co-occurrence with shrinkage, the nearest few of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import (
    Allowed,
    Arrays,
    Candidates,
    FloatMatrix,
    best_of,
    check_question,
    contained,
    seen_keys,
)
from aitems_engine.retrieval.sparse import Csr, history_matrix, product, sparse_product

# The terms of so many histories stay in the processor's cache.
_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class ItemKnn:
    """Sparse item-to-item similarities (`training.retrieval.fit_item_knn`).

    Attributes
    ----------
    similar : Csr, shape (num_items, num_items)
        Row: the item of the history; its nearest items.
    decay : float in (0, 1]
        What one step back in the history costs.
    """

    kind: ClassVar[str] = "item-knn"
    item_ids: Sequence[str]
    similar: Csr
    decay: float = 1.0

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return product(history_matrix(histories, self.decay), self.similar)

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`; only items that are near one of the history, so there may be fewer than `k`."""
        check_question(self, histories, k, allowed)
        items = np.full((len(histories), k), -1, np.int32)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        for start in range(0, len(histories), _TOGETHER):
            batch = histories if len(histories) == 1 else histories.take(slice(start, start + _TOGETHER))
            cells, values = sparse_product(history_matrix(batch, self.decay), self.similar)
            if exclude_seen:
                fresh = ~contained(cells, seen_keys(batch))
                cells, values = cells[fresh], values[fresh]
            rows, found = np.divmod(cells, batch.num_items)
            if allowed is not None:
                kept = allowed[found]
                rows, found, values = rows[kept], found[kept], values[kept]
            ends = np.searchsorted(rows, np.arange(len(batch) + 1))
            for row, (begin, end) in enumerate(pairwise(ends)):
                best = begin + best_of(values[begin:end], k)
                items[start + row, : len(best)] = found[best]
                scores[start + row, : len(best)] = values[best]
        return Candidates(items, scores, self.kind)

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {"splits": self.similar.splits, "columns": self.similar.columns, "values": self.similar.values}

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"decay": self.decay}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> ItemKnn:
        """Return the retriever that `arrays` and `settings` came from."""
        similar = Csr(arrays["splits"], arrays["columns"], arrays["values"], len(item_ids))
        return cls(item_ids, similar, settings["decay"])
