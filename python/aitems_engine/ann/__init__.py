"""Nearest-neighbour search over vectors: exact or by 8-bit codes in inverted lists, with filters and live updates.

`AnnIndex` is all most users need; `Filter` restricts a search. The work is native (csrc/ann).
"""

from __future__ import annotations

from aitems_engine.ann.filters import Filter
from aitems_engine.ann.index import AnnHits, AnnIndex

__all__ = ["AnnHits", "AnnIndex", "Filter"]
