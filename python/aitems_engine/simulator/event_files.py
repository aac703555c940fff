"""The files of a simulated shop with users: what anybody may see (events, ads), and the truth behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import DataError, require_extra
from aitems_engine.simulator.users import PLACEMENTS, Impressions, Sessions
from aitems_engine.simulator.world import DAY_MS, Ads, Categories, Items, Tastes, World

EVENT_TYPES = ("search", "impression", "click", "like", "dwell", "cart", "purchase")
FILES = ("events", "impressions_truth", "users_truth", "sessions_truth", "items_truth", "ads")


def numbered(prefix: str, numbers: NDArray[Any], digits: int = 0) -> NDArray[np.str_]:
    """Return ids: the prefix and each number, filled up with zeros."""
    return np.char.add(prefix, np.char.zfill(numbers.astype(str), digits))


def campaigns(ads: Ads) -> NDArray[np.str_]:
    """Return the id of each campaign."""
    return numbered("c", np.arange(1, int(ads.campaign.max()) + 2), 5)


def write_users(
    folder: Path, world: World, sessions: Sessions, shown: Impressions, product_id: NDArray[np.str_]
) -> tuple[Path, ...]:
    """Write the files named in FILES; return their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.array(world.categories.type_names)
    session_id = numbered("s", np.arange(len(sessions.user)))
    user_id = numbered("u", np.arange(1, len(world.tastes.activity) + 1), 8)
    queries, leaves = np.array(world.categories.queries), np.array(world.categories.leaf_names)
    tables: dict[str, Any] = {
        "events": _events(world, sessions, shown, product_id, user_id, session_id),
        "impressions_truth": {
            "user_id": user_id[sessions.user[shown.session]],
            "session_id": session_id[shown.session],
            "item_id": product_id[shown.item],
            "position": shown.position,
            "is_ad": shown.ad >= 0,
            "click_probability": shown.click_probability,
            "purchase_probability": shown.purchase_probability,
            "would_purchase": shown.would_purchase,
        },
        "users_truth": {
            "user_id": user_id,
            "product_types": names[world.tastes.types].tolist(),
            "type_codes": world.tastes.types.tolist(),
            "weights": world.tastes.weights.tolist(),
            "price_sensitivity": world.tastes.price_sensitivity,
            "goal_share": world.tastes.goal_share,
            "activity": world.tastes.activity,
        },
        "sessions_truth": {
            "session_id": session_id,
            "user_id": user_id[sessions.user],
            "timestamp": sessions.start,
            "placement": np.array(PLACEMENTS)[sessions.placement],
            "query": pa.array(queries[sessions.query], pa.string(), mask=sessions.query < 0),
            "goal_oriented": sessions.goal,
            "wanted_leaf": pa.array(leaves[sessions.wanted_leaf], pa.string(), mask=sessions.wanted_leaf < 0),
        },
        "items_truth": {
            "product_id": product_id,
            "leaf_code": world.items.leaf,
            "type_code": world.items.product_type,
            "peak_month": world.categories.peak_month[world.items.product_type],
            "quality": world.quality,
            "attraction": world.attraction,
            "reputation": world.reputation,
        },
        "ads": {
            "campaign_id": campaigns(world.ads)[world.ads.campaign],
            "mall_id": numbered("mall", world.items.mall[world.ads.item] + 1, 2),
            "item_id": product_id[world.ads.item],
            "bid": world.ads.bid,
            "budget": world.ads.budget,
        },
    }
    paths = tuple(folder / f"{name}.parquet" for name in FILES)
    for path in paths:
        pq.write_table(pa.table(tables[path.stem]), path)
    return paths


def _events(
    world: World,
    sessions: Sessions,
    shown: Impressions,
    product_id: NDArray[np.str_],
    user_id: NDArray[np.str_],
    session_id: NDArray[np.str_],
) -> dict[str, Any]:
    """Return the columns of the events, in the order of time."""
    import pyarrow as pa

    n = len(shown.session)
    asked = np.flatnonzero(sessions.query >= 0)
    clicks = np.flatnonzero(shown.clicked)
    parts = [np.arange(n), clicks, np.flatnonzero(shown.liked), clicks]
    parts += [np.flatnonzero(shown.carted), np.flatnonzero(shown.purchased)]
    # of a search there is no row of `shown`
    row = np.concatenate([np.full(len(asked), -1), *parts])
    kind = np.repeat(np.arange(len(EVENT_TYPES), dtype=np.int8), [len(asked), *map(len, parts)])
    session = np.concatenate([asked, *(shown.session[part] for part in parts)])
    clicked = 1 + shown.position[row] * 2_000
    dwelt = clicked + shown.dwell_ms[row]
    after = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4, kind == 5],
        [-1_000, 0, clicked, clicked + 3_000, dwelt, dwelt + 1_000],
        dwelt + 30_000 + shown.delay_ms[row],
    )
    when = sessions.start[session] + after
    order = np.lexsort((np.where(kind == 0, 0, shown.position[row]), kind, when))
    row, kind, session, when = row[order], kind[order], session[order], when[order]
    price = world.items.price[shown.item[row]]
    value = np.select([kind == 6, kind == 4], [np.nan_to_num(price), shown.dwell_ms[row] / 1000.0], 0.0)
    search = kind == 0

    def text(codes: NDArray[Any], names: Any, missing: NDArray[np.bool_] | None = None) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), pa.array(names)).cast(pa.string())

    query, ad = sessions.query[session], shown.ad[row]
    organic = search | (ad < 0)
    return {
        "event_id": numbered("e", np.arange(1, len(row) + 1), 10),
        "event_type": text(kind, list(EVENT_TYPES)),
        "user_id": text(sessions.user[session], user_id),
        "session_id": text(session, session_id),
        "item_id": text(shown.item[row], product_id, search),
        "query": text(query, world.categories.queries, query < 0),
        "placement": text(sessions.placement[session], list(PLACEMENTS)),
        "position": pa.array(shown.position[row], mask=search),
        "value": value,
        "timestamp": when,
        "campaign_id": text(world.ads.campaign[ad], campaigns(world.ads), organic),
        "bid": pa.array(world.ads.bid[ad], mask=organic),
    }


def read_world(folder: Path) -> World:
    """Return the world whose truth `write_users` wrote, from the files of the shop.

    Raises
    ------
    DataError
        A file is missing.
    """
    require_extra("train", "pyarrow")
    import csv
    import json

    import pyarrow.parquet as pq

    needed = [folder / f"{name}.parquet" for name in ("products", "users_truth", "items_truth", "ads")]
    missing = [path.name for path in needed if not path.exists()]
    if missing:
        raise DataError(f"'{folder}' has no {', '.join(missing)}; write it with: aitems simulate shop --users 5000 ...")
    products, users, truth, ads = (pq.read_table(path) for path in needed)
    with (folder / "taxonomy.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["category_id"], row["parent_id"], row["name"]) for row in csv.DictReader(file)]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    types = truth["type_code"].to_numpy()
    peaks = np.zeros(sum(len(node) == 6 for node, _, _ in rows), np.int8)
    peaks[types] = truth["peak_month"].to_numpy()
    first_ms = int(manifest["first_day_ms"])

    def matrix(name: str, dtype: Any) -> NDArray[Any]:
        values: NDArray[Any] = users[name].combine_chunks().flatten().to_numpy().reshape(len(users), -1).astype(dtype)
        return values

    return World(
        Items(
            types,
            truth["leaf_code"].to_numpy(),
            _number(products["mall_id"], "mall"),
            products["price"].to_numpy(),
            products["registered_at"].to_numpy(),
        ),
        Categories.of_rows(rows, peaks),
        Tastes(
            matrix("type_codes", np.int32),
            matrix("weights", np.float32),
            *(users[name].to_numpy() for name in ("price_sensitivity", "goal_share", "activity")),
        ),
        Ads(
            _number(ads["campaign_id"], "c"),
            _number(ads["item_id"], "").astype(np.int64),
            ads["bid"].to_numpy(),
            ads["budget"].to_numpy(),
        ),
        truth["quality"].to_numpy(),
        truth["attraction"].to_numpy(),
        truth["reputation"].to_numpy(),
        first_ms,
        first_ms + int(manifest["days"]) * DAY_MS,
    )


def read_clicks(folder: Path) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return user, item and whether it was clicked of every impression, in the order of time."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["event_type", "user_id", "session_id", "item_id"]
    events = pq.read_table(folder / "events.parquet", columns=columns)
    shown = events.filter(pc.equal(events["event_type"], "impression"))
    clicks = events.filter(pc.equal(events["event_type"], "click"))

    def key(table: Any) -> NDArray[np.int64]:
        # an item stands once in a session
        sessions, items = _number(table["session_id"], "s").astype(np.int64), _number(table["item_id"], "")
        found: NDArray[np.int64] = (sessions << 32) + items
        return found

    clicked = np.isin(key(shown), key(clicks))
    return _number(shown["user_id"], "u"), _number(shown["item_id"], ""), clicked


def _number(ids: Any, prefix: str) -> NDArray[np.int32]:
    """Return the numbers of ids that count from 1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pc.cast(pc.utf8_slice_codeunits(ids, len(prefix)), pa.int32()).to_numpy()
    return np.asarray(numbers - 1, np.int32)
