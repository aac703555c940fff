"""iALS (Hu et al., ICDM 2008; in the form of Rendle et al., RecSys 2022): implicit matrix factorisation.

A user is the solution of a small least-squares problem over the items of the history, so new users need no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.ann import AnnIndex
from aitems_engine.events import Interactions
from aitems_engine.retrieval.nearest import VectorRetriever
from aitems_engine.retrieval.retriever import Arrays, FloatMatrix


@dataclass(frozen=True, eq=False)
class Ials(VectorRetriever):
    """Item vectors (`training.retrieval.fit_ials`).

    Attributes
    ----------
    vectors : float32 array, shape (num_items, rank)
    unobserved : float
        Weight of a pair that was not observed.
    l2, l2_exponent : float
        A user's regularisation is ``l2 * (len(history) + unobserved * num_items) ** l2_exponent``.
    index : AnnIndex, optional
        Over `vectors`; `save_retriever` builds it where there are many items.
    """

    kind: ClassVar[str] = "ials"
    item_ids: Sequence[str]
    vectors: npt.NDArray[np.float32]
    unobserved: float
    l2: float
    l2_exponent: float
    index: AnnIndex | None = None
    _gram: npt.NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_gram", self.vectors.T @ self.vectors)

    def queries(self, histories: Interactions) -> FloatMatrix:
        """See `VectorRetriever.queries`."""
        settings = self.unobserved, self.l2, self.l2_exponent
        return solve_side(histories.splits, histories.items, self.vectors, *settings, self._gram)

    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""
        return {"vectors": self.vectors}

    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""
        return {"unobserved": self.unobserved, "l2": self.l2, "l2_exponent": self.l2_exponent}

    @classmethod
    def restore(cls, item_ids: Sequence[str], arrays: Arrays, settings: Mapping[str, float]) -> Ials:
        """Return the retriever that `arrays` and `settings` came from."""
        return cls(item_ids, arrays["vectors"], settings["unobserved"], settings["l2"], settings["l2_exponent"])


def solve_side(
    splits: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int32],
    others: npt.NDArray[np.float32],
    unobserved: float,
    l2: float,
    exponent: float,
    gram: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the vectors of one side given the other's, float32 (len(splits) - 1, rank).

    Each solves (unobserved * O'O + sum of o o' + reg * I) x = sum of o over its observed rows o of `others`; `gram` is
    O'O where it is known.
    """
    lengths = np.diff(splits)
    rank = others.shape[1]
    unseen = unobserved * (others.T @ others if gram is None else gram)
    regularisation = l2 * (lengths + unobserved * len(others)) ** exponent
    out = np.zeros((len(lengths), rank), np.float32)
    order = np.argsort(lengths, kind="stable")
    begin = int(np.searchsorted(lengths[order], 1))  # nothing observed: zero
    while begin < len(order):
        # rows of similar length together, at most 2^22 floats of gathered vectors
        size = max(1, (1 << 22) // (rank * int(lengths[order[begin]])))
        size = max(1, min(size, (1 << 22) // (rank * int(lengths[order[min(begin + size, len(order)) - 1]]))))
        rows = order[begin : begin + size]
        longest = int(lengths[rows].max())
        used = np.arange(longest) < lengths[rows][:, None]
        index = np.minimum(splits[rows][:, None] + np.arange(longest), len(columns) - 1)
        observed = others[columns[index]] * used[:, :, None]
        a = np.matmul(observed.transpose(0, 2, 1), observed) + unseen
        a[:, np.arange(rank), np.arange(rank)] += regularisation[rows][:, None]
        out[rows] = np.linalg.solve(a, observed.sum(1)[:, :, None])[:, :, 0]
        begin += size
    return out
