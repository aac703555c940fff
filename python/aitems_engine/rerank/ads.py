"""Ads among organic items, in one currency.

An organic item is worth `organic_weight` * score, an ad its expected payment bid * pCTR (eCPM / 1000) on top of that.
Both lists keep their order; an ad takes a position where it is worth at least the organic item whose turn it is, within
gap, number and budget; where the budget binds, with the shadow price on organic value that earns most (Yan et al. 2020,
"Ads allocation in feed via constrained optimization").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aitems_engine.rerank.draft import Draft
from aitems_engine.rerank.options import Option, number, whole


@dataclass(frozen=True)
class Ads:
    """Let ads onto the page.

    `gap` organic items at least between two ads; at most `max_ads`; the first position only for an ad worth
    `top_slot_multiple` times the organic item (null = never); organic items lose at most `organic_loss_budget` of their
    value (scores times weights of positions) against the page without ads.
    """

    gap: int
    max_ads: int
    organic_weight: float
    top_slot_multiple: float | None
    organic_loss_budget: float
    kind: ClassVar[str] = "ads"
    options: ClassVar[dict[str, Option]] = {
        "gap": whole(0, 10_000, 3),
        "max_ads": whole(1, 10_000),
        "organic_weight": number(0, default=1.0),
        "top_slot_multiple": number(1, default=None, nullable=True),
        "organic_loss_budget": number(0, 1, 0.1),
    }
    needs: ClassVar[tuple[str, ...]] = ("is_ad", "bid", "pctr")
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        slate, ads = draft.slate, draft.ads
        assert slate.bid is not None
        assert slate.pctr is not None
        bid = slate.bid[ads]
        value = bid * slate.pctr[ads] + self.organic_weight * draft.scores[ads]
        keep = np.flatnonzero(np.isfinite(value))
        draft.ads = ads[keep[np.argsort(-value[keep], kind="stable")]]
        draft.ad_rules = (
            self.gap,
            self.max_ads,
            math.inf if self.top_slot_multiple is None else self.top_slot_multiple,
            self.organic_weight,
            self.organic_loss_budget,
        )
        return f"{len(draft.ads)} ads" if len(draft.ads) else None
