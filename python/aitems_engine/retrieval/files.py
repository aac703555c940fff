"""A retriever as a directory: a bundle (bundle.py) of its arrays, its items, and the histories it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.errors import BundleError, DataError, InvalidInputError, require_extra
from aitems_engine.events import Interactions
from aitems_engine.retrieval.ease import Ease
from aitems_engine.retrieval.gf_cf import GfCf
from aitems_engine.retrieval.ials import Ials
from aitems_engine.retrieval.item_knn import ItemKnn
from aitems_engine.retrieval.popularity import Popularity
from aitems_engine.retrieval.retriever import Retriever
from aitems_engine.runtime import read_safetensors

KINDS: dict[str, type[Popularity] | type[ItemKnn] | type[Ease] | type[GfCf] | type[Ials]] = {
    c.kind: c for c in (Popularity, ItemKnn, Ease, GfCf, Ials)
}
_MODEL, _ARRAYS, _ITEMS, _USERS, _HISTORIES = (
    "retriever.json",
    "retriever.safetensors",
    "items.json",
    "users.json",
    "histories.safetensors",
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
    require_extra("train", "safetensors")
    from safetensors.numpy import save

    head = {"kind": retriever.kind, "settings": dict(retriever.settings()), "facts": dict(facts or {})}
    arrays = {name: np.ascontiguousarray(value) for name, value in retriever.arrays().items()}
    parts: dict[str, bytes | str | Path] = {
        _MODEL: json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        _ARRAYS: save(arrays),
        _ITEMS: json.dumps(list(retriever.item_ids), ensure_ascii=False),
    }
    if histories is not None:
        parts[_USERS] = json.dumps(histories.user_ids, ensure_ascii=False)
        packed = {"splits": histories.splits, "items": histories.items, "times": histories.times}
        parts[_HISTORIES] = save({name: np.ascontiguousarray(value) for name, value in packed.items()})
    return write_bundle(path, parts, config=head)


def open_retriever(path: str | Path) -> tuple[Retriever, Interactions | None]:
    """Return a retriever and the histories that were saved with it.

    Raises
    ------
    BundleError
        Damaged, of an unknown kind, or with arrays that do not fit; names the part.
    """
    bundle = Bundle.open(path)
    head = bundle.read_json(_MODEL)
    kind = head.get("kind")
    if kind not in KINDS:
        raise BundleError(f"bundle '{path}': retriever '{str(kind)[:40]}' is not one of {', '.join(KINDS)}")
    try:
        item_ids = _strings(bundle, _ITEMS)
        retriever = KINDS[kind].restore(item_ids, read_safetensors(bundle.file(_ARRAYS)), head["settings"])
        if _HISTORIES not in bundle.parts:
            return retriever, None
        packed = read_safetensors(bundle.file(_HISTORIES))
        histories = Interactions(_strings(bundle, _USERS), item_ids, packed["splits"], packed["items"], packed["times"])
    except (DataError, InvalidInputError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"bundle '{path}': its parts do not fit together: {error}") from error
    return retriever, histories


def _strings(bundle: Bundle, part: str) -> list[str]:
    value = json.loads(bundle.read(part).decode("utf-8"))
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BundleError(f"bundle '{bundle.path}': part '{part}' must be a JSON list of text")
    return value
