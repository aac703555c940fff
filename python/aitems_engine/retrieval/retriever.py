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

from aitems_engine._native import batch as native
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions

FloatMatrix = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
Allowed = npt.NDArray[np.bool_]

# Scores of so many histories exist at a time: 256 x 100,000 items are 100 MB.
BATCH = 256


class Retriever(Protocol):
    """Scores items for histories; higher is better. Implementations are frozen and safe for many threads."""

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

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """Return the `k` best items of each history.

        Parameters
        ----------
        histories : Interactions
            Over exactly `item_ids`.
        k : int >= 1
            Where fewer items are left, the rest is -1 and -inf.
        exclude_seen : bool
            Leave out items of the history.
        allowed : bool array, shape (num_items,), optional
            Leave out all other items.

        Raises
        ------
        InvalidInputError
            Another catalogue, `k` < 1, or `allowed` of another shape.

        Notes
        -----
        Ties: the lower position first. Popularity aside, an empty history has no candidates: what would be returned is
        not about anybody.
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


def scored_candidates(
    retriever: Retriever,
    histories: Interactions,
    k: int,
    *,
    exclude_seen: bool = True,
    allowed: Allowed | None = None,
) -> Candidates:
    """Return what `Retriever.candidates` says, from the scores of all items: the way without a short cut."""
    check_question(retriever, histories, k, allowed)
    items = np.full((len(histories), k), -1, np.int32)
    scores = np.full((len(histories), k), -np.inf, np.float32)
    somebody = np.flatnonzero(np.diff(histories.splits))
    for start in range(0, len(somebody), BATCH):
        rows = somebody[start : start + BATCH]
        values = masked_scores(retriever, histories.take(rows), exclude_seen)
        if allowed is not None:
            values[:, ~allowed] = -np.inf
        best, found = best_items(values, k)
        items[rows, : best.shape[1]] = best
        scores[rows, : best.shape[1]] = found
    return Candidates(items, scores, retriever.kind)


def check_question(retriever: Retriever, histories: Interactions, k: int, allowed: Allowed | None) -> None:
    """Raise `InvalidInputError` for what `Retriever.candidates` does not take."""
    check_catalogue(retriever, histories)
    if k < 1:
        raise InvalidInputError(f"k must be at least 1, got {k}")
    if allowed is not None and (allowed.dtype != np.bool_ or allowed.shape != (histories.num_items,)):
        raise InvalidInputError(
            f"allowed must be bool of shape ({histories.num_items},), got {allowed.dtype} {allowed.shape}"
        )


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
    items = np.full((len(values), k), -1, np.int32)
    scores = np.full((len(values), k), -np.inf, np.float32)
    for row, own in enumerate(values):
        found = best_of(own, k)
        items[row, : len(found)] = found
        scores[row, : len(found)] = own[found]
    return items, scores


def best_of(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the positions of the `k` highest values, best first, the lower first where equal; -inf is left out."""
    found = np.arange(len(values))
    if k < len(values):
        # the k-th largest value, then everything from there on in order: ties at the edge need all their members
        found = np.flatnonzero(values >= np.partition(values, -k)[-k]) if k else found[:0]
    found = found[np.argsort(-values[found], kind="stable")[:k]]
    return found[values[found] > -np.inf]


def without_seen(
    items: npt.NDArray[np.int32], scores: FloatMatrix, histories: Interactions | None, k: int
) -> tuple[npt.NDArray[np.int32], FloatMatrix]:
    """Return the first `k` of each row that are not in its history, as `Candidates` has them.

    Parameters
    ----------
    items : int32 array, shape (n, m), or (1, m) for a list that is the same for all histories
        Best first; -1 where there is none.
    scores : float32 array, of that shape
    histories : Interactions, n of them, optional
        Without, nothing is left out.
    """
    seen = None if histories is None else (histories.splits, histories.items)
    return native.without_seen(np.ascontiguousarray(items), np.ascontiguousarray(scores), seen, k)
