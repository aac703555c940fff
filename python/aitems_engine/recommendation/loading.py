"""A recommender as the parts of a bundle, and back, with the checks that the parts belong together.

recommender.json          placements, names of the retrievers, where diversity takes its vectors from, user mode
recommender.safetensors   popular items, ads
catalogue.json, .safetensors   item ids, names of attribute codes; columns
users.json, histories.safetensors   what is known of users
queries.json              how specific queries are, for the user mode
retriever.NAME.*          see retrieval/files.py
ranker.*                  see ranking/ranker.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.catalog.cells import Cells, identifier
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import iter_table
from aitems_engine.errors import BundleError, ConfigError, DataError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import open_ranker
from aitems_engine.recommendation.placement import Placement
from aitems_engine.recommendation.pool import Ads, Source
from aitems_engine.recommendation.recommender import Recommender
from aitems_engine.recommendation.user_mode import UserMode
from aitems_engine.rerank import UserModeModel
from aitems_engine.retrieval import Retriever, read_retriever, retriever_parts
from aitems_engine.retrieval.files import retriever_kind
from aitems_engine.retrieval.nearest import VectorRetriever
from aitems_engine.runtime import read_safetensors, safetensors_bytes

RECOMMENDER, TABLES = "recommender.json", "recommender.safetensors"
CATALOGUE, COLUMNS = "catalogue.json", "catalogue.safetensors"
USERS, HISTORIES = "users.json", "histories.safetensors"
QUERIES = "queries.json"
RANKER, PLACES = "ranker.", "places.safetensors"
POPULAR_MAX = 5000
AD_COLUMNS = {"item_id": ("item_id", "product_id"), "bid": ("bid", "cpc")}
Parts = dict[str, "bytes | str | Path"]
DEFAULT_CONFIG: Mapping[str, Any] = {"placements": {"home": {}}}


def recommender_parts(
    items: ItemTable,
    retrievers: Mapping[str, Retriever],
    histories: Interactions,
    *,
    ranker: Bundle | None = None,
    ads: Ads | None = None,
    queries: Mapping[str, float] | None = None,
    config: Mapping[str, Any] = DEFAULT_CONFIG,
) -> Parts:
    """Return the parts of a bundle that recommends.

    Parameters
    ----------
    items : ItemTable
        The catalogue; holds all items of the retrievers.
    retrievers : mapping of name to Retriever, at least one
    histories : Interactions
        Over `items`: what is known of users; decides what is popular.
    ranker : Bundle, optional
        Written by `aitems train ranking`. Without one, placements go by the merged retrieval scores.
    ads : Ads, optional
    queries : mapping of query to specificity, optional
        For the user mode; see `read_query_specificity`.
    config : mapping
        `placements` (name -> see `Placement.from_dict`; the first one stands in for unknown names), `vectors` (name
        of the retriever whose item vectors diversity uses) and `user_mode` (see `UserModeModel.to_json`).

    Raises
    ------
    ConfigError, InvalidInputError
        What does not fit; nothing is written here.
    """
    _checked_config(config, tuple(retrievers), items)
    counts = np.bincount(histories.items, minlength=len(items))
    tables: dict[str, npt.NDArray[Any]] = {"popular": np.argsort(-counts, kind="stable")[:POPULAR_MAX].astype(np.int32)}
    if ads is not None:
        tables |= {"ads.items": ads.items, "ads.bids": ads.bids}
    head = {"retrievers": list(retrievers), "ranker": ranker is not None, "config": config}
    names = {"item_ids": items.item_ids, "names": dict(items.names)}
    parts: Parts = {
        RECOMMENDER: json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        TABLES: safetensors_bytes(tables),
        CATALOGUE: json.dumps(names, ensure_ascii=False),
        COLUMNS: safetensors_bytes(items.arrays()),
        USERS: json.dumps(histories.user_ids, ensure_ascii=False),
        HISTORIES: safetensors_bytes(histories.arrays()),
    }
    if queries:
        parts[QUERIES] = json.dumps(dict(queries), ensure_ascii=False, allow_nan=False)
    for name, retriever in retrievers.items():
        source = Source.over(name, retriever, items)
        own = (
            histories.translated(source.from_catalogue, list(retriever.item_ids))
            if source.from_catalogue is not None
            else histories
        )
        parts |= {_retriever(name) + part: content for part, content in retriever_parts(retriever, own).items()}
        if source.to_catalogue is not None:
            parts[_retriever(name) + PLACES] = safetensors_bytes({"places": source.to_catalogue})
    if ranker is not None:
        parts |= {RANKER + name: ranker.file(name) for name in ranker.parts}
    return parts


def load_recommender(bundle: Bundle) -> Recommender:
    """Return the recommender of an opened bundle.

    Raises
    ------
    BundleError, ModelMismatchError
        Parts that are damaged or do not belong together; names them.
    """
    try:
        return _load(bundle)
    except (ConfigError, DataError, InvalidInputError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"bundle '{bundle.path}': the parts of its recommender do not fit together: {error}"
        ) from error


def _load(bundle: Bundle) -> Recommender:
    head, catalogue = bundle.read_json(RECOMMENDER), bundle.read_json(CATALOGUE)
    items = ItemTable.restore(catalogue["item_ids"], catalogue["names"], read_safetensors(bundle.file(COLUMNS)))
    users = json.loads(bundle.read(USERS))
    histories = Interactions.restore(users, items.item_ids, read_safetensors(bundle.file(HISTORIES)))
    tables = read_safetensors(bundle.file(TABLES))
    sources = {
        name: Source.over(name, _read_retriever(bundle, name, items.item_ids), items) for name in head["retrievers"]
    }
    placements, vectors, mode = _checked_config(head["config"], tuple(sources), items)
    queries = bundle.read_json(QUERIES) if QUERIES in bundle.parts else {}
    features, ranker = open_ranker(bundle.inside(RANKER), items) if head["ranker"] else (None, None)
    ads = Ads(tables["ads.items"], tables["ads.bids"]) if "ads.items" in tables else None
    for positions in (tables["popular"], *([ads.items] if ads else [])):
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(items):
            raise DataError(f"'{TABLES}' has positions beyond the {len(items)} items of '{CATALOGUE}'")
    return Recommender(
        items=items,
        sources=sources,
        placements=placements,
        popular=tables["popular"],
        histories=histories,
        features=features,
        ranker=ranker,
        ads=ads,
        vectors=_vectors(sources[vectors], len(items)) if vectors else None,
        user_mode=UserMode(mode, {str(q): float(s) for q, s in queries.items()}) if mode else None,
        digest=bundle.digest,
    )


def encoder_of(bundle: Bundle) -> str | None:
    """Return the name of the first retriever of a bundle's recommender that has vectors; None where none has."""
    names = bundle.read_json(RECOMMENDER)["retrievers"] if RECOMMENDER in bundle.parts else []
    return next((n for n in names if issubclass(retriever_kind(bundle.inside(_retriever(n))), VectorRetriever)), None)


def load_encoder(bundle: Bundle) -> VectorRetriever:
    """Return the first retriever with vectors, without the rest of the recommender.

    Raises
    ------
    BundleError
        There is none, or its parts do not belong together.
    """
    name = encoder_of(bundle)
    if name is None:
        raise BundleError(f"bundle '{bundle.path}' has no retriever with vectors")
    retriever = _read_retriever(bundle, name, bundle.read_json(CATALOGUE)["item_ids"])
    assert isinstance(retriever, VectorRetriever)
    return retriever


def _retriever(name: str) -> str:
    return f"retriever.{name}."


def _read_retriever(bundle: Bundle, name: str, ids: list[str]) -> Retriever:
    own = bundle.inside(_retriever(name))
    if PLACES in own.parts:
        ids = [ids[place] for place in read_safetensors(own.file(PLACES))["places"].tolist()]
    return read_retriever(own, ids)


def _checked_config(
    config: Any, retrievers: tuple[str, ...], items: ItemTable
) -> tuple[dict[str, Placement], str | None, UserModeModel | None]:
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"the recommender's configuration must be an object with placements, got {type(config).__name__}"
        )
    unknown = sorted(set(config) - {"placements", "vectors", "user_mode"})
    if unknown:
        raise ConfigError(
            f"the recommender's configuration has no '{unknown[0]}'; it has placements, vectors and user_mode"
        )
    placements = config.get("placements")
    if not isinstance(placements, Mapping) or not placements:
        raise ConfigError("placements must be an object name -> recipe with at least one placement")
    vectors = config.get("vectors")
    if vectors is not None and vectors not in retrievers:
        raise ConfigError(f"vectors must name a retriever ({', '.join(retrievers)}), got {str(vectors)[:40]!r}")
    mode = config.get("user_mode")
    return (
        {name: Placement.from_dict(name, value, retrievers, items) for name, value in placements.items()},
        vectors,
        None if mode is None else UserModeModel.from_json(mode),
    )


def _vectors(source: Source, count: int) -> npt.NDArray[np.float32]:
    own = getattr(source.retriever, "vectors", None)
    if own is None:
        raise ConfigError(f"retriever '{source.name}' ({source.retriever.kind}) has no vectors for diversity")
    if source.to_catalogue is None:
        return np.asarray(own, np.float32)
    vectors = np.zeros((count, own.shape[1]), np.float32)
    vectors[source.to_catalogue] = own
    return vectors


def read_ads(path: Path, items: ItemTable) -> Ads:
    """Return the ads of a table with `item_id` and `bid` (for a click); of several for an item the highest bid counts.

    Raises
    ------
    DataError
        A bid that is no number above 0; names the row. Items that the catalogue lacks are left out.
    """
    bids: dict[int, float] = {}
    for batch in iter_table(path, 10_000):
        columns = match_columns(list(batch.columns), None, ("item_id", "bid"), str(path), AD_COLUMNS)
        cells = Cells(batch, columns["item_id"], str(path)), Cells(batch, columns["bid"], str(path))
        for item, bid in zip(cells[0].convert(identifier), cells[1].convert(_bid), strict=True):
            place = items.positions_by_id.get(item)
            if place is not None:
                bids[place] = max(bid, bids.get(place, 0.0))
    best = sorted(bids, key=lambda place: (-bids[place], place))
    return Ads(np.array(best, np.int32), np.array([bids[place] for place in best], np.float32))


def _bid(value: Any) -> float:
    bid = float(value)
    if not 0 < bid < 1e12:
        raise ValueError(f"must be a number above 0, got {bid}")
    return bid
