"""The closed loop: what is expected of a page is what happens to it, and what happened is remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.simulator import simulate_shop
from aitems_engine.simulator.closed_loop import HISTORY, ClosedLoop, Visits

pq = pytest.importorskip("pyarrow.parquet")
K = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = simulate_shop(tmp_path_factory.mktemp("loop"), products=1500, leaves=60, seed=3, users=300)
    return made.products.parent


@pytest.fixture
def loop(folder: Path) -> ClosedLoop:
    return ClosedLoop.open(folder, 7, pool=60, ads=8)


def first(visits: Visits) -> np.ndarray:
    return visits.pool[:, :K]


def test_candidates_are_different_and_on_sale(loop: ClosedLoop) -> None:
    visits = loop.visits(400)
    assert visits.signals.shape == (len(visits), 4)
    for rows in (visits.pool, visits.ads):
        there = rows >= 0
        assert (there[:, :-1] >= there[:, 1:]).all()
        assert there.any(axis=1).mean() > 0.95
        assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in rows)
        visit, place = np.nonzero(there)
        on_sale = loop.world.items.registered_at[rows[visit, place]]
        assert (on_sale <= loop._now).all()
    assert set(visits.ads[visits.ads >= 0]) <= set(loop.world.ads.item)
    assert (np.diff(visits.truth.start) >= 0).all()
    assert visits.truth.start[0] >= loop.world.last_ms


def test_what_happens_is_what_was_expected(loop: ClosedLoop) -> None:
    total = np.zeros((3, 2))
    variance = np.zeros(2)
    for _ in range(20):
        visits = loop.visits(400)
        outcome = loop.show(visits, first(visits))
        for i, (p, happened) in enumerate(
            [(outcome.expected.clicks, outcome.clicked), (outcome.expected.purchases, outcome.purchased)]
        ):
            total[:2, i] += p.sum(), happened.sum()
            variance[i] += (p * (1 - p)).sum()
        assert not (outcome.purchased & ~outcome.clicked).any()
    assert (np.abs(total[0] - total[1]) < 4 * np.sqrt(variance)).all()
    price = np.nan_to_num(loop.world.items.price[first(visits)])
    np.testing.assert_allclose(outcome.expected.sales, outcome.expected.purchases * price)


def test_the_same_seed_and_pages_give_the_same(folder: Path) -> None:
    def run() -> list[np.ndarray]:
        loop = ClosedLoop.open(folder, 5, pool=40)
        found = []
        for _ in range(3):
            visits = loop.visits(50)
            found += [visits.pool, visits.ads, visits.history, loop.show(visits, first(visits)).clicked]
        return found

    for one, two in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_expecting_changes_nothing(loop: ClosedLoop) -> None:
    visits = loop.visits(50)
    before = loop.impressions.copy()
    one = loop.expected(visits, first(visits))
    two = loop.expected(visits, first(visits))
    np.testing.assert_array_equal(one.clicks, two.clicks)
    np.testing.assert_array_equal(loop.impressions, before)
    # the first place sees nothing above it
    np.testing.assert_allclose(one.clicks[:, 0], np.nan_to_num(loop.appeal(visits)[:, 0]))


def test_histories_and_counts_equal_a_slow_twin(folder: Path, loop: ClosedLoop) -> None:
    events = pq.read_table(folder / "events.parquet").to_pylist()
    slow: dict[int, list[int]] = {}
    shown, clicks = np.zeros(1500, np.int64), np.zeros(1500, np.int64)
    clicked = {(e["session_id"], e["item_id"]) for e in events if e["event_type"] == "click"}
    for event in events:
        if event["event_type"] == "impression":
            item, key = int(event["item_id"]) - 1, (event["session_id"], event["item_id"])
            shown[item] += 1
            clicks[item] += key in clicked
            if key in clicked:
                slow.setdefault(int(event["user_id"][1:]) - 1, []).append(item)
    for _ in range(4):
        visits = loop.visits(300)
        for user, row in zip(visits.truth.user.tolist(), visits.history, strict=True):
            known = slow.get(user, [])[-HISTORY:]
            assert row.tolist() == [-1] * (HISTORY - len(known)) + known
        outcome = loop.show(visits, first(visits))
        for visit, place in np.argwhere(first(visits) >= 0).tolist():
            item = int(first(visits)[visit, place])
            shown[item] += 1
            if outcome.clicked[visit, place]:
                clicks[item] += 1
                slow.setdefault(int(visits.truth.user[visit]), []).append(item)
    np.testing.assert_array_equal(loop.impressions, shown)
    np.testing.assert_array_equal(loop.clicks, clicks)


def test_ads_pay_for_clicks_until_the_budget_is_spent(loop: ClosedLoop) -> None:
    visits = loop.visits(200)
    page = visits.pool[:, :3].copy()
    has_ad = visits.ads[:, 0] >= 0
    has_ad &= (page != visits.ads[:, :1]).all(axis=1)
    page[has_ad, 1] = visits.ads[has_ad, 0]
    is_ad = np.zeros(page.shape, bool)
    is_ad[has_ad, 1] = True
    plain, shown = loop.expected(visits, page), loop.show(visits, page, is_ad)
    assert plain.payments.sum() == 0
    assert (shown.expected.payments[is_ad] > 0).all()
    assert (shown.expected.clicks[is_ad] < plain.clicks[is_ad]).all()
    bid = dict(zip(loop.world.ads.item.tolist(), loop.world.ads.bid.tolist(), strict=True))
    due = sum(bid[int(page[v, 1])] for v in np.flatnonzero(shown.clicked[:, 1] & has_ad))
    assert shown.paid.sum() == pytest.approx(due) == pytest.approx(loop.spent.sum())
    loop.spent[:] = 1e9
    loop._ms_a_visit = 1e-3  # the same day
    assert (loop.visits(50).ads < 0).all()


def test_empty_places_do_not_count(loop: ClosedLoop) -> None:
    visits = loop.visits(50)
    page, gap = visits.pool[:, :2].copy(), np.full((len(visits), 3), -1, np.int32)
    gap[:, [0, 2]] = page
    np.testing.assert_allclose(loop.expected(visits, gap).clicks[:, [0, 2]], loop.expected(visits, page).clicks)


def test_pages_that_cannot_be_shown(loop: ClosedLoop, tmp_path: Path) -> None:
    visits = loop.visits(10)
    page = visits.pool[:, :3]
    with pytest.raises(InvalidInputError, match="shape"):
        loop.expected(visits, page[:5])
    with pytest.raises(InvalidInputError, match="from 0 to 1499"):
        loop.show(visits, np.where(page == page[0, 0], 1500, page))
    with pytest.raises(InvalidInputError, match="twice on page 0"):
        loop.show(visits, page[:, [0, 0]])
    organic = np.setdiff1d(np.arange(1500), loop.world.ads.item)[: len(visits), None].astype(np.int32)
    with pytest.raises(InvalidInputError, match="no campaign advertises"):
        loop.show(visits, organic, np.ones(organic.shape, bool))
    with pytest.raises(InvalidInputError, match="n must be"):
        loop.visits(0)
    with pytest.raises(InvalidInputError, match="pool and ads"):
        ClosedLoop(loop.world, 1, pool=0)
    with pytest.raises(DataError, match="users_truth"):
        ClosedLoop.open(tmp_path, 1)


def test_a_shop_without_ads(loop: ClosedLoop) -> None:
    none = replace(loop.world.ads, **{name: getattr(loop.world.ads, name)[:0] for name in ("campaign", "item", "bid")})
    bare = ClosedLoop(replace(loop.world, ads=none), 1, pool=20)
    visits = bare.visits(20)
    assert (visits.ads < 0).all()
    assert bare.show(visits, visits.pool[:, :5]).paid.sum() == 0
