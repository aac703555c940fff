"""Ranking: features declared once for training and serving, the trained ranker, and the objective it serves."""

from __future__ import annotations

from aitems_engine.ranking.batches import Examples, FeatureBatch, FieldSpec, Predictions

__all__ = ["Examples", "FeatureBatch", "FieldSpec", "Predictions"]
