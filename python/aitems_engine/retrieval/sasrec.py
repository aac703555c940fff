"""SASRec (Kang & McAuley, ICDM 2018): at each item of a history a transformer that sees those before says the next one.

What trains it is training/sasrec.py.
"""

from __future__ import annotations

from typing import ClassVar

from aitems_engine.retrieval.sequence import SequenceRetriever


class Sasrec(SequenceRetriever):
    """A trained transformer (`training.sasrec.fit_sasrec`)."""

    kind: ClassVar[str] = "sasrec"
