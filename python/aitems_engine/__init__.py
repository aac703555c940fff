"""Inference engine for shopping platforms: category matching, recommendation and streams on a native core."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("aitems-engine")
