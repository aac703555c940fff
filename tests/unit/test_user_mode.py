"""P(goal-oriented) found from a request: the signals by hand, in the engine, in its trace and in a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aitems_engine import Engine
from aitems_engine.bundle import write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.cli import main
from aitems_engine.events import Interactions
from aitems_engine.recommendation import (
    HistoryEvent,
    Request,
    Trace,
    UserMode,
    read_query_specificity,
    recommender_parts,
)
from aitems_engine.recommendation.user_mode import SESSION_GAP_MS, mean_dwell_s, query_specificity
from aitems_engine.rerank import FreshnessController, UserModeModel
from aitems_engine.retrieval import save_retriever
from aitems_engine.training import retrieval as training

pytest.importorskip("scipy")  # the fits need it
pytestmark = pytest.mark.native
NOW = 1_700_000_000_000
MODEL = UserModeModel(-2.0, (4.0, 0.5, -0.5, 0.2))
MINUTE = 60_000
ITEMS = 40


def dwell(minutes_ago: float, seconds: float | None, kind: str = "dwell") -> HistoryEvent:
    return HistoryEvent("p1", NOW - round(minutes_ago * MINUTE), kind, seconds)


@pytest.mark.parametrize(
    ("history", "seconds"),
    [
        ([], 0),
        (["p1", "p2"], 0),
        ([dwell(5, 30), dwell(2, 10)], 20),
        ([dwell(5, 30), dwell(2, 10, "click")], 30),
        ([dwell(5, 30), dwell(2, None)], 30),
        # a pause of more than half an hour begins another session; 50 minutes ago are of this one
        ([dwell(90, 100), dwell(50, 30), dwell(25, 10)], 20),
        ([dwell(31, 30)], 0),
        ([HistoryEvent("p1", -1, "dwell", 9.0), dwell(1, 5)], 5),
    ],
)
def test_dwelling_of_the_running_session(history: list[Any], seconds: float) -> None:
    assert SESSION_GAP_MS == 30 * MINUTE
    assert mean_dwell_s(Request(history=history, timestamp=NOW)) == seconds


def test_specificity_of_queries_by_hand() -> None:
    clicks = [("Shoes ", 0)] * 5 + [("all", c) for c in (0, 1, 2, 3)] * 2 + [("rare", 1)] * 4
    clicks += [("two", 1)] * 3 + [("two", 2)] * 3 + [("x", -1)] * 9 + [("  ", 1)] * 9
    found = query_specificity(clicks, 4)
    assert found.keys() == {"shoes", "all", "two"}
    np.testing.assert_allclose([found["shoes"], found["all"], found["two"]], [1, 0, 0.5], atol=1e-12)


def test_signals_that_the_context_gives_go_first() -> None:
    mode = UserMode(MODEL, {"red shoes": 1.0, "shop": 0.2})

    def asked(shown: int = 0, **context: Any) -> float:
        return mode.probability(Request(context=context, k=10, timestamp=NOW, history=[dwell(1, 30)]), shown)

    def expected(*signals: float) -> float:
        return float(MODEL.probabilities(np.array([signals]))[0])

    assert asked() == expected(0, 0, 0, 30)
    assert asked(query=" Red  SHOES") == expected(1, 0, 0, 30)
    assert asked(query="never seen") == expected(0.6, 0, 0, 30)
    assert asked(15, query="shop", filters=2) == expected(0.2, 2, 2, 30)
    assert asked(15, query_specificity=0.4, depth=7, dwell_s=3, query="shop") == expected(0.4, 0, 7, 3)
    assert UserMode(MODEL, {}).probability(Request(context={"query": "x"}), 0) == expected(0, 0, 0, 0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    rng = np.random.default_rng(0)
    items = ItemTable.from_columns(
        [f"p{i}" for i in range(ITEMS)],
        {"category": [f"c{i % 4}" for i in range(ITEMS)]},
        {"price": rng.lognormal(9, 0.6, ITEMS)},
        NOW - np.where(np.arange(ITEMS) % 4, 90, 1) * 86_400_000,
    )
    user, item = rng.integers(0, 20, 300), rng.integers(0, ITEMS, 300)
    known = Interactions.from_events([f"u{u}" for u in user], [f"p{i}" for i in item], np.full(300, NOW - 1000))
    known = known.over(items.item_ids)
    rules = {
        "rules": [
            {"rule": "price", "weight": 1.0},
            {"rule": "freshness", "share": 0.2, "max_age_days": 7, "quality_floor": 0},
        ],
        "dial": {"price": [0, 3]},
    }
    config = {"placements": {"home": {"rules": rules, "exclude_seen": False}}, "user_mode": MODEL.to_json()}
    popular = {"popularity": training.fit_popularity(known)}
    parts = recommender_parts(items, popular, known, queries={"red shoes": 1.0}, config=config)
    folder = tmp_path_factory.mktemp("mode") / "engine"
    write_bundle(folder, parts)
    return Engine.open(folder)


def replayed(engine: Engine, trace: Trace) -> Trace:
    again = engine.replay(Trace.from_dict(json.loads(json.dumps(trace.to_dict()))))
    assert again.item_ids == trace.item_ids
    assert again.trace.goal_probability == trace.goal_probability
    return again.trace


def test_the_engine_finds_the_mode_and_replays_it(engine: Engine) -> None:
    assert engine.describe()["recommender"]["user_mode"]
    strolling = engine.recommend(Request(k=10, timestamp=NOW, request_id="r"))
    searching = engine.recommend(
        Request(k=10, timestamp=NOW, request_id="r", context={"query": "red shoes"}, history=[dwell(1, 40)])
    )
    for page, signals in ((strolling, (0, 0, 0, 0)), (searching, (1, 0, 0, 40))):
        assert page.trace.goal_probability == float(MODEL.probabilities(np.array([signals], float))[0])
        replayed(engine, page.trace)
    prices = engine._recommender.items.numbers["price"]

    def mean_price(page: Any) -> float:
        return float(prices[engine._recommender.items.positions(page.item_ids)].mean())

    assert mean_price(searching) < mean_price(strolling)
    # the next page is deeper; what the context says goes first
    second = engine.recommend(Request(k=10, timestamp=NOW, cursor=strolling.next_cursor))
    assert second.trace.goal_probability == float(MODEL.probabilities(np.array([[0, 0, 1, 0]], float))[0])
    given = engine.recommend(Request(k=10, context={"goal_probability": 0.25, "query": "red shoes"}))
    assert given.trace.goal_probability == 0.25
    assert [page.trace.goal_probability for page in engine.recommend_many([strolling.trace.request] * 2)] == [
        strolling.trace.goal_probability
    ] * 2


def test_a_controller_outside_brings_the_share_to_its_target(engine: Engine) -> None:
    """The share that was asked for stands in the traced request, so replays are exact however it moved since."""
    controller = FreshnessController(0.4)
    shares, traces = [], []
    for number in range(300):
        page = engine.recommend(
            Request(k=10, timestamp=NOW, request_id=f"r{number}", context={"cold_share": controller.share})
        )
        assert page.trace.reranked is not None
        controller.observe(page.trace.reranked.cold_share)
        shares.append(page.trace.reranked.cold_share)
        traces.append(page.trace)
    assert abs(np.mean(shares) - 0.4) < 0.02
    assert len({trace.request.context["cold_share"] for trace in traces}) > 10
    for trace in traces[::50]:
        again = replayed(engine, trace)
        assert again.reranked is not None
        assert trace.reranked is not None
        assert again.reranked.cold_share == trace.reranked.cold_share


def test_bundle_build_learns_queries_from_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products, events = tmp_path / "products.csv", tmp_path / "events.csv"
    products.write_text("product_id,title,category\n" + "".join(f"p{i},t,c{i % 4}\n" for i in range(8)))
    rows = ["e,search,u1,,red shoes"] + ["e,click,u1,p4,red shoes"] * 5 + [f"e,click,u1,p{i},all" for i in range(8)]
    rows += ["e,impression,u1,p1,red shoes", "e,click,u1,gone,all", "e,click,u1,p1,"]
    lines = [row.replace("e,", f"e{n},", 1) for n, row in enumerate(rows)]
    events.write_text("event_id,event_type,user_id,item_id,query\n" + "\n".join(lines) + "\n")
    items = ItemTable.from_columns([f"p{i}" for i in range(8)], {"category": [f"c{i % 4}" for i in range(8)]})
    found = read_query_specificity(events, items)
    assert found.keys() == {"red shoes", "all"}
    np.testing.assert_allclose([found["red shoes"], found["all"]], [1, 0], atol=1e-12)
    assert read_query_specificity(products, items) == {}
    assert read_query_specificity(events, ItemTable.from_columns(["p1"])) == {}

    known = Interactions.from_events(["u1"] * 8, [f"p{i}" for i in range(8)])
    save_retriever(tmp_path / "popular", training.fit_popularity(known), known)
    (tmp_path / "config.json").write_text(json.dumps({"placements": {"home": {}}, "user_mode": MODEL.to_json()}))
    build = ["bundle", "build", "--products", str(products), "--events", str(events), "--out", str(tmp_path / "engine")]
    build += ["--retriever", f"popular={tmp_path / 'popular'}", "--config", str(tmp_path / "config.json")]
    assert main(build) == 0
    trace = tmp_path / "trace.json"
    ask = ["recommend", "--bundle", str(tmp_path / "engine"), "--context", "query=red shoes", "--trace", str(trace)]
    assert main([*ask, "--k", "3"]) == 0
    assert json.loads(trace.read_text())["goal_probability"] == pytest.approx(1 / (1 + np.exp(-2)))
    capsys.readouterr()
    assert main(["explain", "--bundle", str(tmp_path / "engine"), "--trace", str(trace)]) == 0
    assert "goal-oriented with probability 0.881" in capsys.readouterr().out
