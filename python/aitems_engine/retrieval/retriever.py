"""What every retriever is asked, and how its best items are taken from its scores.

A retriever answers a batch of histories at once; a single request is a batch of one. It never sees users, only what
they did, so that a new user is nothing special.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions

FloatMatrix = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]

# Scores of so many histories exist at a time: 256 x 100,000 items are 100 MB.
BATCH = 256


class Retriever(Protocol):
    """Scores all items for histories; higher is better. Implementations are frozen and safe for many threads."""

    kind: ClassVar[str]

    @property
    def item_ids(self) -> Sequence[str]:
        """Items it can return, in the order of its scores."""
        ...

    def scores(self, histories: Interactions) -> FloatMatrix:
        """Return float32 (num_histories, num_items).

        Parameters
        ----------
        histories : Interactions
            Over exactly `item_ids` (`Interactions.over`); an empty history is scored as nobody's.
        """
        ...

    def arrays(self) -> Arrays:
        """Return what it is made of, for `save_retriever`."""
        ...

    def settings(self) -> Mapping[str, float]:
        """Return the numbers it was made with that its scores need."""
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best items of each history, best first.

    Attributes
    ----------
    items : int32 array, shape (n, k)
        Positions in the retriever's `item_ids`; -1 where there is no further item.
    scores : float32 array, shape (n, k)
        -inf where `items` is -1.
    source : str
        The retriever's kind: where these candidates come from.
    """

    items: npt.NDArray[np.int32]
    scores: FloatMatrix
    source: str


def candidates(retriever: Retriever, histories: Interactions, k: int, *, exclude_seen: bool = True) -> Candidates:
    """Return the `k` best items of each history.

    Parameters
    ----------
    retriever : Retriever
    histories : Interactions
        Over the retriever's items.
    k : int >= 1
        Where fewer items are left, the rest is -1 and -inf.
    exclude_seen : bool
        Leave out items of the history.

    Raises
    ------
    InvalidInputError
        Another catalogue, or `k` < 1.

    Notes
    -----
    Ties: the lower position first. Items with the score -inf are never returned.
    """
    check_catalogue(retriever, histories)
    if k < 1:
        raise InvalidInputError(f"k must be at least 1, got {k}")
    items = np.full((len(histories), k), -1, np.int32)
    scores = np.full((len(histories), k), -np.inf, np.float32)
    for start in range(0, len(histories), BATCH):
        batch = histories.take(slice(start, start + BATCH))
        values = masked_scores(retriever, batch, exclude_seen)
        best, found = best_items(values, k)
        items[start : start + BATCH, : best.shape[1]] = best
        scores[start : start + BATCH, : best.shape[1]] = found
    return Candidates(items, scores, retriever.kind)


def check_catalogue(retriever: Retriever, histories: Interactions) -> None:
    """Raise unless the histories are over the retriever's items."""
    if histories.num_items != len(retriever.item_ids):
        raise InvalidInputError(
            f"histories are over {histories.num_items} items, the retriever over {len(retriever.item_ids)}; "
            "call histories.over(retriever.item_ids)"
        )


def masked_scores(retriever: Retriever, histories: Interactions, exclude_seen: bool) -> FloatMatrix:
    """Return the scores, -inf for the items of the history where wanted."""
    values = retriever.scores(histories)
    if exclude_seen:
        values[histories.users(), histories.items] = -np.inf
    return values


def best_items(values: FloatMatrix, k: int) -> tuple[npt.NDArray[np.int32], FloatMatrix]:
    """Return the items and scores of the `k` (or all) highest values of each row; see `Candidates`."""
    k = min(k, values.shape[1])
    # the k-th largest value, then everything from there on in order: ties at the edge need all their members
    edge = np.partition(values, -k, axis=1)[:, -k] if k else np.zeros(len(values))
    items = np.full((len(values), k), -1, np.int32)
    scores = np.full((len(values), k), -np.inf, np.float32)
    for row, (own, low) in enumerate(zip(values, edge, strict=True)):
        found = np.flatnonzero(own >= low)
        found = found[np.argsort(-own[found], kind="stable")[:k]]
        found = found[own[found] > -np.inf]
        items[row, : len(found)] = found
        scores[row, : len(found)] = own[found]
    return items, scores
