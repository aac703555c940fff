"""The interfaces of hnswlib and usearch over `AnnIndex`, for programs that migrate.

Change the import, ``from aitems_engine.ann.compat import hnswlib`` or ``usearch``, and keep the code. Files are those
of `AnnIndex`; docs/ann.md lists what differs.
"""

from __future__ import annotations

from aitems_engine.ann.compat import hnswlib, usearch

__all__ = ["hnswlib", "usearch"]
