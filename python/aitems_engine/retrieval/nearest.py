"""Candidates of retrievers whose score is the inner product of a history's vector and an item's: from an ANN index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import (
    Allowed,
    Arrays,
    Candidates,
    FloatMatrix,
    check_question,
    scored_candidates,
    without_seen,
)

# With fewer items the product with all of them costs no more than a search.
INDEXED_FROM = 20_000
# Share of allowed items from which on hits are thinned out instead of searching with a filter.
_MOST = 0.1


class VectorRetriever(ABC):
    """A retriever whose score is the inner product of a history's vector and an item's.

    Attributes
    ----------
    vectors : float32 array, shape (num_items, dim)
    index : AnnIndex or None
        Over `vectors` by inner product; its ids are positions. Without one all items are scored.
    """

    kind: ClassVar[str]
    item_ids: Sequence[str]
    vectors: FloatMatrix
    index: AnnIndex | None

    @abstractmethod
    def queries(self, histories: Interactions) -> FloatMatrix:
        """Return the histories' vectors, float32 (num_histories, dim)."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """See `Retriever.arrays`."""

    @abstractmethod
    def settings(self) -> Mapping[str, float]:
        """See `Retriever.settings`."""

    def scores(self, histories: Interactions) -> FloatMatrix:
        """See `Retriever.scores`."""
        return np.asarray(self.queries(histories) @ self.vectors.T)

    def candidates(
        self, histories: Interactions, k: int, *, exclude_seen: bool = True, allowed: Allowed | None = None
    ) -> Candidates:
        """See `Retriever.candidates`; with an index as far as it finds them."""
        index = self.index
        if index is None:
            return scored_candidates(self, histories, k, exclude_seen=exclude_seen, allowed=allowed)
        check_question(self, histories, k, allowed)
        items = np.full((len(histories), k), -1, np.int32)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        lengths = np.diff(histories.splits)
        rows = np.flatnonzero(lengths)
        if not len(rows):
            return Candidates(items, scores, self.kind)
        known = histories if len(rows) == len(histories) else histories.take(rows)
        queries = self.queries(known)
        # what was seen is dropped from as many more hits, which is cheaper than a filter for each history
        more = k + (int(lengths.max()) if exclude_seen else 0)
        share = 1.0 if allowed is None else np.count_nonzero(allowed) / len(allowed)
        if share >= _MOST:
            # so is what is not allowed, where most items are; a row that gets too few is searched again with the filter
            wide = min(histories.num_items, int(more / share * 1.1) if allowed is not None else more)
            hits = index.search(queries, wide)
            found = hits.ids.astype(np.int32)
            if allowed is not None:
                found[~allowed[found]] = -1
            items[rows], scores[rows] = without_seen(found, hits.scores, known if exclude_seen else None, k)
            if allowed is None or wide == histories.num_items:
                return Candidates(items, scores, self.kind)
            short = items[rows, -1] < 0
            rows, known, queries = rows[short], known.take(short), queries[short]
        if len(rows):
            assert allowed is not None
            hits = index.search(queries, min(more, histories.num_items), Filter.bitmap(allowed))
            found = hits.ids.astype(np.int32)
            items[rows], scores[rows] = without_seen(found, hits.scores, known if exclude_seen else None, k)
        return Candidates(items, scores, self.kind)


def build_index(
    retriever: VectorRetriever, histories: Interactions | None, *, tag: str, recall_target: float = 0.95
) -> AnnIndex:
    """Return an index over the retriever's vectors, its effort chosen with the given histories (or with items)."""
    asked = None
    if histories is not None:
        somebody = np.flatnonzero(np.diff(histories.splits))
        chosen = somebody[:: max(1, len(somebody) // 1000)]
        asked = retriever.queries(histories.take(chosen)) if len(chosen) else None
    vectors = np.ascontiguousarray(retriever.vectors)
    return AnnIndex.build(vectors, queries=asked, recall_target=recall_target, tag=tag)
