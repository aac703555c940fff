"""A share of the page for cold items, and a controller that brings the long-run share to its target.

Cold is an item that is young, or that few have been shown. The share is of the positions' weights, not of positions:
ten cold items at the bottom of pages nobody scrolls through are no exposure. Per page the share is met by error
diffusion (a cold item is taken out of turn when a whole position's weight is due), dithered to be right on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aitems_engine.errors import InvalidInputError
from aitems_engine.rerank.draft import Draft
from aitems_engine.rerank.options import Option, number, whole

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Freshness:
    """At least `share` of the positions' weights for cold items.

    A cold item is taken out of turn only with at least `quality_floor` of the score of the item whose turn it is;
    where none has that, the page goes on without and is flagged "freshness_infeasible".
    """

    share: float
    max_age_days: float | None
    min_impressions: int | None
    quality_floor: float
    kind: ClassVar[str] = "freshness"
    options: ClassVar[dict[str, Option]] = {
        "share": number(0, 1),
        "max_age_days": number(0, default=None, nullable=True),
        "min_impressions": whole(1, 2**62, None, nullable=True),
        "quality_floor": number(0, 1, 0.5),
    }
    needs: ClassVar[tuple[str, ...]] = ()
    relaxable: ClassVar[bool] = False

    @property
    def one_of(self) -> tuple[str, ...]:
        """Columns that say what is cold; one of them is enough."""
        asked = {"age_days": self.max_age_days, "impressions": self.min_impressions}
        return tuple(column for column, limit in asked.items() if limit is not None)

    def apply(self, draft: Draft, level: int) -> str | None:
        slate = draft.slate
        cold = np.zeros(len(slate), np.bool_)
        if self.max_age_days is not None and slate.age_days is not None:
            cold |= slate.age_days <= self.max_age_days
        if self.min_impressions is not None and slate.impressions is not None:
            cold |= slate.impressions < self.min_impressions
        share = self.share if draft.context.cold_share is None else draft.context.cold_share
        draft.cold = cold.view(np.uint8), share, self.quality_floor, _uniform(draft.context.seed)
        return f"share {share:.3f}, {int(cold.sum())} cold"


class FreshnessController:
    """Integral controller: asks the next page for more while the share so far is below the target, and for less above.

    Not part of a chain or an engine, which have no state: hold one for each placement beside all engines that serve it,
    hand `share` to the context as `cold_share` (it stands in the traced request, so a replay is exact), and report what
    the pages that were really shown had.

    Examples
    --------
    >>> controller = FreshnessController(0.1)
    >>> controller.observe(0.0)  # a page had nothing cold: the next one is asked for more
    >>> round(controller.share, 3)
    0.105

    Parameters
    ----------
    target : float
        Share of the positions' weights, 0 to 1.
    gain : float
        What the share asked for moves by, per page and per unit of error.
    highest : float
        Never ask for more; while pages cannot give what is asked, the integral stops there (no wind-up).
    """

    def __init__(self, target: float, *, gain: float = 0.05, highest: float = 0.5) -> None:
        if not (0 <= target <= highest <= 1 and gain > 0):
            raise InvalidInputError(f"0 <= target <= highest <= 1 and gain > 0, got {target}, {highest}, {gain}")
        self.target, self.gain, self.highest = target, gain, highest
        self.share = target

    def observe(self, cold_share: float) -> None:
        """Take in `Reranked.cold_share` of a page that was shown."""
        self.share = min(self.highest, max(0.0, self.share + self.gain * (self.target - cold_share)))


def _uniform(seed: int) -> float:
    """Return a number in [0, 1) from the seed (splitmix64), apart from the stream that exploration draws from."""
    x = (seed ^ 0xC01D) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return (x ^ (x >> 31)) / 2.0**64
