"""GF-CF (Shen et al., CIKM 2021): collaborative filtering as a low-pass filter on the user-item graph, in closed form.

With R~ = D_U^-p R D_I^-1/2 (published with p = 1/2) and its leading right singular vectors V, a history h scores
h (R~' R~ + alpha D_I^-1/2 V V' D_I^1/2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import Allowed, Arrays, Candidates, FloatMatrix, scored_candidates
from aitems_engine.retrieval.sparse import Csr, from_dense, history_matrix, product, row_sums


@dataclass(frozen=True, eq=False)
class GfCf:
    """The filter (`training.retrieval.fit_gf_cf`).

    Attributes
    ----------
    graph : Csr, shape (num_users, num_items)
        R~.
    vectors : float32 array, shape (num_items, rank)
        V, the strongest first; without columns only the linear filter is there.
    degrees : float32 array, shape (num_items,)
        Square roots of the items' degrees; 0 where an item has none.
    alpha : float
        Weight of the ideal low-pass filter.
    """

    kind: ClassVar[str] = "gf-cf"
    item_ids: Sequence[str]
    graph: Csr
    vectors: npt.NDArray[np.float32]
    degrees: npt.NDArray[np.float32]
    alpha: float = 0.3
    _users_of: Csr = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_users_of", self.graph.transpose())

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        rows = history_matrix(histories)
        linear = product(from_dense(product(rows, self._users_of)), self.graph)
        inverse = np.divide(1, self.degrees, out=np.zeros_like(self.degrees), where=self.degrees > 0)
        spectrum = row_sums(rows, self.vectors * inverse[:, None])
        ideal = (spectrum @ self.vectors.T) * self.degrees
        return np.asarray(linear + np.float32(self.alpha) * ideal)

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`."""
        return scored_candidates(self, histories, k, exclude_seen=exclude_seen, allowed=allowed)

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {
            "splits": self.graph.splits,
            "columns": self.graph.columns,
            "values": self.graph.values,
            "vectors": self.vectors,
            "degrees": self.degrees,
        }

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"alpha": self.alpha}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> GfCf:
        """Return the retriever that `arrays` and `settings` came from."""
        graph = Csr(arrays["splits"], arrays["columns"], arrays["values"], len(item_ids))
        return cls(item_ids, graph, arrays["vectors"], arrays["degrees"], settings["alpha"])
