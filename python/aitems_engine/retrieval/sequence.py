"""Retrievers whose query is what a transformer says at the end of a history.

The network is an ONNX graph without the item vectors, run by ONNX Runtime: it takes the vectors of the newest items of
a history, oldest first, and returns the vector at its end; the score of an item is the inner product with the item's
vector. So new users need no training, and the vectors go into an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.ann import AnnIndex
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval.nearest import VectorRetriever
from aitems_engine.retrieval.retriever import BATCH, Arrays, FloatMatrix
from aitems_engine.runtime.onnx_session import open_session


@dataclass(frozen=True, eq=False)
class SequenceRetriever(VectorRetriever):
    """A trained transformer.

    Attributes
    ----------
    vectors : float32 array, shape (num_items, dim)
    encoder : uint8 array
        The bytes of the ONNX graph (`training.sequence_onnx`).
    longest : int
        So many of the newest items of a history count.
    appended : int
        Places that the graph adds to a history for itself.
    index : AnnIndex, optional
        Over `vectors`; `save_retriever` builds it where there are many items.
    """

    appended: ClassVar[int] = 0
    item_ids: Sequence[str]
    vectors: FloatMatrix
    encoder: npt.NDArray[np.uint8]
    longest: int
    index: AnnIndex | None = None
    _session: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.item_ids):
            raise InvalidInputError(
                f"vectors must have one row for each of {len(self.item_ids)} items, got {self.vectors.shape}"
            )
        session = open_session(self.encoder.tobytes(), threads=1)
        inputs = {one.name: one.shape for one in session.get_inputs()}
        dim = self.vectors.shape[1]
        if set(inputs) != {"vectors", "lengths"} or inputs["vectors"][2] != dim:
            raise InvalidInputError(f"the encoder must take lengths and vectors of {dim} values, it takes {inputs}")
        most = int(session.get_modelmeta().custom_metadata_map.get("longest", 0)) - self.appended
        if not 1 <= self.longest <= most:
            raise InvalidInputError(
                f"longest must be from 1 to {most}, which the encoder was made for, got {self.longest}"
            )
        object.__setattr__(self, "_session", session)

    def queries(self, histories: Interactions) -> FloatMatrix:
        """See `VectorRetriever.queries`; 0 where a history is empty."""
        found = np.zeros((len(histories), self.vectors.shape[1]), np.float32)
        lengths = np.minimum(np.diff(histories.splits), self.longest)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        for start in range(0, len(order), BATCH):
            # of like length, so that little is padded
            rows = order[start : start + BATCH]
            own = lengths[rows]
            place = np.arange(own[-1] + self.appended)
            first = histories.splits[1:][rows] - own
            items = histories.items[np.where(place < own[:, None], first[:, None] + place, first[:, None])]
            inputs = {"vectors": self.vectors[items], "lengths": (own + self.appended).astype(np.int32)}
            found[rows] = self._session.run(None, inputs)[0]
        return found

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {"vectors": self.vectors, "encoder": self.encoder}

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"longest": self.longest}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> SequenceRetriever:
        """Return the retriever that `arrays` and `settings` came from."""
        return cls(item_ids, arrays["vectors"], arrays["encoder"], int(settings["longest"]))
