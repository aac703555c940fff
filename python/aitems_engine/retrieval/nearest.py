"""Candidates of retrievers whose score is the inner product of a history's vector and an item's: from an ANN index."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import (
    Allowed,
    Candidates,
    FloatMatrix,
    Retriever,
    check_question,
    scored_candidates,
    without_seen,
)

# With fewer items the product with all of them costs no more than a search.
INDEXED_FROM = 20_000
# Share of allowed items from which on hits are thinned out instead of searching with a filter.
_MOST = 0.1


class VectorRetriever(Retriever, Protocol):
    """A retriever with vectors; without `index` it scores all items."""

    @property
    def vectors(self) -> FloatMatrix:
        """Return the items' vectors, float32 (num_items, dim)."""
        ...

    @property
    def index(self) -> AnnIndex | None:
        """Return the index over `vectors` by inner product; its ids are positions."""
        ...

    def queries(self, histories: Interactions) -> FloatMatrix:
        """Return the histories' vectors, float32 (num_histories, dim)."""
        ...


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


def nearest(
    retriever: VectorRetriever, histories: Interactions, k: int, exclude_seen: bool, allowed: Allowed | None
) -> Candidates:
    """Return what `Retriever.candidates` says, as far as the index finds it."""
    index = retriever.index
    if index is None:
        return scored_candidates(retriever, histories, k, exclude_seen=exclude_seen, allowed=allowed)
    check_question(retriever, histories, k, allowed)
    items = np.full((len(histories), k), -1, np.int32)
    scores = np.full((len(histories), k), -np.inf, np.float32)
    lengths = np.diff(histories.splits)
    rows = np.flatnonzero(lengths)
    if not len(rows):
        return Candidates(items, scores, retriever.kind)
    known = histories if len(rows) == len(histories) else histories.take(rows)
    queries = retriever.queries(known)
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
            return Candidates(items, scores, retriever.kind)
        short = items[rows, -1] < 0
        rows, known, queries = rows[short], known.take(short), queries[short]
    if len(rows):
        assert allowed is not None
        hits = index.search(queries, min(more, histories.num_items), Filter.bitmap(allowed))
        found = hits.ids.astype(np.int32)
        items[rows], scores[rows] = without_seen(found, hits.scores, known if exclude_seen else None, k)
    return Candidates(items, scores, retriever.kind)
