"""The truth of a simulated shop with users: what they like, how good items are, and how likely a click and a purchase
are in any situation.

The log (users.py) draws from `World.probabilities`; nothing else decides what happens. Arrays are whole columns: users
and items are positions, a user is never looped over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import InvalidInputError
from aitems_engine.simulator.tree import season_demand

TASTES = 4  # product types a user likes, at most
SESSIONS = 8.0  # mean of a user; log-normal, so that a few come often
EYE = 0.6  # a place is looked at with probability position ** -EYE
NEW_DAYS = 14  # the shop does not know yet how popular a younger item is
ADVERTISED = 0.04  # share of the items
MAX_USERS = 10_000_000
DAY_MS = 86_400_000
INTS = NDArray[np.integer[Any]]
FLOATS = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Items:
    """What anybody can see of the products, by position: in the order of registration."""

    product_type: NDArray[np.int32]
    leaf: NDArray[np.int32]
    mall: NDArray[np.int32]
    price: FLOATS
    """Won; NaN where unknown."""
    registered_at: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Categories:
    """Names and structure of the tree, by position; the leaves of a type and the types of a section stand together."""

    leaf_names: list[str]
    type_names: list[str]
    section_names: list[str]
    type_section: NDArray[np.int32]
    peak_month: NDArray[np.int8]
    """Of each product type 1-12, or 0 without a season."""

    @classmethod
    def of_rows(cls, rows: list[tuple[str, str, str]], peak_month: NDArray[np.int8]) -> Categories:
        """Return the categories of the rows of a taxonomy (category_id, parent_id, name)."""
        level = [[(node, parent, name) for node, parent, name in rows if len(node) == 2 * n] for n in (2, 3, 4)]
        section_of = {node: i for i, (node, _, _) in enumerate(level[0])}
        return cls(
            [name for _, _, name in level[2]],
            [name for _, _, name in level[1]],
            [name for _, _, name in level[0]],
            np.array([section_of[parent] for _, parent, _ in level[1]], np.int32),
            peak_month,
        )

    @cached_property
    def queries(self) -> list[str]:
        """Texts of queries: those of the leaves, then of the product types, then of the sections."""
        return [*self.leaf_names, *self.type_names, *self.section_names]


@dataclass(frozen=True, eq=False)
class Tastes:
    """The users, by position."""

    types: NDArray[np.int32]
    """Product types that a user likes, (users, TASTES)."""
    weights: NDArray[np.float32]
    """How much, adding up to 1; the same shape."""
    price_sensitivity: FLOATS
    goal_share: FLOATS
    """Share of a user's sessions that are goal-oriented."""
    activity: FLOATS
    """Mean number of sessions in the time of the log, less one."""


@dataclass(frozen=True, eq=False)
class Ads:
    """Advertised items, one row an item; the items of a campaign stand together."""

    campaign: NDArray[np.int32]
    item: NDArray[np.int64]
    bid: FLOATS
    """Won for a click."""
    budget: FLOATS
    """Won of the campaign for a day."""


class Shelf:
    """Items of each group in the order of registration: those on sale at a time are a prefix."""

    def __init__(self, group: NDArray[np.int32], groups: int, registered_at: NDArray[np.int64]) -> None:
        self._registered_at = registered_at
        self._order = np.argsort(group, kind="stable")
        self._begin = np.searchsorted(group[self._order], np.arange(groups + 1))
        self._key = group[self._order].astype(np.int64) * len(group) + self._order

    def on_sale(self, group: INTS, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many items of the group are on sale at the time (ms)."""
        known = np.searchsorted(self._registered_at, at, side="right")
        found: NDArray[np.int64] = np.searchsorted(self._key, group * np.int64(len(self._key)) + known)
        return found - self._begin[group]

    def draw(self, group: INTS, on_sale: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return one item on sale of each group, newer ones more often; -1 where nothing is."""
        place = (on_sale * rng.random(len(group)) ** 0.7).astype(np.int64)
        item = self._order[np.minimum(self._begin[group] + place, len(self._order) - 1)]
        return np.where(on_sale > 0, item, -1)


@dataclass(frozen=True, eq=False)
class World:
    """Everything that is true of a shop with users.

    Attributes
    ----------
    quality : float64 array, shape (num_items,)
        What makes an item clicked and bought; half of its variance is its mall's and its leaf's.
    attraction : float64 array, shape (num_items,)
        What makes an item clicked more and bought less, as a picture that promises too much.
    reputation : float64 array, shape (num_items,)
        What the shop believes of an item's quality once it is known; the log was shown by it.
    """

    items: Items
    categories: Categories
    tastes: Tastes
    ads: Ads
    quality: FLOATS
    attraction: FLOATS
    reputation: FLOATS
    first_ms: int
    last_ms: int

    @cached_property
    def dear(self) -> FLOATS:
        """Price of each item among its product type, in standard deviations of the logarithm; 0 where unknown."""
        known = ~np.isnan(self.items.price)
        kind, log_price = self.items.product_type, np.log(np.where(known, self.items.price, 1.0))
        count = np.maximum(np.bincount(kind, known), 1.0)
        centred = np.where(known, log_price - (np.bincount(kind, log_price * known) / count)[kind], 0.0)
        return centred / max(float(centred[known].std()) if known.any() else 0.0, 1e-9)

    @cached_property
    def demand(self) -> FLOATS:
        """How much each product type is wanted in each month, (12, types)."""
        return np.stack([season_demand(self.categories.peak_month, month) for month in range(1, 13)])

    @cached_property
    def by_type(self) -> Shelf:
        """The items of each product type."""
        return Shelf(self.items.product_type, len(self.categories.type_names), self.items.registered_at)

    @cached_property
    def by_leaf(self) -> Shelf:
        """The items of each leaf."""
        return Shelf(self.items.leaf, len(self.categories.leaf_names), self.items.registered_at)

    def draw_ads(self, product_type: INTS, at: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Return a row of `ads` for an item of each product type on sale at the time (ms); -1 where there is none."""
        if not len(self.ads.item):
            return np.full(len(product_type), -1)
        row = self._advertised.draw(product_type, self._advertised.on_sale(product_type, at), rng)
        return np.where(row >= 0, self._ads_by_item[row], -1)

    @cached_property
    def _ads_by_item(self) -> NDArray[np.int64]:
        return np.argsort(self.ads.item)

    @cached_property
    def _advertised(self) -> Shelf:
        item = self.ads.item[self._ads_by_item]
        return Shelf(self.items.product_type[item], len(self.categories.type_names), self.items.registered_at[item])

    def probabilities(
        self,
        user: INTS,
        item: INTS,
        position: INTS,
        *,
        goal: NDArray[np.bool_],
        wanted_leaf: INTS,
        month: INTS,
        crowd: INTS,
        is_ad: NDArray[np.bool_] | bool = False,
    ) -> tuple[FLOATS, FLOATS]:
        """Return the probability of a click, and of a purchase once clicked.

        Parameters
        ----------
        user, item, position : int arrays
            One row an item shown; positions count from 1 through the session.
        goal : bool array
            Whether the session is goal-oriented.
        wanted_leaf : int array
            What a goal-oriented session looks for; -1 in others.
        month : int array
            1-12.
        crowd : int array
            How many items of the same product type stand above it.
        is_ad : bool array
            Shown as an ad.

        Notes
        -----
        Taste, quality and the wanted leaf raise both, so what is clicked converts twice as well as what is shown;
        attraction raises clicks and lowers purchases. In a goal-oriented session the wanted leaf, its product type and
        the price count more; in others every item of a product type makes the next one less interesting.
        """
        kind = self.items.product_type[item]
        liked = np.zeros(np.shape(item))
        for taste in range(TASTES):
            liked += self.tastes.weights[user, taste] * (self.tastes.types[user, taste] == kind)
        liked = np.sqrt(liked)
        leaf_found = goal & (self.items.leaf[item] == wanted_leaf)
        type_found = goal & (kind == self._type_of_leaf[wanted_leaf])
        dear = self.tastes.price_sensitivity[user] * self.dear[item]
        season = np.log(self.demand[month - 1, kind])
        quality, attraction = self.quality[item], self.attraction[item]
        appeal = (
            -3.8
            + 2.0 * liked
            + 0.8 * quality
            + 0.3 * attraction
            + 0.3 * season
            - 0.25 * dear
            - 0.8 * goal
            + 0.5 * type_found
            + 1.4 * leaf_found
            - 0.4 * np.where(goal, 0.0, np.log1p(crowd))
            - 0.4 * np.asarray(is_ad)
        )
        bought = (
            -6.3
            + 1.0 * liked
            + 1.0 * quality
            - 0.3 * attraction
            - np.where(goal, 1.2, 0.6) * dear
            + 0.6 * goal
            + 0.8 * leaf_found
        )
        return _sigmoid(appeal) * np.asarray(position, np.float64) ** -EYE, _sigmoid(bought)

    @cached_property
    def _type_of_leaf(self) -> NDArray[np.int32]:
        # one more, for the leaf -1 of those who want none
        found = np.full(len(self.categories.leaf_names) + 1, -1, np.int32)
        found[self.items.leaf] = self.items.product_type
        return found

    @classmethod
    def draw(
        cls,
        items: Items,
        categories: Categories,
        users: int,
        first_ms: int,
        last_ms: int,
        rng: np.random.Generator,
    ) -> World:
        """Return a world with as many users, over products that are there already."""
        n, types = len(items.leaf), len(categories.type_names)
        sold = np.bincount(items.product_type, minlength=types).astype(np.float64)
        tastes = Tastes(
            rng.choice(types, (users, TASTES), p=sold / sold.sum()).astype(np.int32),
            rng.dirichlet(np.full(TASTES, 0.6), users).astype(np.float32),
            rng.gamma(4.0, 0.2, users),
            rng.beta(2.0, 2.5, users),
            SESSIONS * rng.lognormal(-0.5, 1.0, users),
        )
        of_mall, of_leaf = (
            rng.standard_normal(int(items.mall.max()) + 1),
            rng.standard_normal(len(categories.leaf_names)),
        )
        quality = 0.5 * of_mall[items.mall] + 0.5 * of_leaf[items.leaf] + 0.7 * rng.standard_normal(n)
        return cls(
            items,
            categories,
            tastes,
            _draw_ads(items, rng),
            quality,
            rng.standard_normal(n),
            quality + rng.standard_normal(n),
            first_ms,
            last_ms,
        )

    @classmethod
    def open(cls, folder: str | Path) -> World:
        """Return the world of a folder written by `simulate_shop` with users.

        Raises
        ------
        DataError
            The folder holds no users.
        """
        from aitems_engine.simulator.event_files import read_world

        return read_world(Path(folder))


def check_users(users: int) -> None:
    """Raise unless the number of users can be simulated."""
    if not 0 <= users <= MAX_USERS:
        raise InvalidInputError(f"users must be from 0 to {MAX_USERS}, got {users}")


def month_of(at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the month 1-12 of times (ms), in Seoul."""
    months = (at + 9 * 3_600_000).astype("datetime64[ms]").astype("datetime64[M]")
    return months.astype(np.int64) % 12 + 1


def crowd_above(session: INTS, product_type: INTS) -> NDArray[np.int64]:
    """Return how many items of the same session and type come before each row; rows are in the order of places."""
    key = session.astype(np.int64) * (int(product_type.max(initial=0)) + 1) + product_type
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], key[order])
    crowd = np.empty(len(key), np.int64)
    crowd[order] = np.arange(len(key)) - first
    return crowd


def _draw_ads(items: Items, rng: np.random.Generator) -> Ads:
    """Return campaigns: each of one mall, its items dearer than what a click is worth to it or cheaper."""
    item = np.sort(rng.choice(len(items.leaf), int(np.ceil(ADVERTISED * len(items.leaf))), replace=False))
    item = item[np.argsort(items.mall[item], kind="stable")]
    new = (np.diff(items.mall[item], prepend=-1) != 0) | (rng.random(len(item)) < 0.2)
    campaign = np.cumsum(new) - 1
    price = np.where(np.isnan(items.price[item]), 10_000.0, items.price[item])
    bid = np.maximum(10.0, 0.01 * price * rng.lognormal(0.0, 0.7, len(item))).round()
    budget = np.round(rng.lognormal(float(np.log(20_000.0)), 1.0, int(campaign.max()) + 1), -3) + 1000.0
    return Ads(campaign.astype(np.int32), item.astype(np.int64), bid, budget[campaign])


def _sigmoid(x: FLOATS) -> FLOATS:
    return 1.0 / (1.0 + np.exp(-x))
