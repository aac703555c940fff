"""A loop in which a policy under test chooses what is shown: sessions come, pages go out, users click by the truth.

The loop goes on where the log of the shop ended. What a policy may see are the columns of `Visits` and the counts of
the loop; what is expected of a page is known exactly (`expected`), so policies are compared on the same visits without
the noise of clicks. Everything is whole columns over visits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.simulator.users import PAGE, Sessions, draw_pages, draw_sessions
from aitems_engine.simulator.world import DAY_MS, FLOATS, INTS, World, crowd_above

HISTORY = 50
SPECIFICITY = (1.0, 0.5, 0.2)  # of a query that names a leaf, a product type, a section
Items = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Visits:
    """What a policy is asked, one row a visit.

    Attributes
    ----------
    truth : Sessions
        Who came when, placement and query; also goal and wanted leaf, which no policy may look at.
    history : int32 array, shape (n, HISTORY)
        Items clicked before, the newest last; -1 in front where there are fewer.
    pool : int32 array, shape (n, pool)
        Candidates, all different and on sale; -1 at the end where there are fewer.
    ads : int32 array, shape (n, ads)
        Advertised items that fit and whose campaign has budget left; -1 at the end where there are fewer.
    signals : float64 array, shape (n, 4)
        What is seen of a visit before this page: specificity of the query (0 to 1), filters set, pages so far, mean
        dwell time on item pages in seconds.
    """

    truth: Sessions
    history: Items
    pool: Items
    ads: Items
    signals: FLOATS

    def __len__(self) -> int:
        return len(self.pool)


@dataclass(frozen=True, eq=False)
class Expected:
    """What is expected of pages, exactly; arrays of shape (n, k), 0 where nothing is shown.

    Attributes
    ----------
    clicks, purchases : float64 array
        Probability of a click, and of a click that becomes a purchase.
    sales : float64 array
        Expected won of purchases; items without a price count as nothing.
    payments : float64 array
        Expected won paid for clicks on ads.
    """

    clicks: FLOATS
    purchases: FLOATS
    sales: FLOATS
    payments: FLOATS


@dataclass(frozen=True, eq=False)
class Outcome:
    """What users did with pages, and what was expected of them; arrays of shape (n, k)."""

    expected: Expected
    clicked: Flags
    purchased: Flags
    paid: FLOATS
    """Won paid for clicks on ads."""


class ClosedLoop:
    """See the module.

    Parameters
    ----------
    world : World
    seed : int
        The same seed and the same pages give the same visits and clicks.
    pool, ads : int >= 1
        Candidates of a visit, at most.

    Attributes
    ----------
    impressions, clicks : int64 array, shape (num_items,)
        How often each item was shown and clicked, so far.
    spent : float64 array, shape (num_campaigns,)
        What each campaign paid today; budgets are looked at between calls of `visits`.
    """

    def __init__(self, world: World, seed: int, *, pool: int = 200, ads: int = 20) -> None:
        if min(pool, ads) < 1:
            raise InvalidInputError(f"pool and ads must be 1 or more, got {pool} and {ads}")
        self.world, self._pool, self._ads = world, pool, ads
        self._rng = np.random.default_rng(seed)
        self._now = world.last_ms
        rate = 1 + world.tastes.activity
        self._users = np.cumsum(rate) / rate.sum()
        self._ms_a_visit = (world.last_ms - world.first_ms) / rate.sum()
        n = len(world.quality)
        self._history = np.full((len(rate), HISTORY), -1, np.int32)
        self.impressions, self.clicks = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.spent = np.zeros(int(world.ads.campaign.max(initial=-1)) + 1)
        self._ad_of_item = np.full(n, -1, np.int64)
        self._ad_of_item[world.ads.item] = np.arange(len(world.ads.item))

    @classmethod
    def open(cls, folder: str | Path, seed: int, *, pool: int = 200, ads: int = 20) -> ClosedLoop:
        """Return the loop of a folder written by `simulate_shop` with users, with the histories of its events.

        Raises
        ------
        DataError
            The folder holds no users.
        """
        from aitems_engine.simulator.event_files import read_clicks

        loop = cls(World.open(folder), seed, pool=pool, ads=ads)
        user, item, clicked = read_clicks(Path(folder))
        loop._remember(user, item, clicked)
        return loop

    def visits(self, n: int) -> Visits:
        """Return the next `n` visits; fewer where users want what is not on sale. The clock goes on."""
        if n < 1:
            raise InvalidInputError(f"n must be 1 or more, got {n}")
        rng, world = self._rng, self.world
        start = self._now + np.sort(rng.random(n) * n * self._ms_a_visit).astype(np.int64)
        if start[-1] // DAY_MS != self._now // DAY_MS:
            self.spent[:] = 0
        self._now = int(start[-1])
        user = np.searchsorted(self._users, rng.random(n), side="right").astype(np.int32)
        sessions = draw_sessions(world, user, start, rng)
        count = len(sessions.user)
        pool = np.full((count, self._pool), -1, np.int32)
        session, item, position = draw_pages(world, replace(sessions, places=np.full(count, self._pool)), rng)
        pool[session, position - 1] = item
        return Visits(sessions, self._history[sessions.user], pool, self._fitting_ads(pool), self._signals(sessions))

    def expected(self, visits: Visits, items: Items, is_ad: Flags | None = None) -> Expected:
        """Return what is expected of pages; nothing changes.

        Parameters
        ----------
        visits : Visits
        items : int32 array, shape (n, k)
            What is shown, the first place first; -1 leaves a place empty, and no place counts for it.
        is_ad : bool array, shape (n, k), optional
            Shown as ads.

        Raises
        ------
        InvalidInputError
            Another shape, an unknown item, one item twice on a page, or an ad for what is not advertised.
        """
        ad = np.zeros(np.shape(items), bool) if is_ad is None else np.asarray(is_ad, bool)
        self._check(visits, items, ad)
        row, place = np.nonzero(items >= 0)
        item, truth = items[row, place], visits.truth
        click, purchase = self.world.probabilities(
            truth.user[row],
            item,
            np.cumsum(items >= 0, axis=1, dtype=np.int64)[row, place],
            goal=truth.goal[row],
            wanted_leaf=truth.wanted_leaf[row],
            month=truth.month[row],
            crowd=crowd_above(row, self.world.items.product_type[item]),
            is_ad=ad[row, place],
        )
        bids = self.world.ads.bid[self._ad_of_item[item]] if len(self.world.ads.bid) else np.zeros(len(item))
        price = np.nan_to_num(self.world.items.price[item])
        columns = (click, click * purchase, click * purchase * price, click * bids * ad[row, place])
        grids = np.zeros((len(columns), *items.shape))
        grids[:, row, place] = columns
        return Expected(*grids)

    def appeal(self, visits: Visits) -> FLOATS:
        """Return the true click probability of each candidate alone in the first place; NaN where there is none."""
        row, place = np.nonzero(visits.pool >= 0)
        truth = visits.truth
        found = np.full(visits.pool.shape, np.nan)
        found[row, place] = self.world.probabilities(
            truth.user[row],
            visits.pool[row, place],
            np.ones(len(row), np.int64),
            goal=truth.goal[row],
            wanted_leaf=truth.wanted_leaf[row],
            month=truth.month[row],
            crowd=np.zeros(len(row), np.int64),
        )[0]
        return found

    def show(self, visits: Visits, items: Items, is_ad: Flags | None = None) -> Outcome:
        """Show pages: users click and buy, histories, counts and the campaigns' spending go on. See `expected`."""
        expected = self.expected(visits, items, is_ad)
        clicked = self._rng.random(items.shape) < expected.clicks
        chance = expected.purchases / np.where(expected.clicks > 0, expected.clicks, 1.0)
        purchased = clicked & (self._rng.random(items.shape) < chance)
        paid = clicked * expected.payments / np.where(expected.clicks > 0, expected.clicks, 1.0)
        row, place = np.nonzero(items >= 0)
        item = items[row, place]
        self._remember(visits.truth.user[row], item, clicked[row, place])
        payments = paid[row, place]
        campaign = self.world.ads.campaign[self._ad_of_item[item[payments > 0]]]
        np.add.at(self.spent, campaign, payments[payments > 0])
        return Outcome(expected, clicked, purchased, paid)

    def _check(self, visits: Visits, items: Items, is_ad: Flags) -> None:
        if items.ndim != 2 or len(items) != len(visits) or is_ad.shape != items.shape or items.dtype.kind != "i":
            raise InvalidInputError(
                f"items must be integers of shape ({len(visits)}, k), got {items.dtype} {items.shape}; "
                f"is_ad the same shape, got {is_ad.shape}"
            )
        if items.size and not (items.min() >= -1 and items.max() < len(self.impressions)):
            raise InvalidInputError(f"items must be from 0 to {len(self.impressions) - 1}, or -1 for an empty place")
        ordered = np.sort(items, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            raise InvalidInputError(f"an item stands twice on page {int(np.argmax(twice))}")
        if (self._ad_of_item[items[is_ad & (items >= 0)]] < 0).any():
            raise InvalidInputError("is_ad marks items that no campaign advertises; take them from visits.ads")

    def _remember(self, user: INTS, item: INTS, clicked: Flags) -> None:
        """Count impressions and clicks, which come in the order of time, and put clicks behind the histories."""
        n = len(self.impressions)
        self.impressions += np.bincount(item, minlength=n)
        self.clicks += np.bincount(item[clicked], minlength=n)
        order = np.argsort(user[clicked], kind="stable")
        user, item = user[clicked][order], item[clicked][order]
        who, first, count = np.unique(user, return_index=True, return_counts=True)
        old = np.arange(HISTORY) + count[:, None]
        moved = np.take_along_axis(self._history[who], np.minimum(old, HISTORY - 1), 1)
        self._history[who] = np.where(old < HISTORY, moved, -1)
        from_end = np.repeat(first + count, count) - np.arange(len(user))
        late = from_end <= HISTORY
        self._history[user[late], HISTORY - from_end[late]] = item[late]

    def _fitting_ads(self, pool: Items) -> Items:
        """Return ads of the product types of each pool, all different."""
        ads = self.world.ads
        found = np.full((len(pool), self._ads), -1, np.int32)
        if not len(ads.item):
            return found
        # as often as a type stands in the pool; several draws, for some find nothing or the same again
        place = self._rng.random((len(pool), 3 * self._ads)) * np.maximum((pool >= 0).sum(axis=1, keepdims=True), 1)
        kind = self.world.items.product_type[np.take_along_axis(pool, place.astype(np.int64), 1)].ravel()
        row = self.world.draw_ads(kind, np.full(len(kind), self._now), self._rng).reshape(place.shape)
        there = (row >= 0) & (self.spent[ads.campaign[row]] < ads.budget[row])
        visit, column = np.nonzero(there)
        first = np.unique(visit * len(ads.item) + row[visit, column], return_index=True)[1]
        visit, row = visit[np.sort(first)], row[visit, column][np.sort(first)]
        place = np.arange(len(visit)) - np.searchsorted(visit, visit)
        kept = place < self._ads
        found[visit[kept], place[kept]] = ads.item[row[kept]]
        return found

    def _signals(self, sessions: Sessions) -> FLOATS:
        categories, rng, goal = self.world.categories, self._rng, sessions.goal
        of_types = len(categories.leaf_names)
        of_sections = of_types + len(categories.type_names)
        kind = (sessions.query >= of_types).astype(np.int64) + (sessions.query >= of_sections)
        specificity = np.where(sessions.query >= 0, np.array(SPECIFICITY)[kind], 0.0)
        filters = rng.poisson(np.where(goal, 1.0, 0.3))
        dwell = np.where(goal, 36.0, 20.0) * np.exp(0.8 * rng.standard_normal(len(goal)))
        return np.column_stack([specificity, filters, sessions.places / PAGE, dwell])
