"""The whole way of a request: alone and together, replayed, page by page, and with everything that may go wrong."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.test_ranker import network

from aitems_engine import Engine
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.cli import main
from aitems_engine.errors import BundleError, ConfigError, DataError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureConfig, FeatureQuery, FeatureSet, ranker_parts
from aitems_engine.recommendation import (
    HistoryEvent,
    Recommender,
    Request,
    Response,
    Trace,
    read_ads,
    recommender_parts,
)
from aitems_engine.recommendation.pool import Ads, Source
from aitems_engine.training import retrieval as training

pytest.importorskip("scipy")  # the fits need it
pytestmark = pytest.mark.native
NOW = 1_700_000_000_000
CONFIG: dict[str, Any] = {
    "placements": {
        "home": {
            "objective": "pctr * (0.1 + pcvr * price)",
            "budget": 60,
            "rules": {
                "rules": [
                    {"rule": "seen"},
                    {"rule": "cap", "attribute": "mall", "most": 4},
                    {"rule": "mmr", "strength": 0.3},
                ],
                "relax": ["cap:mall"],
            },
        },
        "plain": {"rank": False, "retrievers": {"ease": 30, "popularity": 10}, "exclude_seen": False},
        "shelf": {"ads": 5, "rules": {"rules": [{"rule": "ads", "max_ads": 3, "gap": 3}]}},
    },
    "vectors": "ials",
}


def catalogue(items: int = 120) -> ItemTable:
    rng = np.random.default_rng(0)
    return ItemTable.from_columns(
        [f"p{i}" for i in range(items)],
        {"mall": [f"m{i % 5}" for i in range(items)], "category": [f"c{i % 12}" for i in range(items)]},
        {"price": rng.lognormal(3, 1, items), "margin": np.full(items, np.nan)},
        NOW - rng.integers(0, 10**10, items),
    )


def histories(items: ItemTable, users: int = 80) -> Interactions:
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(users), 9)
    item = (user * 7 + rng.integers(0, 25, len(user))) % (len(items) - 10)
    times = NOW - rng.integers(10**6, 10**9, len(user))
    known = Interactions.from_events([f"u{u}" for u in user], [items.item_ids[i] for i in item], times)
    return known.over(items.item_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the bundle `engine`, its parts under `parts`, and the ranker's bundle."""
    path = tmp_path_factory.mktemp("recommender")
    items = catalogue()
    known = histories(items)
    query = FeatureQuery.of(
        known, known.items, known.splits, np.full(len(known), NOW), {"placement": ["home"] * len(known)}
    )
    counts = np.random.default_rng(2).integers(0, 50, (len(items), 3)).astype(np.int64)
    query = replace(query, counts=counts[query.candidates])
    features = FeatureSet.fit(FeatureConfig.default(items), items, query, counts)
    write_bundle(path / "ranker", ranker_parts(features, network(features)))
    write_bundle(path / "engine", made(items, known, Bundle.open(path / "ranker")))
    return path


def made(items: ItemTable, known: Interactions, ranker: Bundle | None, config: dict[str, Any] = CONFIG) -> Any:
    # one of them knows fewer items than the catalogue
    fewer = known.over(items.item_ids[:90][::-1])
    retrievers = {
        "popularity": training.fit_popularity(known),
        "ease": training.fit_ease(fewer, l2=5),
        "ials": training.fit_ials(known, rank=8, epochs=2),
    }
    ads = Ads(np.array([5, 17, 110, 3, 44, 60], np.int32), np.array([90, 50, 40, 5, 2, 1], np.float32))
    return recommender_parts(items, retrievers, known, ranker=ranker, ads=ads, config=config)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.open(folder / "engine")


def requests(count: int = 60) -> list[Request]:
    rng = np.random.default_rng(3)
    result = []
    for i in range(count):
        history = [f"p{x}" for x in rng.integers(0, 130, rng.integers(0, 12))]
        result.append(
            Request(
                user_id=f"u{i}" if i % 3 else None,
                history=history if i % 2 else [],
                placement=["home", "plain", "shelf"][i % 3],
                k=int(rng.integers(1, 25)),
                exclude=[f"p{x}" for x in rng.integers(0, 120, i % 4)],
                timestamp=NOW + i,
                request_id=f"r{i}",
            )
        )
    return result


def same(a: Any, b: Any) -> bool:
    # as text, because NaN is not equal to itself
    return a.item_ids == b.item_ids and a.scores.tolist() == b.scores.tolist() and repr(a.items) == repr(b.items)


def test_one_by_one_and_together(engine: Engine) -> None:
    together = engine.recommend_many(requests())
    for request, page in zip(requests(), together, strict=True):
        assert len(page) == request.k
        assert len(set(page.item_ids)) == len(page)
        assert not set(page.item_ids) & set(request.exclude)
        alone = engine.recommend(request)
        assert alone.item_ids == page.item_ids
        np.testing.assert_allclose(alone.scores, page.scores, rtol=1e-5)


def test_seen_items_are_left_out_where_the_placement_says(engine: Engine) -> None:
    history = [f"p{i}" for i in range(20)]
    assert not set(engine.recommend(Request(history=history)).item_ids) & set(history)
    assert set(engine.recommend(Request(history=history, placement="plain", k=40)).item_ids) & set(history)


def test_replay(engine: Engine) -> None:
    for page in engine.recommend_many(requests()):
        trace = Trace.from_dict(json.loads(json.dumps(page.trace.to_dict())))
        again = engine.replay(trace)
        assert again.item_ids == trace.item_ids
        np.testing.assert_allclose(again.scores, trace.scores, rtol=1e-5)
    alone = engine.recommend(requests()[1])
    assert same(engine.replay(alone.trace), alone)


def test_responses_travel_as_json(engine: Engine) -> None:
    pages = [*engine.recommend_many(requests()), engine.recommend(Request(exclude=[f"p{i}" for i in range(120)]))]
    for page in pages:
        text = json.dumps(page.to_dict(), allow_nan=False)
        again = Response.from_dict(json.loads(text))
        assert same(again, page)
        assert (again.next_cursor, again.flags) == (page.next_cursor, page.flags)
    for value in ({}, {**pages[0].to_dict(), "columns": {}}, {**pages[0].to_dict(), "next_cursor": "x"}):
        with pytest.raises(InvalidInputError):
            Response.from_dict(value)


@pytest.mark.slow
def test_ten_thousand_replays_are_equal(engine: Engine) -> None:
    for request in requests(10_000):
        page = engine.recommend(request)
        assert same(engine.replay(page.trace), page)


def test_provenance_is_where_an_item_was_found(engine: Engine) -> None:
    request = Request(user_id="u3", placement="plain", k=30, timestamp=NOW)
    page = engine.recommend(request)
    recommender = engine._recommender
    assert recommender.histories is not None
    for item in page.items:
        for origin in item.provenance:
            source = recommender.sources[origin.retriever]
            found = source.candidates(recommender.histories.of_users(["u3"]), np.array([30]), False)
            assert recommender.items.item_ids[found.items[0, origin.rank - 1]] == item.item_id
            assert found.scores[0, origin.rank - 1] == pytest.approx(origin.score, rel=1e-5)
    assert any(len(item.provenance) == 2 for item in page.items)


def test_pages_never_repeat_and_come_to_an_end(engine: Engine) -> None:
    seen: list[str] = []
    request: Request | None = Request(user_id="u1", k=15, timestamp=NOW, placement="plain")
    for _ in range(20):
        assert request is not None
        page = engine.recommend(request)
        seen += page.item_ids
        if page.next_cursor is None:
            assert page.short_reason or len(page) < 15
            break
        request = replace(request, cursor=page.next_cursor)
    else:
        pytest.fail("no end")
    assert len(seen) == len(set(seen)) == 120


def test_ledger_adds_up(engine: Engine) -> None:
    page = engine.recommend(Request(user_id="u1", timestamp=NOW))
    steps = page.trace.reranked.steps  # type: ignore[union-attr]
    assert sum(entry["delta_clicks"] for entry in page.trace.ledger) == pytest.approx(
        steps[-1].clicks - steps[0].clicks
    )
    assert [entry["rule"] for entry in page.trace.ledger][-3:] == ["seen", "cap:mall", "mmr"]


def test_ads_are_labelled(engine: Engine) -> None:
    page = engine.recommend(Request(user_id="u9", placement="shelf", timestamp=NOW))
    ads = [item for item in page.items if item.is_ad]
    assert ads
    assert {item.item_id for item in ads} <= {"p5", "p17", "p110", "p3", "p44"}


@pytest.mark.parametrize(
    ("request_", "flag"),
    [
        (Request(history=["nobody", "knows", "p3"]), "2 events of the history"),
        (
            Request(history=[], user_id="stranger", placement="plain"),
            "found 10 items for 20 places: popular",
        ),
        (Request(user_id="u1", placement="nowhere"), "placement 'nowhere' is not there: 'home' answered"),
        (Request(history=["p1"] * 100_000), "the history has 100000 events"),
        (Request(user_id="u1", k=1000), "short|popular"),
        (Request(history=["p1"], exclude=[f"p{i}" for i in range(120)]), "short"),
    ],
)
def test_unusual_requests_are_answered_and_flagged(engine: Engine, request_: Request, flag: str) -> None:
    import re

    page = engine.recommend(request_)
    assert re.search(flag, " | ".join(page.flags)), page.flags
    assert len(page) == request_.k or page.short_reason


def test_rules_see_the_ages_and_impressions_they_use(folder: Path) -> None:
    items = catalogue()
    rules = [
        {"rule": "freshness", "share": 0.1, "max_age_days": 30, "min_impressions": 5},
        {"rule": "exploration", "slots": [1]},
    ]
    made_of = made(
        items, histories(items), Bundle.open(folder / "ranker"), {"placements": {"home": {"rules": {"rules": rules}}}}
    )
    write_bundle(folder / "fresh", made_of)
    opened = Engine.open(folder / "fresh")._recommender
    assert opened.placements["home"].rules.columns == {"age_days", "impressions", "pctr"}
    page = opened.recommend([Request(user_id="u1", timestamp=NOW)])[0]
    assert page.trace.reranked is not None
    assert opened.features is not None
    cold = (NOW - items.registered_at <= 30 * 86_400_000) | (opened.features.counts[:, 0] < 5)
    assert page.trace.reranked.steps[1].note.startswith("share 0.100")
    assert int(page.trace.reranked.steps[1].note.split()[-2]) > 0
    assert page.trace.reranked.cold_share > 0
    assert cold[items.positions(page.item_ids)].any()


def test_bought_items_are_known_to_rules(folder: Path) -> None:
    items = catalogue()
    config = {"placements": {"home": {"rank": False, "exclude_seen": False, "rules": {"rules": [{"rule": "bought"}]}}}}
    write_bundle(folder / "bought", made(items, histories(items), None, config))
    with Engine.open(folder / "bought") as engine:
        events = [HistoryEvent("p1", NOW, "purchase"), HistoryEvent("p2", NOW, "click")]
        page = engine.recommend(Request(history=events, k=110))
        assert "p1" not in page.item_ids
        assert "p2" in page.item_ids
    known = histories(items)
    known = replace(known, bought=np.arange(len(known.items)) % 3 == 0)
    write_bundle(folder / "bought", made(items, known, None, config))
    with Engine.open(folder / "bought") as engine:
        own = slice(*known.splits[4:6])
        gone = {items.item_ids[i] for i in known.items[own][known.bought[own]]}
        shown = set(engine.recommend(Request(user_id=known.user_ids[4], k=110)).item_ids)
        assert gone
        assert not shown & gone
        assert {items.item_ids[i] for i in known.items[own]} - gone <= shown


def test_windows_reach_across_pages(folder: Path) -> None:
    items = catalogue()
    rules = {"rules": [{"rule": "spacing", "attribute": "mall", "window": 5}]}
    config = {"placements": {"home": {"rank": False, "rules": rules}}}
    write_bundle(folder / "windows", made(items, histories(items), None, config))
    with Engine.open(folder / "windows") as engine:
        request, shown = Request(user_id="u1", k=3, timestamp=NOW), []
        for _ in range(6):
            page = engine.recommend(request)
            assert engine.replay(page.trace).item_ids == page.item_ids
            shown += page.item_ids
            request = replace(request, cursor=page.next_cursor)
    malls = [int(item[1:]) % 5 for item in shown]
    assert len(shown) == 18
    assert all(len(set(malls[at : at + 5])) == 5 for at in range(14))


class Broken:
    """A retriever that fails, or takes its time, and counts."""

    kind = "broken"

    def __init__(self, item_ids: list[str], seconds: float = 0.0) -> None:
        self.item_ids, self.seconds, self.calls = item_ids, seconds, 0

    def candidates(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        if self.seconds:
            time.sleep(self.seconds)
        raise RuntimeError("dead")


def with_broken(engine: Engine, seconds: float, *names: str) -> tuple[Recommender, Broken]:
    own = engine._recommender
    broken = Broken(own.items.item_ids, seconds)
    sources = {name: Source(name, broken, None, None) if name in names else s for name, s in own.sources.items()}
    return replace(own, sources=sources), broken


def test_a_dead_retriever(engine: Engine) -> None:
    recommender, broken = with_broken(engine, 0, "ease")
    page = recommender.recommend([Request(user_id="u1", timestamp=NOW)])[0]
    assert len(page) == 20
    assert "retriever ease: failed: RuntimeError: dead" in page.flags
    assert same(recommender.replay(page.trace), page)
    assert broken.calls == 1


def test_all_retrievers_dead(engine: Engine) -> None:
    recommender, _ = with_broken(engine, 0, "ease", "ials", "popularity")
    page = recommender.recommend([Request(user_id="u1", timestamp=NOW)])[0]
    assert len(page) == 20
    assert all(item.provenance == () for item in page.items)
    assert sum("dead" in flag for flag in page.flags) == 3


def test_a_late_retriever(engine: Engine) -> None:
    recommender, _ = with_broken(engine, 2.0, "ials")
    page = recommender.recommend([Request(user_id="u1", timestamp=NOW, deadline_ms=500)])[0]
    assert len(page) == 20
    assert page.flags == ("retriever ials: late: past the deadline",)
    assert same(recommender.replay(page.trace), page)


def test_a_late_ranker(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    own = engine._recommender
    let_go = threading.Event()

    class Slow:
        def predict(self, batch: Any) -> Any:
            let_go.wait(30)
            return own.ranker.predict(batch)  # type: ignore[union-attr]

    recommender = replace(own, ranker=Slow())  # type: ignore[arg-type]
    page = recommender.recommend([Request(user_id="u1", timestamp=NOW, deadline_ms=300)])[0]
    assert len(page) == 20
    assert "ranker: late: past the deadline" in page.flags
    assert np.isnan([item.pctr for item in page.items]).all()
    assert same(recommender.replay(page.trace), page)
    let_go.set()


def test_hot_swap_under_load(folder: Path) -> None:
    items = catalogue()
    write_bundle(folder / "other", made(items, histories(items, users=40), None, {"placements": {"home": {}}}))
    engine = Engine.open(folder / "engine")
    digests, failures, stop = set(), [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                page = engine.recommend(Request(user_id="u1", timestamp=NOW))
                digests.add(page.trace.bundle_digest)
                assert len(page) == 20
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for name in ("other", "engine", "other"):
        last = engine.reload(folder / name, warm=[Request(user_id="u2")])
        deadline = time.monotonic() + 20
        while last not in digests and time.monotonic() < deadline:
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(digests) == 2
    with pytest.raises(BundleError):
        engine.reload(folder / "nothing")
    assert len(engine.recommend(Request(user_id="u1"))) == 20


def test_a_trace_of_another_bundle(engine: Engine) -> None:
    trace = replace(engine.recommend(Request(user_id="u1")).trace, bundle_digest="0" * 64)
    with pytest.raises(InvalidInputError, match="the trace is of bundle"):
        engine.replay(trace)


@pytest.mark.parametrize("value", [{}, [], {"request": 1}, {"request": {"k": 0}}])
def test_what_is_no_trace(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        Trace.from_dict(value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "at least one placement"),
        ({"placements": {"home": {"quota": 3}}}, "no setting 'quota'"),
        ({"placements": {"home": {"retrievers": ["nobody"]}}}, "no retriever 'nobody'"),
        ({"placements": {"home": {"retrievers": []}}}, "not empty"),
        ({"placements": {"home": {"budget": 0}}}, "budget must be"),
        ({"placements": {"home": {"objective": "__import__('os')"}}}, "placement 'home'.*objective"),
        ({"placements": {"home": {"deadline_ms": -1}}}, "deadline_ms"),
        ({"placements": {"home": {"rules": {"rules": [{"rule": "cap", "attribute": "colour", "most": 1}]}}}}, "colour"),
        ({"placements": {"no name": {}}}, "a name has"),
        ({"placements": {"home": {}}, "vectors": "ghost"}, "vectors must name"),
        ({"placements": {"home": {}}, "extra": 1}, "no 'extra'"),
        ({"placements": {"home": {}}, "user_mode": {"bias": 1}}, "a user mode model is"),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], message: str) -> None:
    items = catalogue()
    with pytest.raises(ConfigError, match=message):
        made(items, histories(items), None, config)


def test_parts_that_do_not_belong_together(folder: Path) -> None:
    bundle = Bundle.open(folder / "engine")
    parts: dict[str, Any] = {name: bundle.file(name) for name in bundle.parts}
    small = catalogue(50)
    wrong = made(small, histories(small), None)
    for name in ("catalogue.json", "catalogue.safetensors", "retriever.ease.retriever.safetensors"):
        write_bundle(folder / "mixed", parts | {name: wrong[name]})
        with pytest.raises(BundleError, match="fit together"):
            Engine.open(folder / "mixed")
    without = {name: part for name, part in parts.items() if name != "ranker.ranker.onnx"}
    write_bundle(folder / "mixed", without)
    with pytest.raises(BundleError, match=r"ranker\.onnx"):
        Engine.open(folder / "mixed")


def test_a_bundle_that_cannot_classify(engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match="no category classifier"):
        engine.classify(["x"])
    assert engine.describe()["recommender"]["items"] == 120


def test_a_bundle_that_cannot_recommend(tiny_bundle: Path) -> None:
    with Engine.open(tiny_bundle) as engine, pytest.raises(InvalidInputError, match="no recommender"):
        engine.recommend(Request())


def test_ads_files(tmp_path: Path) -> None:
    items = catalogue()
    path = tmp_path / "ads.csv"
    path.write_text("item_id,bid\np1,3\np2,5.5\np1,9\nghost,1\n")
    ads = read_ads(path, items)
    assert ads.items.tolist() == [1, 2]
    assert ads.bids.tolist() == [9.0, 5.5]
    path.write_text("item_id,bid\np1,-3\n")
    with pytest.raises(DataError, match="column 'bid'"):
        read_ads(path, items)


def test_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aitems_engine.retrieval import save_retriever

    items = catalogue()
    known = histories(items)
    save_retriever(tmp_path / "ease", training.fit_ease(known, l2=5), known)
    save_retriever(tmp_path / "popular", training.fit_popularity(known), known)
    (tmp_path / "config.json").write_text(json.dumps({"placements": {"home": {"budget": 50}}}))
    build = ["bundle", "build", "--retriever", f"ease={tmp_path / 'ease'}", "--out", str(tmp_path / "engine")]
    build += ["--retriever", f"popular={tmp_path / 'popular'}", "--config", str(tmp_path / "config.json")]
    assert main(build) == 0
    assert "120 items, 80 users, placements home" in capsys.readouterr().out
    trace = tmp_path / "trace.json"
    ask = ["recommend", "--bundle", str(tmp_path / "engine"), "--user", "u1", "--k", "5", "--trace", str(trace)]
    assert main([*ask, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "ease #1" in shown
    assert main(["explain", "--bundle", str(tmp_path / "engine"), "--trace", str(trace)]) == 0
    assert "replay: the same items and scores" in capsys.readouterr().out
    assert main(ask) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5

    for wrong, message in (
        (["recommend"], "give --bundle"),
        (["recommend", "--model", "m"], "name it with --out"),
        (["recommend", "--bundle", str(tmp_path / "engine"), "--k", "0"], "k must be"),
        (["recommend", "--bundle", str(tmp_path / "engine"), "--request", str(folder / "no.json")], "no.json"),
        (["explain", "--bundle", str(tmp_path / "engine"), "--trace", str(tmp_path / "config.json")], "not a trace"),
        ([*build[:4], "--category", str(folder / "engine"), "--out", str(tmp_path / "x")], "has a recommender"),
        (["bundle", "build", "--retriever", "ease", "--out", str(tmp_path / "x")], "NAME=DIR"),
        (
            [*build[:4], "--out", str(tmp_path / "x"), "--config", str(tmp_path / "ease" / "retriever.safetensors")],
            "JSON",
        ),
    ):
        assert main(wrong) == 1
        assert message in capsys.readouterr().err
