"""Loaded by Triton's Python backend; the work is done by aitems_engine."""

from __future__ import annotations

from aitems_engine.serving.networks import Ranking as TritonPythonModel  # noqa: F401
