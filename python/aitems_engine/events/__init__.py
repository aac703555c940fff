"""What users did: interactions as packed histories, the files they come from, and splits that do not leak."""

from __future__ import annotations

from aitems_engine.events.interactions import Interactions
from aitems_engine.events.readers import read_interactions
from aitems_engine.events.splits import HistorySplit, leave_one_out, split_by_time, split_last_share

__all__ = [
    "HistorySplit",
    "Interactions",
    "leave_one_out",
    "read_interactions",
    "split_by_time",
    "split_last_share",
]
