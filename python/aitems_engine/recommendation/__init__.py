"""Recommendation requests: what is asked, the stages it passes, the page that comes of it. Read `recommender` first."""

from __future__ import annotations

from aitems_engine.recommendation.loading import DEFAULT_CONFIG, load_recommender, read_ads, recommender_parts
from aitems_engine.recommendation.pool import Ads
from aitems_engine.recommendation.recommender import Recommender
from aitems_engine.recommendation.request import HistoryEvent, Request
from aitems_engine.recommendation.response import Origin, RecommendedItem, Response, Stage, Trace
from aitems_engine.recommendation.user_mode import UserMode, read_query_specificity

__all__ = [
    "DEFAULT_CONFIG",
    "Ads",
    "HistoryEvent",
    "Origin",
    "RecommendedItem",
    "Recommender",
    "Request",
    "Response",
    "Stage",
    "Trace",
    "UserMode",
    "load_recommender",
    "read_ads",
    "read_query_specificity",
    "recommender_parts",
]
