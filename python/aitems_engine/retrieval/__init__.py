"""Retrievers: from a history to the items worth ranking. One file a retriever, one protocol."""

from __future__ import annotations

from aitems_engine.retrieval.bert4rec import Bert4Rec
from aitems_engine.retrieval.ease import Ease
from aitems_engine.retrieval.files import open_retriever, read_retriever, retriever_parts, save_retriever
from aitems_engine.retrieval.gf_cf import GfCf
from aitems_engine.retrieval.ials import Ials
from aitems_engine.retrieval.item_knn import ItemKnn
from aitems_engine.retrieval.merge import Merged, merge
from aitems_engine.retrieval.popularity import Popularity
from aitems_engine.retrieval.retriever import Candidates, Retriever, scored_candidates
from aitems_engine.retrieval.sasrec import Sasrec
from aitems_engine.retrieval.two_tower import TwoTower

__all__ = [
    "Bert4Rec",
    "Candidates",
    "Ease",
    "GfCf",
    "Ials",
    "ItemKnn",
    "Merged",
    "Popularity",
    "Retriever",
    "Sasrec",
    "TwoTower",
    "merge",
    "open_retriever",
    "read_retriever",
    "retriever_parts",
    "save_retriever",
    "scored_candidates",
]
