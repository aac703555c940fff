"""The most popular items for everybody: what every other retriever must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import Allowed, Arrays, Candidates, FloatMatrix, check_question, without_seen


@dataclass(frozen=True, eq=False)
class Popularity:
    """Interactions an item had, old ones decayed (`training.retrieval.fit_popularity`).

    Attributes
    ----------
    weights : float32 array, shape (num_items,)
    """

    kind: ClassVar[str] = "popularity"
    item_ids: Sequence[str]
    weights: npt.NDArray[np.float32]
    _order: npt.NDArray[np.int32] = field(init=False, repr=False)
    _place: npt.NDArray[np.int32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = np.argsort(-self.weights, kind="stable").astype(np.int32)
        place = np.empty_like(order)
        place[order] = np.arange(len(order), dtype=np.int32)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_place", place)

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return np.tile(self.weights, (len(histories), 1))

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`; cost: `k` and the longest history, not the catalogue."""
        check_question(self, histories, k, allowed)
        longest = int(np.diff(histories.splits).max(initial=0)) if exclude_seen else 0
        best = self._best(k + longest, allowed)
        if exclude_seen:
            return Candidates(*without_seen(best[None], self.weights[best][None], histories, k), self.kind)
        items, scores = without_seen(best[None], self.weights[best][None], None, k)
        rows = len(histories), k
        return Candidates(np.broadcast_to(items, rows), np.broadcast_to(scores, rows), self.kind)

    def _best(self, count: int, allowed: Allowed | None) -> npt.NDArray[np.int32]:
        if allowed is None:
            return self._order[:count]
        number = int(np.count_nonzero(allowed))
        if number * 8 < len(allowed):
            places = self._place[np.flatnonzero(allowed)]
            if count < len(places):
                places = np.partition(places, count - 1)[:count]
            return self._order[np.sort(places)]
        end = count
        while True:  # half as much again as is needed where the allowed ones lie anywhere
            end = min(len(allowed), 64 + end * len(allowed) * 3 // (number * 2))
            found = self._order[:end][allowed[self._order[:end]]]
            if len(found) >= count or end == len(allowed):
                return found[:count]

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {"weights": self.weights}

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> Popularity:
        """Return the retriever that `arrays` and `settings` came from."""
        return cls(item_ids, arrays["weights"])
