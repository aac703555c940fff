"""Exploration at declared positions, by Thompson sampling, with the probability of what is shown known exactly.

A calibrated pCTR from n impressions has the relative variance (1 - pCTR) / (pCTR * n); an item's worth is taken as
log-normal around its score with that variance. Thompson sampling shows an item with the probability that it is the best
of the pool; these probabilities are integrated numerically, held between floor and ceiling, and one item is drawn from
them. So the logged propensity is that of the draw, and not an estimate: inverse-propensity estimators stay unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aitems_engine._native import rerank as native
from aitems_engine.rerank.draft import Draft
from aitems_engine.rerank.options import Option, number, positions, whole

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Exploration:
    """Draw the items of the positions `slots` (from 1) from the `pool` best.

    `rate` is the share of such a position that is explored (the user-mode dial `exploration` multiplies it), the rest
    stays with the item whose turn it is. Every item of the pool that no rule forbids there has at least the probability
    `floor` and at most `ceiling`. `prior_impressions` are counted on top of an item's own.
    """

    slots: tuple[int, ...]
    pool: int
    rate: float
    floor: float
    ceiling: float
    prior_impressions: float
    kind: ClassVar[str] = "exploration"
    options: ClassVar[dict[str, Option]] = {
        "slots": positions(),
        "pool": whole(2, 1000, 50),
        "rate": number(0, 1, 1.0),
        "floor": number(0, 1, 0.001),
        "ceiling": number(0.5, 1, 0.95),
        "prior_impressions": number(1, default=100.0),
    }
    needs: ClassVar[tuple[str, ...]] = ("pctr",)
    uses: ClassVar[tuple[str, ...]] = ("impressions",)
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        slate, k = draft.slate, draft.context.k
        rate = min(1.0, self.rate * draft.dials["exploration"])
        slots = np.zeros(k, np.uint8)
        slots[[s - 1 for s in self.slots if s <= k]] = 1
        rows = draft.best(self.pool)
        assert slate.pctr is not None
        rows = rows[(draft.scores[rows] > 0) & np.isfinite(slate.pctr[rows])]
        if rate == 0 or not slots.any() or len(rows) < 2:
            return None
        pctr = slate.pctr[rows].astype(np.float64).clip(1e-6, 1 - 1e-6)
        impressions = self.prior_impressions + (0 if slate.impressions is None else slate.impressions[rows])
        variance = ((1 - pctr) / (pctr * impressions)).clip(1e-12, 4)
        chance = native.chances_to_be_best(np.log(draft.scores[rows]) - variance / 2, np.sqrt(variance))
        seed = draft.context.seed & _MASK
        draft.exploration = rows, chance, slots, rate, self.floor, self.ceiling, seed
        return f"rate {rate:.2f}, {len(rows)} in the pool"
