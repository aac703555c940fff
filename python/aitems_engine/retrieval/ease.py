"""EASE (Steck, WWW 2019): a full item-to-item matrix with a zero diagonal, in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import Allowed, Arrays, Candidates, FloatMatrix, scored_candidates
from aitems_engine.retrieval.sparse import history_matrix, row_sums


@dataclass(frozen=True, eq=False)
class Ease:
    """Dense item-to-item weights (`training.retrieval.fit_ease`); four bytes a pair of items.

    Attributes
    ----------
    weights : float32 array, shape (num_items, num_items)
        Row: the item of the history.
    decay : float in (0, 1]
        What one step back in the history costs.
    """

    kind: ClassVar[str] = "ease"
    item_ids: Sequence[str]
    weights: npt.NDArray[np.float32]
    decay: float = 1.0

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return row_sums(history_matrix(histories, self.decay), self.weights)

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`."""
        return scored_candidates(self, histories, k, exclude_seen=exclude_seen, allowed=allowed)

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {"weights": self.weights}

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"decay": self.decay}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> Ease:
        """Return the retriever that `arrays` and `settings` came from."""
        return cls(item_ids, arrays["weights"], settings["decay"])
