"""Text in: tokenisers. Start at `Tokenizer`."""

from __future__ import annotations

from aitems_engine.text.keywords import KeywordRules
from aitems_engine.text.packed import PackedText
from aitems_engine.text.tokenizer import TokenBatch, Tokenizer

__all__ = ["KeywordRules", "PackedText", "TokenBatch", "Tokenizer"]
