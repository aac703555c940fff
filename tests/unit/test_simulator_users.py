"""The simulated users: what they did follows from the truth that is written beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import leave_one_out, read_interactions
from aitems_engine.simulator import SimulatedShop, simulate_shop
from aitems_engine.simulator.world import World, crowd_above, month_of
from aitems_engine.training.retrieval import fit_item_knn, fit_popularity

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimulatedShop:
    return simulate_shop(tmp_path_factory.mktemp("users"), products=600, leaves=80, seed=3, users=4000)


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def test_events_fit_together(shop: SimulatedShop) -> None:
    events, truth = columns(shop.users[0]), columns(shop.users[1])
    assert len(set(events["event_id"])) == len(events["event_id"])
    assert (np.diff(events["timestamp"]) >= 0).all()
    keys = {
        kind: set(zip(events["session_id"][rows], events["item_id"][rows], strict=True))
        for kind in ("impression", "click", "purchase")
        for rows in [events["event_type"] == kind]
    }
    assert keys["purchase"] < keys["click"] < keys["impression"]
    assert keys["impression"] == set(zip(truth["session_id"], truth["item_id"], strict=True))
    assert len(truth["item_id"]) == (events["event_type"] == "impression").sum()
    products = columns(shop.products)
    registered = dict(zip(products["product_id"], products["registered_at"], strict=True))
    about = events["event_type"] != "search"
    assert all(registered[i] <= t for i, t in zip(events["item_id"][about], events["timestamp"][about], strict=True))
    searches = ~about
    assert searches.any()
    assert all(item is None for item in events["item_id"][searches])
    assert all(query for query in events["query"][searches])


def test_carts_likes_and_dwelling_come_of_clicks(shop: SimulatedShop) -> None:
    events = columns(shop.users[0])
    keys = {
        kind: set(zip(events["session_id"][rows], events["item_id"][rows], strict=True))
        for kind in ("click", "cart", "like", "dwell", "purchase")
        for rows in [events["event_type"] == kind]
    }
    assert keys["purchase"] < keys["cart"] < keys["click"]
    assert keys["like"] < keys["click"]
    assert keys["dwell"] == keys["click"]
    assert (events["value"][events["event_type"] == "dwell"] > 0).all()


def test_the_truth_says_who_had_a_goal(shop: SimulatedShop) -> None:
    sessions = columns(shop.users[3])
    goal = sessions["goal_oriented"]
    assert 0.2 < goal.mean() < 0.8
    assert all((leaf is not None) == g for leaf, g in zip(sessions["wanted_leaf"], goal, strict=True))
    searched = np.array([query is not None for query in sessions["query"]])
    assert searched[goal].mean() > searched[~goal].mean() + 0.3


def test_clicked_items_convert_otherwise_than_shown_ones(shop: SimulatedShop) -> None:
    """What makes purchases likely makes clicks likely: clicks alone show a better world than there is."""
    truth = columns(shop.users[1])
    click, purchase = truth["click_probability"], truth["purchase_probability"]
    of_clicks = (click * purchase).sum() / click.sum()
    assert of_clicks > 1.5 * purchase.mean()
    lucky = truth["would_purchase"]
    deviation = np.sqrt((purchase * (1 - purchase)).sum())
    assert abs(lucky.sum() - purchase.sum()) < 4 * deviation


def test_ads_are_of_their_malls(shop: SimulatedShop) -> None:
    ads, products = columns(shop.users[5]), columns(shop.products)
    mall = dict(zip(products["product_id"], products["mall_id"], strict=True))
    assert all(mall[item] == m for item, m in zip(ads["item_id"], ads["mall_id"], strict=True))
    assert len(set(ads["item_id"])) == len(ads["item_id"])
    assert (ads["bid"] > 0).all()
    assert (ads["budget"] > 0).all()


def test_ads_stand_in_the_log_with_their_bids(shop: SimulatedShop) -> None:
    events, ads, truth = columns(shop.users[0]), columns(shop.users[5]), columns(shop.users[1])
    shown = events["event_type"] == "impression"
    campaign = events["campaign_id"]
    is_ad = np.array([c is not None for c in campaign])
    known = {a: (c, b) for a, c, b in zip(ads["item_id"], ads["campaign_id"], ads["bid"], strict=True)}
    for item, c, bid in zip(events["item_id"][is_ad], campaign[is_ad], events["bid"][is_ad], strict=True):
        assert known[item] == (c, bid)
    assert np.isnan(events["bid"][~is_ad]).all()
    assert 0.02 < is_ad[shown].mean() < 0.2
    assert set(events["position"][is_ad & shown] % 10) == {3, 8}
    assert (is_ad & (events["event_type"] == "purchase")).any()
    assert truth["is_ad"].sum() == is_ad[shown].sum()
    assert len(set(zip(truth["session_id"], truth["item_id"], strict=True))) == len(truth["item_id"])
    # a campaign is not shown any more on a day once its clicks cost its budget
    budget = dict(zip(ads["campaign_id"], ads["budget"], strict=True))
    start = dict(zip(columns(shop.users[3])["session_id"], columns(shop.users[3])["timestamp"], strict=True))
    days: dict[tuple[str, int], list[tuple[int, int, bool, float]]] = {}
    clicked = set(zip(*(events[c][events["event_type"] == "click"] for c in ("session_id", "item_id")), strict=True))
    for row in np.flatnonzero(is_ad & shown):
        key = events["session_id"][row], events["item_id"][row]
        day = campaign[row], start[key[0]] // 86_400_000
        days.setdefault(day, []).append((start[key[0]], events["position"][row], key in clicked, events["bid"][row]))
    stopped = 0
    for (name, _), rows in days.items():
        spent = 0.0
        for _, _, click, bid in sorted(rows):
            assert spent < budget[name]
            spent += click * bid
        stopped += spent >= budget[name]
    assert stopped > 0


def test_the_world_can_be_read_again(shop: SimulatedShop, tmp_path: Path) -> None:
    world = World.open(shop.products.parent)
    truth = columns(shop.users[1])
    assert len(world.tastes.activity) == 4000
    n = 500
    sessions = {s: i for i, s in enumerate(columns(shop.users[3])["session_id"])}
    facts = columns(shop.users[3])
    row = np.array([sessions[s] for s in truth["session_id"][:n]])
    item = np.array([int(i) - 1 for i in truth["item_id"][:n]])
    wanted = {name: i for i, name in enumerate(world.categories.leaf_names)}
    click, purchase = world.probabilities(
        np.array([int(u[1:]) - 1 for u in truth["user_id"][:n]]),
        item,
        truth["position"][:n],
        goal=facts["goal_oriented"][row],
        wanted_leaf=np.array([wanted.get(w, -1) for w in facts["wanted_leaf"][row]]),
        month=month_of(facts["timestamp"][row]),
        crowd=crowd_above(row, world.items.product_type[item]),
        is_ad=truth["is_ad"][:n],
    )
    # two leaves may have one name, and then the wanted one is not known from its name
    same = np.isclose(purchase, truth["purchase_probability"][:n], rtol=1e-5)
    assert same.mean() > 0.9
    np.testing.assert_allclose(click[same], truth["click_probability"][:n][same], rtol=1e-4)
    with pytest.raises(DataError, match="users_truth"):
        World.open(tmp_path)


def test_clicks_follow_their_probabilities(shop: SimulatedShop) -> None:
    events, truth = columns(shop.users[0]), columns(shop.users[1])
    clicked = set(zip(*(events[c][events["event_type"] == "click"] for c in ("session_id", "item_id")), strict=True))
    happened = np.array([k in clicked for k in zip(truth["session_id"], truth["item_id"], strict=True)])
    p = truth["click_probability"]
    order = np.argsort(p)
    for part in np.array_split(order, 5):
        deviation = np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs(happened[part].sum() - p[part].sum()) < 4 * deviation
    # the same sessions at both places: types with few items fill no page; lower places are of a fuller page, too
    full = set(truth["session_id"][truth["position"] == 8])
    long = np.array([session in full for session in truth["session_id"]])
    top, bottom = p[long & (truth["position"] == 1)].mean(), p[truth["position"] == 8].mean()
    assert 0.6 * 8**-0.6 < bottom / top < 8**-0.6


def test_the_same_seed_gives_the_same_users(shop: SimulatedShop, tmp_path: Path) -> None:
    again = simulate_shop(tmp_path / "a", products=600, leaves=80, seed=3, users=4000)
    plain = simulate_shop(tmp_path / "b", products=600, leaves=80, seed=3)
    for one, two in zip(shop.users, again.users, strict=True):
        assert pq.read_table(one).equals(pq.read_table(two))
    assert plain.products.read_bytes() == shop.products.read_bytes()
    assert plain.users == ()


def test_tastes_can_be_learnt(shop: SimulatedShop) -> None:
    split = leave_one_out(read_interactions(shop.users[0]))
    found = [
        evaluate_ranking(fit(split.train), split.train, split.test, (20,)).means()["recall@20"]
        for fit in (fit_popularity, fit_item_knn)
    ]
    assert found[1] > 1.2 * found[0]


def test_impossible_numbers_of_users(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="users must be from 0"):
        simulate_shop(tmp_path, products=10, leaves=2, users=-1)
