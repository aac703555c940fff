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

from aitems_engine._native import batch as native
from aitems_engine.errors import InvalidInputError
from aitems_engine.retrieval.retriever import Candidates, FloatMatrix

METHODS = ("rrf", "rank")


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
    sources = [
        (
            np.ascontiguousarray(c.items),
            np.ascontiguousarray(c.scores),
            (weights or {}).get(name, 1.0),
            (quotas or {}).get(name, 0),
        )
        for name, c in zip(names, found, strict=True)
    ]
    splits, items, scores, bits, ranks, source_scores = native.merge(sources, method == "rrf", budget)
    end = int(splits[-1])  # there is room for the most there can be
    return Merged(names, splits, items[:end], scores[:end], bits[:end], ranks[:end], source_scores[:end])


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
