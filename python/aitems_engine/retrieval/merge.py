"""Candidates of several retrievers as one list a history, without repeats, and where each came from.

Scores of different retrievers cannot be compared, ranks can: a candidate gets the sum over its sources of
1 / (60 + rank) ("rrf": reciprocal-rank fusion, Cormack et al., SIGIR 2009) or of 1 - (rank - 1) / length of its list
there ("rank").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.retrieval.retriever import Candidates, FloatMatrix

METHODS = ("rrf", "rank")
RRF_CONSTANT = 60
# Arrays of so many histories stay in the processor's cache.
_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class Merged:
    """Distinct candidates of each history, best first; provenance beside each.

    Attributes
    ----------
    sources : tuple of str
        Names of the retrievers: columns of `ranks` and `source_scores`, bits of `source_bits`.
    splits : int64 array, shape (n + 1,)
        The candidates of history h are ``items[splits[h]:splits[h + 1]]``.
    items : int32 array, shape (m,)
    scores : float32 array, shape (m,)
        Fused; above 0.
    source_bits : int64 array, shape (m,)
        Bit s is set where source s found the item.
    ranks : int32 array, shape (m, num_sources)
        From 1 on; 0 where the source did not find the item.
    source_scores : float32 array, shape (m, num_sources)
        The source's own score; -inf where it did not find the item.
    """

    sources: tuple[str, ...]
    splits: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    source_bits: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int32]
    source_scores: FloatMatrix

    def __len__(self) -> int:
        return len(self.splits) - 1

    @classmethod
    def empty(cls, n: int) -> Merged:
        """Return no candidates for `n` histories, of no source."""
        none, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        bits = none.astype(np.int64)
        return cls((), np.zeros(n + 1, np.int64), none, scores, bits, none.reshape(0, 0), scores.reshape(0, 0))


def merge(
    found: Sequence[Candidates],
    *,
    method: str = "rrf",
    budget: int = 1000,
    quotas: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Merged:
    """Merge what several retrievers found for the same histories.

    Parameters
    ----------
    found : sequence of Candidates, 1 to 62
        Over one catalogue, from sources of different names; each distinct within a history.
    method : "rrf" or "rank"
        What a rank is worth: see the head of the file.
    budget : int >= 1
        Most candidates of a history.
    quotas : mapping of source to int >= 0, optional
        So many of the source's best are among the merged ones, however little they are worth to the others. Together
        at most `budget`; a source that is not among `found` is passed over.
    weights : mapping of source to float > 0, optional
        Default 1.

    Raises
    ------
    InvalidInputError
        Other histories, repeated or unknown names, or a number out of range.

    Notes
    -----
    Ties: the lower item first. Twin: tests/reference/slow_merge.py.
    """
    names = _checked(found, method, budget, quotas or {}, weights or {})
    total, groups = len(found[0].items), []
    for start in range(0, max(total, 1), _TOGETHER):
        part = found
        if total > _TOGETHER:
            rows = slice(start, start + _TOGETHER)
            part = [Candidates(c.items[rows], c.scores[rows], c.source) for c in found]
        groups.append(_merge(names, part, method, budget, quotas or {}, weights or {}))
    if len(groups) == 1:
        return groups[0]
    ends = np.cumsum([0, *(len(g.items) for g in groups)])
    return Merged(
        names,
        np.concatenate([[0], *(g.splits[1:] + end for g, end in zip(groups, ends[:-1], strict=True))]),
        *(
            np.concatenate([getattr(g, name) for g in groups])
            for name in ("items", "scores", "source_bits", "ranks", "source_scores")
        ),
    )


def _merge(
    names: tuple[str, ...],
    found: Sequence[Candidates],
    method: str,
    budget: int,
    quotas: Mapping[str, int],
    weights: Mapping[str, float],
) -> Merged:
    n, num_sources = len(found[0].items), len(found)
    # one entry a candidate and source, source by source
    rows, items, scores, ranks, worth, reserved = [], [], [], [], [], []
    for name, c in zip(names, found, strict=True):
        there = c.items >= 0
        counts = np.count_nonzero(there, axis=1)
        full = len(there) and int(counts.min()) == there.shape[1]
        row = np.repeat(np.arange(n), counts)
        rank = np.arange(1, len(row) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
        rows.append(row)
        items.append(c.items.ravel() if full else c.items[there])
        scores.append(c.scores.ravel() if full else c.scores[there])
        ranks.append(rank)
        reserved.append(rank <= quotas.get(name, 0))
        worth.append(
            weights.get(name, 1.0) * (1 / (RRF_CONSTANT + rank) if method == "rrf" else 1 - (rank - 1) / counts[row])
        )
    cells = np.concatenate(rows)
    sizes = [len(r) for r in rows]
    source = np.repeat(np.arange(num_sources), sizes)
    item = np.concatenate(items)
    span = int(item.max(initial=0)) + 1
    cells = cells * span + item

    order = _order(cells)
    ascending = cells[order]
    first = np.diff(ascending, prepend=-1) != 0
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(first) - 1
    cells = ascending[first]
    m = len(cells)
    fused = np.bincount(place, np.concatenate(worth), m).astype(np.float32)
    row_of = cells // span if n > 1 else np.zeros(m, np.int64)

    best = _best_first(row_of, fused)
    splits = np.searchsorted(row_of, np.arange(n + 1))
    if m and int(np.diff(splits).max()) > budget:
        spared = np.zeros(m, bool)
        spared[place[np.concatenate(reserved)]] = True
        # reserved ones first, each in their order; then as many of a row as may stay
        queue = best[_order(row_of[best] * 2 + ~spared[best])]
        kept = np.zeros(m, bool)
        kept[queue[np.arange(m) - splits[row_of[queue]] < budget]] = True
        best = best[kept[best]]
        splits = np.searchsorted(row_of[best], np.arange(n + 1))
    # where each distinct candidate goes; those that do not stay go to a line too many
    target = np.full(m, len(best))
    target[best] = np.arange(len(best))
    flat = target[place] * num_sources + source
    rank_of = np.zeros((len(best) + 1, num_sources), np.int32)
    score_of = np.full((len(best) + 1, num_sources), -np.inf, np.float32)
    rank_of.ravel()[flat] = np.concatenate(ranks)
    score_of.ravel()[flat] = np.concatenate(scores)
    rank_of, score_of = rank_of[:-1], score_of[:-1]
    bits = np.zeros(len(best), np.int64)
    for s in range(num_sources):
        bits |= (rank_of[:, s] > 0).astype(np.int64) << s
    chosen = cells[best] - row_of[best] * span
    return Merged(names, splits, chosen.astype(np.int32), fused[best], bits, rank_of, score_of)


def _order(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the stable order of keys >= 0: key and place in one number sort faster than a stable argsort."""
    bits = len(keys).bit_length()
    return np.asarray(np.sort(keys << bits | np.arange(len(keys))) & ((1 << bits) - 1))


def _best_first(rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the order by row, falling score and place; the bits of positive floats ascend as they do."""
    order = _order(0x7FFFFFFF - scores.view(np.int32).astype(np.int64))
    return order if not rows[-1:].any() else order[_order(rows[order])]


def _checked(
    found: Sequence[Candidates],
    method: str,
    budget: int,
    quotas: Mapping[str, int],
    weights: Mapping[str, float],
) -> tuple[str, ...]:
    names = tuple(c.source for c in found)
    if not 1 <= len(names) <= 62 or len(set(names)) < len(names):
        raise InvalidInputError(f"candidates of 1 to 62 sources of different names are merged, got {list(names)}")
    if len({len(c.items) for c in found}) > 1:
        raise InvalidInputError(f"the sources answered different histories: {[len(c.items) for c in found]}")
    if method not in METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(METHODS)}, got '{method}'")
    if budget < 1 or min(quotas.values(), default=0) < 0 or sum(quotas.values()) > budget:
        raise InvalidInputError(
            f"budget must be at least 1 and the quotas at most that, got {budget} and {dict(quotas)}"
        )
    if not all(0 < w < np.inf for w in weights.values()):
        raise InvalidInputError(f"weights must be above 0 and finite, got {dict(weights)}")
    return names
