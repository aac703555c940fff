"""Users of the simulated shop: tastes, sessions, pages with positions, clicks and purchases, and why they happened.

A session shows one page: items of a product type the user likes (or of any type, by how much is sold of it) that were
on sale by then. An item is clicked when its place was looked at and it appealed; a click becomes a purchase with a
probability of its own, hours or days later. Both probabilities are kept, so that estimates can be measured by them.
Everything is drawn in whole columns; a user is never looped over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import InvalidInputError

PAGE = 10
SESSIONS = 8.0  # mean of a user; log-normal, so that a few come often
TASTES = 4  # product types a user likes, at most
LOYAL = 0.8  # share of sessions among what the user likes
EYE = 0.6  # a place is looked at with probability position ** -EYE
DELAY_HOURS = 18.0  # mean time from a click to its purchase
MAX_USERS = 10_000_000
KINDS = ("impression", "click", "purchase")


@dataclass(frozen=True)
class Items:
    """What users see of the products, by position: in the order of registration."""

    product_type: NDArray[np.int32]
    price: NDArray[np.float64]
    registered_at: NDArray[np.int64]


@dataclass(frozen=True)
class Impressions:
    """One row an item shown; arrays of one length, by session and position."""

    user: NDArray[np.int32]
    session: NDArray[np.int64]
    item: NDArray[np.int64]
    position: NDArray[np.int32]
    shown_at: NDArray[np.int64]
    click_probability: NDArray[np.float64]
    purchase_probability: NDArray[np.float64]
    """Given a click."""
    clicked: NDArray[np.bool_]
    purchased: NDArray[np.bool_]
    delay_ms: NDArray[np.int64]


def check_users(users: int) -> None:
    """Raise unless the number of users can be simulated."""
    if not 0 <= users <= MAX_USERS:
        raise InvalidInputError(f"users must be from 0 to {MAX_USERS}, got {users}")


def simulate_impressions(
    items: Items, users: int, first_ms: int, last_ms: int, rng: np.random.Generator
) -> tuple[Impressions, NDArray[np.int32], NDArray[np.float32]]:
    """Return what was shown and what came of it, the types each user likes (users, TASTES), and their weights."""
    types = int(items.product_type.max()) + 1
    sold = np.bincount(items.product_type, minlength=types).astype(np.float64)
    likes = rng.choice(types, (users, TASTES), p=sold / sold.sum()).astype(np.int32)
    love = rng.dirichlet(np.full(TASTES, 0.6), users).astype(np.float32)
    quality = rng.standard_normal(len(items.product_type))
    popular = quality + rng.standard_normal(len(items.product_type))

    count = 1 + rng.poisson(SESSIONS * rng.lognormal(-0.5, 1.0, users))
    user = np.repeat(np.arange(users, dtype=np.int32), count)
    # more in the second year than in the first, as the shop grows
    start = first_ms + (np.sqrt(rng.random(len(user)) * 3 + 1) - 1) * (last_ms - first_ms)
    start = start.astype(np.int64)
    order = np.lexsort((start, user))
    start = start[order]
    loyal = rng.random(len(user)) < LOYAL
    chosen = (rng.random(len(user))[:, None] > np.cumsum(love[user], 1)[:, :-1]).sum(1)
    product_type = np.where(loyal, likes[user, chosen], rng.choice(types, len(user), p=sold / sold.sum()))

    # items of a type in the order of registration: those on sale at a time are a prefix
    by_type = np.argsort(items.product_type, kind="stable")
    begin = np.searchsorted(items.product_type[by_type], np.arange(types + 1))
    key = items.product_type[by_type].astype(np.float64) * 2 + (items.registered_at[by_type] - first_ms) / (
        2.0 * (last_ms - first_ms + 1)
    )
    at = product_type * 2 + (start - first_ms) / (2.0 * (last_ms - first_ms + 1))
    on_sale = np.searchsorted(key, at, side="right") - begin[product_type]
    kept = on_sale > 0
    user, start, product_type, on_sale = user[kept], start[kept], product_type[kept], on_sale[kept]

    # the more popular of two draws; newer ones are drawn more often
    draws = (on_sale[:, None, None] * rng.random((len(user), PAGE, 2)) ** 0.7).astype(np.int64)
    pair = by_type[begin[product_type][:, None, None] + draws]
    item = np.where(popular[pair[..., 0]] >= popular[pair[..., 1]], pair[..., 0], pair[..., 1])
    item.sort(axis=1)
    first = np.ones(item.shape, bool)
    first[:, 1:] = item[:, 1:] != item[:, :-1]
    # shuffled, one row an item
    rank = np.argsort(np.where(first, rng.random(item.shape), 2.0), axis=1)
    item, first = np.take_along_axis(item, rank, 1), np.take_along_axis(first, rank, 1)
    row, place = np.nonzero(first)
    item, position = item[row, place], (place + 1).astype(np.int32)

    who, liked = user[row], np.zeros(len(row))
    for taste in range(TASTES):
        liked += love[who, taste] * (likes[who, taste] == product_type[row])
    log_price = np.log(np.maximum(np.nan_to_num(items.price[item], nan=1.0), 1.0))
    dear = (log_price - log_price.mean()) / max(log_price.std(), 1e-9)
    appeal = 1 / (1 + np.exp(-(-3.6 + 2.5 * np.sqrt(liked) + 0.7 * quality[item])))
    click_probability = appeal * position**-EYE
    purchase_probability = 1 / (1 + np.exp(-(-4.2 + 1.5 * np.sqrt(liked) + 0.8 * quality[item] - 0.5 * dear)))
    clicked = rng.random(len(row)) < click_probability
    purchased = clicked & (rng.random(len(row)) < purchase_probability)
    shown = Impressions(
        user=who,
        session=row,
        item=item,
        position=position,
        shown_at=start[row],
        click_probability=click_probability,
        purchase_probability=purchase_probability,
        clicked=clicked,
        purchased=purchased,
        delay_ms=(rng.exponential(DELAY_HOURS, len(row)) * 3_600_000).astype(np.int64),
    )
    return shown, likes, love


def write_users(
    folder: Path,
    shown: Impressions,
    likes: NDArray[np.int32],
    love: NDArray[np.float32],
    product_id: NDArray[np.str_],
    price: NDArray[np.float64],
    type_names: list[str],
) -> tuple[Path, Path, Path]:
    """Write events.parquet, impressions_truth.parquet and users_truth.parquet; return their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = tuple(folder / f"{name}.parquet" for name in ("events", "impressions_truth", "users_truth"))
    n = len(shown.user)
    clicks, purchases = np.flatnonzero(shown.clicked), np.flatnonzero(shown.purchased)
    rows = np.concatenate([np.arange(n), clicks, purchases])
    kind = np.repeat(np.arange(3, dtype=np.int8), [n, len(clicks), len(purchases)])
    after = np.select([kind == 0, kind == 1], [0, 1 + shown.position[rows] * 2_000], shown.delay_ms[rows] + 30_000)
    when = shown.shown_at[rows] + after
    order = np.lexsort((shown.position[rows], kind, when))
    rows, kind, when = rows[order], kind[order], when[order]
    user_id = np.char.add("u", np.char.zfill((shown.user + 1).astype(str), 8))
    value = np.where((kind == 2) & ~np.isnan(price[shown.item[rows]]), price[shown.item[rows]], 0.0)
    pq.write_table(
        pa.table(
            {
                "event_id": np.char.add("e", np.char.zfill(np.arange(1, len(rows) + 1).astype(str), 10)),
                "event_type": pa.DictionaryArray.from_arrays(pa.array(kind), list(KINDS)).cast(pa.string()),
                "user_id": user_id[rows],
                "session_id": np.char.add("s", shown.session[rows].astype(str)),
                "item_id": product_id[shown.item[rows]],
                "placement": pa.array(["category"] * len(rows)),
                "position": shown.position[rows],
                "value": value,
                "timestamp": when,
            }
        ),
        paths[0],
    )
    truth: dict[str, Any] = {
        "user_id": user_id,
        "session_id": np.char.add("s", shown.session.astype(str)),
        "item_id": product_id[shown.item],
        "position": shown.position,
        "click_probability": shown.click_probability,
        "purchase_probability": shown.purchase_probability,
    }
    pq.write_table(pa.table(truth), paths[1])
    names = np.array(type_names)
    tastes: dict[str, Any] = {
        "user_id": np.char.add("u", np.char.zfill(np.arange(1, len(likes) + 1).astype(str), 8)),
        "product_types": names[likes].tolist(),
        "weights": love.tolist(),
    }
    pq.write_table(pa.table(tastes), paths[2])
    return paths[0], paths[1], paths[2]
