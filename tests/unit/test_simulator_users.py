"""The simulated users: what they did follows from the truth that is written beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import leave_one_out, read_interactions
from aitems_engine.simulator import SimulatedShop, simulate_shop
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
    assert all(registered[i] <= t for i, t in zip(events["item_id"], events["timestamp"], strict=True))


def test_clicks_follow_their_probabilities(shop: SimulatedShop) -> None:
    events, truth = columns(shop.users[0]), columns(shop.users[1])
    clicked = set(zip(*(events[c][events["event_type"] == "click"] for c in ("session_id", "item_id")), strict=True))
    happened = np.array([k in clicked for k in zip(truth["session_id"], truth["item_id"], strict=True)])
    p = truth["click_probability"]
    order = np.argsort(p)
    for part in np.array_split(order, 5):
        deviation = np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs(happened[part].sum() - p[part].sum()) < 4 * deviation
    # the same sessions at both places: types with few items fill no page
    long = np.isin(truth["session_id"], truth["session_id"][truth["position"] == 8])
    top, bottom = p[long & (truth["position"] == 1)].mean(), p[truth["position"] == 8].mean()
    assert bottom / top == pytest.approx(8**-0.6, rel=0.1)


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
