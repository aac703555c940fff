"""Executions of a trained model: the same rows in, the same numbers out, by the native core or by ONNX Runtime.

This folder knows tensors and ids; it does not know titles, labels, bundles or how a model was trained.
"""

from __future__ import annotations

from aitems_engine.runtime.native_scorer import NativeScorer
from aitems_engine.runtime.onnx_scorer import OnnxScorer
from aitems_engine.runtime.safetensors import read_safetensors, safetensors_bytes
from aitems_engine.runtime.scorer import ScorerInputs, TextScorer

__all__ = ["NativeScorer", "OnnxScorer", "ScorerInputs", "TextScorer", "read_safetensors", "safetensors_bytes"]
