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
    somebody = np.flatnonzero(lengths)
    if len(somebody):
        known = histories if len(somebody) == len(histories) else histories.take(somebody)
        # what was seen is dropped from as many more hits, which is cheaper than a filter for each history
        more = min(k + (int(lengths.max()) if exclude_seen else 0), histories.num_items)
        only = None if allowed is None else Filter.bitmap(allowed)
        hits = index.search(retriever.queries(known), more, only)
        items[somebody], scores[somebody] = without_seen(
            hits.ids.astype(np.int32), hits.scores, known if exclude_seen else None, k
        )
    return Candidates(items, scores, retriever.kind)
