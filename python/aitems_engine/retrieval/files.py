"""A retriever as a directory: a bundle (bundle.py) of its arrays, its items, and the histories it was made from.

A bundle of several retrievers over one catalogue holds the parts of each behind a prefix (`Bundle.inside`).
Vectors and the index over them carry one digest, so that towers of one training never meet the index of another.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from aitems_engine.ann import AnnIndex
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.errors import BundleError, DataError, IndexFormatError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval.bert4rec import Bert4Rec
from aitems_engine.retrieval.ease import Ease
from aitems_engine.retrieval.gf_cf import GfCf
from aitems_engine.retrieval.ials import Ials
from aitems_engine.retrieval.item_knn import ItemKnn
from aitems_engine.retrieval.nearest import INDEXED_FROM, VectorRetriever, build_index
from aitems_engine.retrieval.popularity import Popularity
from aitems_engine.retrieval.retriever import Retriever
from aitems_engine.retrieval.sasrec import Sasrec
from aitems_engine.retrieval.sequence import SequenceRetriever
from aitems_engine.retrieval.two_tower import TwoTower
from aitems_engine.runtime import read_safetensors, safetensors_bytes

Kind: TypeAlias = (
    "type[Popularity] | type[ItemKnn] | type[Ease] | type[GfCf] | type[Ials] | type[TwoTower] | type[SequenceRetriever]"
)
KINDS: dict[str, Kind] = {c.kind: c for c in (Popularity, ItemKnn, Ease, GfCf, Ials, TwoTower, Sasrec, Bert4Rec)}
_MODEL, _ARRAYS, _ITEMS, _USERS, _HISTORIES, _INDEX = (
    "retriever.json",
    "retriever.safetensors",
    "items.json",
    "users.json",
    "histories.safetensors",
    "index.ann",
)


def save_retriever(
    path: str | Path,
    retriever: Retriever,
    histories: Interactions | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Write a retriever and return its digest.

    Parameters
    ----------
    path : path
        Directory; a bundle there is replaced as one step.
    retriever : Retriever
    histories : Interactions, optional
        Over the same items: who is asked about when nobody brings other histories.
    facts : mapping, optional
        What is worth knowing about the training, as JSON values.
    """
    parts = retriever_parts(retriever, histories, facts=facts)
    parts[_ITEMS] = json.dumps(list(retriever.item_ids), ensure_ascii=False)
    if histories is not None:
        parts[_USERS] = json.dumps(histories.user_ids, ensure_ascii=False)
        parts[_HISTORIES] = safetensors_bytes(histories.arrays())
    return write_bundle(path, parts, config={"retriever": parts[_MODEL]})


def open_retriever(path: str | Path) -> tuple[Retriever, Interactions | None]:
    """Return a retriever and the histories that were saved with it.

    Raises
    ------
    BundleError
        Damaged, of an unknown kind, or with arrays that do not fit; names the part.
    """
    bundle = Bundle.open(path)
    item_ids = _strings(bundle, _ITEMS)
    retriever = read_retriever(bundle, item_ids)
    if _HISTORIES not in bundle.parts:
        return retriever, None
    packed = read_safetensors(bundle.file(_HISTORIES))
    try:
        users = _strings(bundle, _USERS)
        return retriever, Interactions.restore(users, item_ids, packed)
    except (InvalidInputError, KeyError) as error:
        raise BundleError(f"bundle '{path}': its histories do not fit together: {error}") from error


def retriever_parts(
    retriever: Retriever,
    histories: Interactions | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, bytes | str | Path]:
    """Return the parts of a bundle that hold a retriever, but for the ids of its items.

    Parameters
    ----------
    retriever : Retriever
    histories : Interactions, optional
        Over the same items: what an index is tuned with.
    facts : mapping, optional
        What is worth knowing about the training, as JSON values.
    """
    head = {"kind": retriever.kind, "settings": dict(retriever.settings()), "facts": dict(facts or {})}
    arrays = safetensors_bytes(retriever.arrays())
    parts: dict[str, bytes | str | Path] = {
        _MODEL: json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        _ARRAYS: arrays,
    }
    if isinstance(retriever, VectorRetriever) and len(retriever.item_ids) >= INDEXED_FROM:
        index = build_index(retriever, histories, tag=hashlib.sha256(arrays).hexdigest())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / _INDEX
            index.save(file)
            parts[_INDEX] = file.read_bytes()
    return parts


def retriever_kind(bundle: Bundle) -> Kind:
    """Return the class of the retriever in a bundle.

    Raises
    ------
    BundleError
        Of an unknown kind.
    """
    kind = bundle.read_json(_MODEL).get("kind")
    if kind not in KINDS:
        raise BundleError(f"bundle '{bundle.path}': retriever '{str(kind)[:40]}' is not one of {', '.join(KINDS)}")
    return KINDS[kind]


def read_retriever(bundle: Bundle, item_ids: list[str]) -> Retriever:
    """Return the retriever that `retriever_parts` put into a bundle.

    Raises
    ------
    BundleError
        Of an unknown kind, with arrays that do not fit, or with the index of another training.
    """
    kind = retriever_kind(bundle)
    try:
        arrays = read_safetensors(bundle.file(_ARRAYS))
        retriever = kind.restore(item_ids, arrays, bundle.read_json(_MODEL)["settings"])
        _check_scores(retriever)
        if _INDEX not in bundle.parts or not isinstance(retriever, VectorRetriever):
            return retriever
        # the bundle has checked the part's SHA-256
        index = AnnIndex.open(bundle.file(_INDEX), dim=retriever.vectors.shape[1], verify=False)
    except (DataError, IndexFormatError, InvalidInputError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"bundle '{bundle.path}': the parts of its retriever do not fit together: {error}") from error
    own, other = bundle.parts[_ARRAYS].sha256, index.describe()["tag"]
    if own != other:
        raise BundleError(
            f"bundle '{bundle.path}': '{bundle.parts[_ARRAYS].name}' ({own[:12]}) and "
            f"'{bundle.parts[_INDEX].name}' (built for {other[:12] or 'nothing known'}) are of two "
            f"trainings; take both from one, or save the retriever again"
        )
    return replace(retriever, index=index)


def _check_scores(retriever: Retriever) -> None:
    """Raise unless the arrays are over all items: the last one is asked about."""
    n = len(retriever.item_ids)
    last = np.arange(n - 1, n, dtype=np.int32)[-1:] if n else np.zeros(0, np.int32)
    one = Interactions([""], list(retriever.item_ids), np.array([0, len(last)]), last, np.full(len(last), -1))
    found = retriever.scores(one).shape
    if found != (1, n):
        raise DataError(f"it scores {found[1]} items, but there are {n}")


def _strings(bundle: Bundle, part: str) -> list[str]:
    value = json.loads(bundle.read(part).decode("utf-8"))
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BundleError(f"bundle '{bundle.path}': part '{part}' must be a JSON list of text")
    return value
