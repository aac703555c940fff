"""BERT4Rec (Sun et al., CIKM 2019): a transformer that sees a whole history says what a masked place of it holds.

The graph appends the mask to the history, so that the query is what stands there: the next item. What trains it is
training/bert4rec.py.
"""

from __future__ import annotations

from typing import ClassVar

from aitems_engine.retrieval.sequence import SequenceRetriever


class Bert4Rec(SequenceRetriever):
    """A trained transformer (`training.bert4rec.fit_bert4rec`)."""

    kind: ClassVar[str] = "bert4rec"
    appended: ClassVar[int] = 1
