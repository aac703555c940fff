"""Vectors of tokens: skip-gram with negative sampling on a native core."""

from __future__ import annotations

from aitems_engine.embedding.skipgram import train_skipgram

__all__ = ["train_skipgram"]
