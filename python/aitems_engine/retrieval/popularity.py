"""The most popular items for everybody: what every other retriever must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import Arrays, FloatMatrix


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

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return np.tile(self.weights, (len(histories), 1))

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
