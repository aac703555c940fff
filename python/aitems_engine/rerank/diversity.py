"""Variety: maximal marginal relevance, determinantal point process, calibration to the history. Loops: csrc/rerank.

`strength` is the weight of variety against relevance, from 0 to 1; the user-mode dial `diversity` multiplies it. The
relevance is the score, scaled to 0..1 over the pool. Sources: Carbonell and Goldstein 1998 (MMR); Chen, Zhang and
Zhou 2018 (fast greedy MAP of a DPP); Steck 2018 (calibrated recommendations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine._native import rerank as native
from aitems_engine.rerank.draft import Draft
from aitems_engine.rerank.options import Option, number, text, whole

_POOL = whole(2, 100_000, 200)


@dataclass(frozen=True)
class Mmr:
    """Next is the row with the largest (1 - strength) * relevance - strength * (largest cosine to a row before it)."""

    strength: float
    pool: int
    missing_similarity: float
    kind: ClassVar[str] = "mmr"
    options: ClassVar[dict[str, Option]] = {
        "strength": number(0, 1),
        "pool": _POOL,
        "missing_similarity": number(-1, 1, 0.3),
    }
    needs: ClassVar[tuple[str, ...]] = ("vectors",)
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        return _by_vectors(draft, self, partial(native.mmr, missing_similarity=self.missing_similarity))


@dataclass(frozen=True)
class Dpp:
    """Next is the row with the largest (1 - strength) * relevance + strength * log(d^2).

    d^2 is the part of the row's unit vector that the last `window` - 1 rows before it do not span; below `floor` a row
    counts as a copy and comes after all others.
    """

    strength: float
    pool: int
    missing_similarity: float
    window: int
    floor: float
    kind: ClassVar[str] = "dpp"
    options: ClassVar[dict[str, Option]] = {
        "strength": number(0, 1),
        "pool": _POOL,
        "missing_similarity": number(0, 0.99, 0.3),
        "window": whole(1, 10_000, 10_000),
        "floor": number(1e-6, 0.5, 1e-5),
    }
    needs: ClassVar[tuple[str, ...]] = ("vectors",)
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        order = partial(native.dpp, missing_similarity=self.missing_similarity, window=self.window, floor=self.floor)
        return _by_vectors(draft, self, order)


def _by_vectors(draft: Draft, rule: Mmr | Dpp, order: Callable[..., npt.NDArray[np.int32]]) -> str | None:
    """Put the rows first that `order` chooses among the rule's pool by relevance and vectors."""
    strength = min(1.0, rule.strength * draft.dials["diversity"])
    rows, slate = draft.best(rule.pool), draft.slate
    if not len(rows):
        return None
    assert slate.vectors is not None
    present = None if slate.has_vector is None else slate.has_vector.view(np.uint8)
    places = rows if slate.vector_rows is None else slate.vector_rows[rows]
    chosen = order(draft.relevance(rows), slate.vectors, places, present, draft.context.k, strength)
    draft.put_first(rows[chosen])
    return f"strength {strength:.2f}"


@dataclass(frozen=True)
class Calibrated:
    """The page's shares of an attribute near those of the history.

    Greedy on (1 - strength) * sum of relevance - strength * KL(p || 0.99 q + 0.01 p): p the shares in the history, an
    event weighing `decay` times the one after it, q those of the page.
    """

    attribute: str
    strength: float
    pool: int
    decay: float
    kind: ClassVar[str] = "calibrated"
    options: ClassVar[dict[str, Option]] = {
        "attribute": text(),
        "strength": number(0, 1),
        "pool": _POOL,
        "decay": number(0.01, 1, 1.0),
    }
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        history = draft.context.history_codes.get(self.attribute, np.zeros(0, np.int32))
        known = history >= 0
        rows = draft.best(self.pool)
        if not known.any() or not len(rows):
            return None
        weight = self.decay ** np.arange(len(history) - 1, -1, -1, dtype=np.float64)
        values, group = np.unique(history[known], return_inverse=True)
        target = np.bincount(group, weight[known])
        codes = draft.slate.attribute(self.attribute)[rows]
        place = np.searchsorted(values, codes).clip(0, len(values) - 1)
        groups = np.where(values[place] == codes, place, -1).astype(np.int32)
        strength = min(1.0, self.strength * draft.dials["diversity"])
        chosen = native.calibrated(draft.relevance(rows), groups, target / target.sum(), draft.context.k, strength)
        draft.put_first(rows[chosen])
        return f"strength {strength:.2f}, {len(values)} groups"
