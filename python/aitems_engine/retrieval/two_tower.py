"""Two towers (Covington et al., RecSys 2016; Yi et al., RecSys 2019): a history and an item as vectors of length 1.

The item tower adds the vector of the item's id and those of its attributes; an item that nobody touched has the latter
alone. The user tower takes the weighted mean of the vectors of the history's items, before these are brought to length
1 (so that an item may weigh more than another), through hidden layers where there are any. A history's score of an item
is the inner product of both, so new users need no training and the vectors go into an index. The torch twin that learns
them is training/two_tower.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.ann import AnnIndex
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval.nearest import VectorRetriever
from aitems_engine.retrieval.retriever import Arrays, FloatMatrix
from aitems_engine.retrieval.sparse import history_matrix, row_sums

# Shorter vectors stay as they are: a history without a known item has the vector 0.
LENGTH_MIN = 1e-12
Layers = tuple[tuple[FloatMatrix, npt.NDArray[np.float32]], ...]


@dataclass(frozen=True, eq=False)
class TwoTower(VectorRetriever):
    """Both towers (`training.two_tower.fit_two_tower`).

    Attributes
    ----------
    items : float32 array, shape (num_items, dim)
        The vector of each item as it counts in a history; 0 where nothing is known.
    layers : tuple of (float32 (width, out), float32 (out,))
        Hidden layers of the user tower with relu between them; what the last one returns is added to the mean.
    decay : float in (0, 1]
        The newest item of a history weighs 1, the one before `decay`, and so on.
    longest : int
        So many of the newest items of a history count; 0 = all.
    index : AnnIndex, optional
        Over `vectors`; `save_retriever` builds it where there are many items.
    vectors : float32 array, shape (num_items, dim)
        What the item tower says: `items` with length 1.
    """

    kind: ClassVar[str] = "two-tower"
    item_ids: Sequence[str]
    items: FloatMatrix
    layers: Layers = ()
    decay: float = 1.0
    longest: int = 0
    index: AnnIndex | None = None
    vectors: FloatMatrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or len(self.items) != len(self.item_ids):
            raise InvalidInputError(
                f"items must have one row for each of {len(self.item_ids)} items, got {self.items.shape}"
            )
        object.__setattr__(self, "vectors", normalised(self.items))
        width = dim = self.items.shape[1]
        for weight, bias in self.layers:
            if weight.shape != (width, len(bias)) or bias.ndim != 1:
                raise InvalidInputError(f"a hidden layer over {width} values cannot be {weight.shape} and {bias.shape}")
            width = len(bias)
        if width != dim:
            raise InvalidInputError(f"the hidden layers must end with {dim} values as the vectors do, got {width}")

    def queries(self, histories: Interactions) -> FloatMatrix:
        """See `VectorRetriever.queries`; of length 1, or 0 where a history holds nothing known."""
        if self.longest:
            from_end = histories.splits[1:][histories.users()] - np.arange(len(histories.items))
            histories = histories.where(from_end <= self.longest)
        weights = history_matrix(histories, self.decay)
        total = np.bincount(weights.rows(), weights.values, len(weights))
        mean = np.asarray(row_sums(weights, self.items) / np.maximum(total, LENGTH_MIN)[:, None], np.float32)
        x = mean
        for place, (weight, bias) in enumerate(self.layers, start=1):
            x = x @ weight + bias
            if place < len(self.layers):
                x = np.maximum(x, 0)
        return normalised(mean + x if self.layers else mean)

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        arrays: Arrays = {"items": self.items}
        for place, (weight, bias) in enumerate(self.layers):
            arrays |= {f"layer.{place}.weight": weight, f"layer.{place}.bias": bias}
        return arrays

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"decay": self.decay, "longest": self.longest}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> TwoTower:
        """Return the retriever that `arrays` and `settings` came from."""
        count = sum(name.endswith(".weight") for name in arrays)
        layers = tuple((arrays[f"layer.{i}.weight"], arrays[f"layer.{i}.bias"]) for i in range(count))
        return cls(item_ids, arrays["items"], layers, settings["decay"], int(settings["longest"]))


def normalised(vectors: FloatMatrix) -> FloatMatrix:
    """Return the rows with length 1; both towers end with this, in training, in the index and in serving."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.asarray(vectors / np.maximum(lengths, np.float32(LENGTH_MIN))[:, None], np.float32)
