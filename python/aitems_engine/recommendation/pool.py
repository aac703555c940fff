"""The candidates of a batch of requests: where they come from, and how they lie together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Candidates, Retriever

IntVector = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Source:
    """A retriever and how its items lie in the catalogue.

    Attributes
    ----------
    name : str
    retriever : Retriever
    to_catalogue, from_catalogue : int32 arrays or None
        Position there of each item of the retriever, and the other way round (-1: it does not know the item). None
        where both are the same.
    """

    name: str
    retriever: Retriever
    to_catalogue: IntVector | None
    from_catalogue: IntVector | None

    @classmethod
    def over(cls, name: str, retriever: Retriever, items: ItemTable) -> Source:
        """Return the source of a retriever for a catalogue that holds all its items."""
        if list(retriever.item_ids) == items.item_ids:
            return cls(name, retriever, None, None)
        there = items.positions(retriever.item_ids)
        if (there < 0).any():
            missing = retriever.item_ids[int(np.argmax(there < 0))]
            raise InvalidInputError(f"retriever '{name}' knows item '{missing}', which the catalogue lacks")
        back = np.full(len(items), -1, np.int32)
        back[there] = np.arange(len(there), dtype=np.int32)
        return cls(name, retriever, there, back)

    def candidates(self, histories: Interactions, k: npt.NDArray[np.int64], exclude_seen: bool) -> Candidates:
        """Return the retriever's candidates as positions in the catalogue, `k` of them for each history."""
        if self.from_catalogue is not None:
            histories = histories.translated(self.from_catalogue, list(self.retriever.item_ids))
        most = int(k.max())
        found = self.retriever.candidates(histories, most, exclude_seen=exclude_seen)
        items = found.items
        if (k < most).any():
            items = np.where(np.arange(most) < k[:, None], items, np.int32(-1))
        if self.to_catalogue is not None:
            items = np.where(items < 0, np.int32(-1), self.to_catalogue[items])
        return Candidates(items, found.scores, self.name)


@dataclass(frozen=True, eq=False)
class Ads:
    """Items that someone pays for: positions in the catalogue and bids a click, highest bid first."""

    items: IntVector
    bids: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates of a batch, one request after the other, organic ones first; arrays of one length."""

    splits: npt.NDArray[np.int64]
    items: IntVector
    scores: npt.NDArray[np.float32]
    """Of the merge; below all others for items that no retriever found."""
    ranks: npt.NDArray[np.int32]
    """(n, sources), from 1; 0 where the source did not find the item."""
    source_scores: npt.NDArray[np.float32]
    bids: npt.NDArray[np.float32]
    """Of ads, a click; NaN for organic items. Empty where there are no ads."""

    @classmethod
    def together(cls, pools: Sequence[Pool]) -> Pool:
        splits, items = packed([pool.items for pool in pools])
        columns = ("scores", "ranks", "source_scores", "bids")
        return cls(splits, items, *(np.concatenate([getattr(pool, name) for pool in pools]) for name in columns))

    def own(self, row: int) -> slice:
        return slice(int(self.splits[row]), int(self.splits[row + 1]))

    def of(self, row: int) -> Pool:
        own = self.own(row)
        bids = self.bids[own] if len(self.bids) else np.full(own.stop - own.start, np.nan, np.float32)
        columns = self.items[own], self.scores[own], self.ranks[own], self.source_scores[own]
        return Pool(np.array([0, own.stop - own.start]), *columns, bids)

    def extended(self, items: IntVector, bids: npt.NDArray[np.float32] | None = None) -> Pool:
        more, sources = len(items), self.ranks.shape[1]
        lowest = self.scores.min(initial=0.0) - 1
        return Pool(
            np.array([0, len(self.items) + more]),
            np.concatenate([self.items, items]),
            np.concatenate([self.scores, lowest - np.arange(more, dtype=np.float32)]),
            np.concatenate([self.ranks, np.zeros((more, sources), np.int32)]),
            np.concatenate([self.source_scores, np.zeros((more, sources), np.float32)]),
            np.concatenate([self.bids, np.full(more, np.nan, np.float32) if bids is None else bids]),
        )


def packed(lists: Sequence[IntVector]) -> tuple[npt.NDArray[np.int64], IntVector]:
    """Return lists one after the other, and where each begins and ends."""
    splits = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=splits[1:])
    return splits, np.concatenate(lists)
