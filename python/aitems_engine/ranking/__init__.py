"""Ranking: features declared once for training and serving, the trained ranker, and the objective it serves."""

from __future__ import annotations

from aitems_engine.ranking.batches import Examples, FeatureBatch, FieldSpec, Predictions
from aitems_engine.ranking.declaration import FeatureConfig
from aitems_engine.ranking.features import FeatureQuery, FeatureSet
from aitems_engine.ranking.objective import Objective
from aitems_engine.ranking.ranker import Ranker, open_ranker, ranker_parts

__all__ = [
    "Examples",
    "FeatureBatch",
    "FeatureConfig",
    "FeatureQuery",
    "FeatureSet",
    "FieldSpec",
    "Objective",
    "Predictions",
    "Ranker",
    "open_ranker",
    "ranker_parts",
]
