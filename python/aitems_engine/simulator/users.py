"""What users did in the simulated shop: sessions, pages with positions, clicks and what came of them.

A session is goal-oriented or not. One that is looks for a leaf, mostly by a search, and sees a page or two of its
product type; another one looks around: at the home page, a category, or what a broad search finds, for longer. The shop
of the log shows what it believes to be good: of two draws from what is on sale, the one of higher reputation, in no
order; it knows nothing of an item younger than NEW_DAYS. At some places an ad for the same product type stands instead.
Everything is drawn in whole columns from the truth of world.py, and the truth of each session and each item shown is
kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aitems_engine.simulator.world import DAY_MS, FLOATS, INTS, NEW_DAYS, World, crowd_above, month_of

PAGE = 10
AD_PLACES = (3, 8)  # of a page, where an ad may stand
LOYAL = 0.8  # share of sessions, and of places of the home page, of what the user likes
EXACT = 0.4  # share of places after a search that show the wanted leaf, not only its type
DELAY_HOURS = 18.0  # mean time from a click to its purchase
PLACEMENTS = ("home", "category", "search")


@dataclass(frozen=True, eq=False)
class Sessions:
    """One row a session; arrays of one length."""

    user: NDArray[np.int32]
    start: NDArray[np.int64]
    """Milliseconds since 1970."""
    goal: NDArray[np.bool_]
    """Whether it is goal-oriented: known to the truth only."""
    wanted_leaf: NDArray[np.int32]
    """What a goal-oriented session looks for, -1 in others: known to the truth only."""
    placement: NDArray[np.int8]
    """Index into PLACEMENTS."""
    query: NDArray[np.int32]
    """Index into the queries of the categories, -1 without one."""
    product_type: NDArray[np.int32]
    """What the pages are of; -1 where several types are shown."""
    section: NDArray[np.int32]
    """The section that the pages are of; -1 for the whole shop."""
    places: NDArray[np.int64]
    """How many items are shown, where there are as many."""

    def take(self, rows: INTS | NDArray[np.bool_]) -> Sessions:
        """Return some of the sessions."""
        return Sessions(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def month(self) -> NDArray[np.int64]:
        """1-12."""
        return month_of(self.start)


@dataclass(frozen=True, eq=False)
class Impressions:
    """One row an item shown; arrays of one length, by session and position."""

    session: NDArray[np.int64]
    item: NDArray[np.int64]
    position: NDArray[np.int32]
    """From 1 through all pages of the session."""
    ad: NDArray[np.int64]
    """Row of `World.ads`, -1 for an organic item."""
    click_probability: FLOATS
    purchase_probability: FLOATS
    """Given a click."""
    clicked: NDArray[np.bool_]
    would_purchase: NDArray[np.bool_]
    """Whether a click would have become a purchase: drawn for all, so that a model of purchases can be measured on
    everything that was shown."""
    carted: NDArray[np.bool_]
    liked: NDArray[np.bool_]
    dwell_ms: NDArray[np.int64]
    delay_ms: NDArray[np.int64]
    """From a click to its purchase."""

    @property
    def purchased(self) -> NDArray[np.bool_]:
        """Clicked, and it became a purchase."""
        return self.clicked & self.would_purchase


def simulate_log(world: World, rng: np.random.Generator) -> tuple[Sessions, Impressions]:
    """Return the sessions of all users from the first to the last day, by user and time, and what was shown in them."""
    count = 1 + rng.poisson(world.tastes.activity)
    user = np.repeat(np.arange(len(count), dtype=np.int32), count)
    # more in the second year than in the first, as the shop grows
    start = world.first_ms + (np.sqrt(rng.random(len(user)) * 3 + 1) - 1) * (world.last_ms - world.first_ms)
    start = start.astype(np.int64)
    sessions = draw_sessions(world, user, start[np.lexsort((start, user))], rng)
    session, item, position = draw_pages(world, sessions, rng)
    chance = rng.random(len(session))
    ad = place_ads(world, sessions, session, item, position, chance, rng)
    item = np.where(ad >= 0, np.append(world.ads.item, -1)[ad], item)
    return sessions, draw_outcomes(world, sessions, session, item, position, ad, chance, rng)


def draw_sessions(
    world: World, user: NDArray[np.int32], start: NDArray[np.int64], rng: np.random.Generator
) -> Sessions:
    """Return what brings users to the shop at the given times; users who want what is not on sale stay away."""
    categories = world.categories
    types, leaves = len(categories.type_names), len(categories.leaf_names)
    goal = rng.random(len(user)) < world.tastes.goal_share[user]
    product_type = draw_types(world, user, month_of(start), rng)
    on_sale = world.by_type.on_sale(product_type, start)
    there = on_sale > 0
    user, start, goal = user[there], start[there], goal[there]
    product_type, on_sale = product_type[there], on_sale[there]

    leaf = world.items.leaf[world.by_type.draw(product_type, on_sale, rng)]
    section = categories.type_section[product_type]
    # 0 searches for the leaf, 1 for the product type, 2 for the section; 3 opens the category, 4 the home page
    way = np.where(
        goal,
        np.searchsorted([0.55, 0.85, 0.85], rng.random(len(user)), side="right"),
        np.searchsorted([0.06, 0.16, 0.25, 0.50], rng.random(len(user)), side="right"),
    )
    more = rng.random(len(user))
    return Sessions(
        user=user,
        start=start,
        goal=goal,
        wanted_leaf=np.where(goal, leaf, -1).astype(np.int32),
        placement=np.select([way == 4, way == 3], [0, 1], 2).astype(np.int8),
        query=np.select([way == 0, way == 1, way == 2], [leaf, leaves + product_type, leaves + types + section], -1),
        product_type=np.where(np.isin(way, (2, 4)), -1, product_type).astype(np.int32),
        section=np.where(way == 4, -1, section).astype(np.int32),
        places=PAGE * (1 + np.where(goal, more < 0.25, (more < 0.6).astype(np.int64) + (more < 0.3))),
    )


def draw_types(world: World, user: INTS, month: INTS, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return a product type for each row: mostly one that the user likes, and by season."""
    weights = np.cumsum(world.tastes.weights[user] * world.demand[month[:, None] - 1, world.tastes.types[user]], axis=1)
    taste = (rng.random(len(user))[:, None] * weights[:, -1:] > weights[:, :-1]).sum(axis=1)
    kind = np.where(rng.random(len(user)) < LOYAL, world.tastes.types[user, taste], _any_type(world, month, rng))
    return kind.astype(np.int32)


def _any_type(world: World, month: INTS, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return a product type for each row, by how much is on offer of it and by season."""
    sold = np.bincount(world.items.product_type, minlength=world.demand.shape[1]) * world.demand
    shares = np.cumsum(sold, axis=1) / sold.sum(axis=1, keepdims=True)
    # the twelve distributions stand one after the other
    found = np.searchsorted((shares + np.arange(12)[:, None]).ravel(), month - 1 + rng.random(len(month)), side="right")
    return np.asarray(np.minimum(found - (month - 1) * shares.shape[1], shares.shape[1] - 1), np.int32)


def draw_place_types(world: World, sessions: Sessions, session: INTS, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return the product type of each place: the session's, any of its section, or on the home page what is liked."""
    kind: NDArray[np.int32] = sessions.product_type[session]
    home = np.flatnonzero((kind < 0) & (sessions.section[session] < 0))
    kind[home] = draw_types(world, sessions.user[session[home]], sessions.month[session[home]], rng)
    mixed = np.flatnonzero(kind < 0)
    section = sessions.section[session[mixed]]
    sold = np.cumsum(np.bincount(world.items.product_type, minlength=world.demand.shape[1]))
    end = sold[np.searchsorted(world.categories.type_section, section, side="right") - 1]
    first = np.searchsorted(world.categories.type_section, section)
    begin = np.where(first > 0, sold[first - 1], 0)
    at = begin + (rng.random(len(mixed)) * (end - begin)).astype(np.int64)
    kind[mixed] = np.searchsorted(sold, at, side="right")
    return kind


def draw_pages(
    world: World, sessions: Sessions, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Return what the shop of the log showed: session, item and position of each place; no item twice in a session."""
    session = np.repeat(np.arange(len(sessions.user)), sessions.places)
    start, kind = sessions.start[session], draw_place_types(world, sessions, session, rng)
    wanted = sessions.wanted_leaf[session]
    exact = (wanted >= 0) & (rng.random(len(session)) < EXACT)
    of_type, of_leaf = world.by_type.on_sale(kind, start), world.by_leaf.on_sale(wanted, start)

    def draw() -> tuple[NDArray[np.int64], FLOATS]:
        item = np.where(exact, world.by_leaf.draw(wanted, of_leaf, rng), world.by_type.draw(kind, of_type, rng))
        new = world.items.registered_at[item] > start - NEW_DAYS * DAY_MS
        return item, np.where(new, -2.0, world.reputation[item])

    (one, one_known), (two, two_known) = draw(), draw()
    item = np.where(one_known >= two_known, one, two)
    key = session * np.int64(len(world.quality)) + item
    first = np.unique(key[item >= 0], return_index=True)[1]
    session, item = session[item >= 0][first], item[item >= 0][first]
    order = np.lexsort((rng.random(len(session)), session))
    session, item = session[order], item[order]
    position = np.arange(len(session)) - np.searchsorted(session, session) + 1
    return session, item, position.astype(np.int32)


def place_ads(
    world: World,
    sessions: Sessions,
    session: INTS,
    item: INTS,
    position: INTS,
    chance: FLOATS,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the row of `World.ads` that takes each place, -1 where the item stays.

    An ad is for the product type of the item whose place it takes; of two that fit, it is the one with the higher bid.
    A campaign shows nothing more on a day once its clicks have cost its budget; `chance` says which clicks come.
    """
    ads, n = world.ads, np.int64(len(world.quality))
    found = np.full(len(session), -1, np.int64)
    rows = np.flatnonzero(np.isin((position - 1) % PAGE + 1, AD_PLACES))
    crowd = crowd_above(session, world.items.product_type[item])[rows]
    kind, start = world.items.product_type[item[rows]], sessions.start[session[rows]]
    one, two = (world.draw_ads(kind, start, rng) for _ in range(2))
    bids = np.append(ads.bid, -1.0)
    ad = np.where(bids[one] >= bids[two], one, two)
    # no item twice in a session
    key = session[rows] * n + np.append(ads.item, -1)[ad]
    fits = np.flatnonzero((ad >= 0) & ~np.isin(key, session * n + item))
    fits = fits[np.unique(key[fits], return_index=True)[1]]
    rows, ad, crowd, start = rows[fits], ad[fits], crowd[fits], start[fits]
    click, _ = _probabilities(world, sessions, session[rows], ads.item[ad], position[rows], crowd, is_ad=True)
    order = np.lexsort((position[rows], start, start // DAY_MS, ads.campaign[ad]))
    day = ads.campaign[ad[order]] * np.int64(2**32) + start[order] // DAY_MS
    cost = (chance[rows[order]] < click[order]) * ads.bid[ad[order]]
    spent = np.cumsum(cost) - cost
    shown = order[spent - spent[np.searchsorted(day, day)] < ads.budget[ad[order]]]
    found[rows[shown]] = ad[shown]
    return found


def _probabilities(
    world: World,
    sessions: Sessions,
    session: INTS,
    item: INTS,
    position: INTS,
    crowd: INTS,
    is_ad: NDArray[np.bool_] | bool,
) -> tuple[FLOATS, FLOATS]:
    return world.probabilities(
        sessions.user[session],
        item,
        position,
        goal=sessions.goal[session],
        wanted_leaf=sessions.wanted_leaf[session],
        month=sessions.month[session],
        crowd=crowd,
        is_ad=is_ad,
    )


def draw_outcomes(
    world: World,
    sessions: Sessions,
    session: INTS,
    item: INTS,
    position: INTS,
    ad: NDArray[np.int64],
    chance: FLOATS,
    rng: np.random.Generator,
) -> Impressions:
    """Return what users do with what they are shown; rows are by session and position, `chance` decides of clicks."""
    goal, crowd = sessions.goal[session], crowd_above(session, world.items.product_type[item])
    click, purchase = _probabilities(world, sessions, session, item, position, crowd, ad >= 0)
    n = len(session)
    clicked, luck = chance < click, rng.random(n)
    seconds = np.where(goal, 36.0, 20.0) * np.exp(0.25 * world.quality[item] + 0.8 * rng.standard_normal(n))
    return Impressions(
        session=session.astype(np.int64),
        item=item.astype(np.int64),
        position=position.astype(np.int32),
        ad=ad,
        click_probability=click,
        purchase_probability=purchase,
        clicked=clicked,
        would_purchase=luck < purchase,
        # what is bought was in the cart, and as much again stays there
        carted=clicked & (luck < np.minimum(2 * purchase, 1.0)),
        liked=clicked & (rng.random(n) < np.where(goal, 0.02, 0.06)),
        dwell_ms=(seconds * 1000).astype(np.int64),
        delay_ms=(rng.exponential(DELAY_HOURS, n) * 3_600_000).astype(np.int64),
    )
