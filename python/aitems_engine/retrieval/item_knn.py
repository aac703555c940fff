"""Items like those of the history: cosine of co-occurrence with shrinkage, the nearest few of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import Arrays, FloatMatrix
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

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return product(history_matrix(histories, self.decay), self.similar)

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
