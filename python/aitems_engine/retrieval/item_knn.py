"""Items like those of the history: cosine of co-occurrence with shrinkage, the nearest few of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aitems_engine._native import batch as native
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import (
    Allowed,
    Arrays,
    Candidates,
    FloatMatrix,
    check_question,
)
from aitems_engine.retrieval.sparse import Csr, history_matrix, product


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

    def __post_init__(self) -> None:
        splits, columns, n = self.similar.splits, self.similar.columns, len(self.item_ids)
        if len(splits) != n + 1 or (np.diff(splits) < 0).any() or splits[0] != 0 or splits[-1] != len(columns):
            raise InvalidInputError(f"similar must have one row of neighbours for each of {n} items")
        if len(columns) != len(self.similar.values) or (len(columns) and not 0 <= columns.min() <= columns.max() < n):
            raise InvalidInputError(f"similar must hold items from 0 to {n - 1} and one weight each")

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return product(history_matrix(histories, self.decay), self.similar)

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`; only items that are near one of the history, so there may be fewer than `k`."""
        check_question(self, histories, k, allowed)
        asked, similar = history_matrix(histories, self.decay), self.similar
        items, scores = native.similar_items(
            asked.splits,
            asked.columns,
            asked.values,
            similar.splits,
            similar.columns,
            similar.values,
            k,
            exclude_seen,
            allowed,
        )
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
