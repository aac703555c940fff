"""Re-ranking: from scored candidates to a page by declared rules. Read `chain` first; rules: docs/reranking.md."""

from __future__ import annotations

from aitems_engine.rerank.chain import Chain
from aitems_engine.rerank.freshness import FreshnessController
from aitems_engine.rerank.mode import UserModeModel
from aitems_engine.rerank.slate import LedgerEntry, Reranked, RuleContext, Slate, Step

__all__ = [
    "Chain",
    "FreshnessController",
    "LedgerEntry",
    "Reranked",
    "RuleContext",
    "Slate",
    "Step",
    "UserModeModel",
]
