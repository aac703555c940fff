"""Features against their slow twin, on random and hostile input; and the declaration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import features as slow

from aitems_engine.catalog.items import ItemTable
from aitems_engine.errors import ConfigError, DataError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureBatch, FeatureConfig, FeatureQuery, FeatureSet
from aitems_engine.ranking.declaration import (
    Context,
    HistoryLast,
    HistoryLength,
    HistoryMatch,
    HistoryNumber,
    HistoryRecency,
    Hour,
    ItemAge,
    ItemCode,
    ItemCount,
    ItemNumber,
    ItemRate,
    Position,
    Weekday,
)

pytestmark = pytest.mark.native
DAY = 86_400_000
NOW = 1_700_000_000_000
ALL = FeatureConfig(
    (
        ItemCode("item_id", 3, 7),
        ItemCode("brand", 2, 0),
        ItemCode("category", 1, 2),
        ItemNumber("price"),
        ItemNumber("rating", log=False),
        ItemAge(),
        ItemRate(),
        ItemRate("purchase", "click", 5.0),
        ItemCount("impression"),
        ItemCount("purchase"),
        HistoryLast("brand"),
        HistoryLast("item_id"),
        HistoryMatch("item_id", 1.0),
        HistoryMatch("brand", 30.0),
        HistoryMatch("category", 30.0),
        HistoryNumber("price"),
        HistoryRecency(),
        HistoryLength(),
        Context("placement", 1),
        Context("user_id", 3, 5),
        Hour(),
        Weekday(),
        Position(5, 2),
    ),
    history_max=20,
    utc_offset_hours=-3.5,
)


def make_items(rng: np.random.Generator, n: int) -> ItemTable:
    brands = [None if rng.random() < 0.2 else f"b{rng.integers(6)}" for _ in range(n)]
    price = rng.lognormal(8, 2, n).astype(np.float32)
    price[rng.random(n) < 0.2] = np.nan
    price[rng.random(n) < 0.05] = np.inf
    price[rng.random(n) < 0.05] = -3
    registered = np.where(rng.random(n) < 0.2, -1, NOW - rng.integers(-5 * DAY, 500 * DAY, n))
    return ItemTable.from_columns(
        [f"i{i}" for i in range(n)],
        {"brand": brands, "category": [f"c{i % 4}" for i in range(n)]},
        {"price": price, "rating": rng.normal(size=n)},
        registered,
    )


def make_query(
    rng: np.random.Generator, items: int, requests: int, *, training: bool, longest: int = 40
) -> FeatureQuery:
    lengths = rng.integers(0, longest, requests) * (rng.random(requests) < 0.8)
    ends = np.cumsum(lengths).astype(np.int64)
    events = int(ends[-1]) if requests else 0
    begins = ends - lengths
    now = np.where(rng.random(requests) < 0.1, -1, NOW + rng.integers(0, 9 * DAY, requests))
    times = np.full(events, -1, np.int64)
    for b, e in zip(begins, ends, strict=True):
        if rng.random() < 0.9:
            times[b:e] = np.sort(NOW - rng.integers(-DAY, 200 * DAY, e - b))
    sizes = rng.integers(0, 9, requests)
    splits = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(splits[-1])
    texts = [None, "home", "search", "한글", ""]
    return FeatureQuery(
        rng.integers(-1, items, events).astype(np.int32),
        times,
        begins,
        ends,
        now.astype(np.int64),
        rng.integers(-1, items, n).astype(np.int32),
        splits,
        {
            "placement": [texts[i] for i in rng.integers(0, len(texts), requests)],
            "user_id": [f"u{i}" for i in rng.integers(0, 12, requests)],
            "unused": [None] * requests,
        },
        rng.integers(0, 9, n).astype(np.int32) if training else None,
        np.sort(rng.integers(0, 50, (n, 3)))[:, ::-1].copy() if training else None,
    )


def make_features(rng: np.random.Generator, n: int = 30, config: FeatureConfig = ALL) -> FeatureSet:
    items = make_items(rng, n)
    counts = np.sort(rng.integers(0, 50, (n, 3)))[:, ::-1]
    return FeatureSet.fit(config, items, make_query(rng, n, 60, training=True), counts)


def assert_same(got: FeatureBatch, want: FeatureBatch) -> None:
    np.testing.assert_array_equal(got.codes, want.codes)
    np.testing.assert_allclose(got.dense, want.dense, rtol=2e-6, atol=3e-6)
    assert np.isfinite(got.dense).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("training", [False, True])
def test_equals_slow_twin(seed: int, training: bool) -> None:
    rng = np.random.default_rng(seed)
    features = make_features(rng)
    query = make_query(rng, 30, 50, training=training)
    got = features.gather(query)
    assert_same(got, slow.gather(features, query))
    cardinalities = np.array(features.spec.cardinalities)
    assert got.codes.min() >= 0
    assert (got.codes < cardinalities).all()
    assert (got.splits is None) == training
    if not training:
        first = np.repeat(query.splits[:-1], np.diff(query.splits))
        shared = got.codes[:, -features.spec.request_codes :]
        np.testing.assert_array_equal(shared, shared[first])
    again = features.gather(query, threads=2)
    np.testing.assert_array_equal(got.codes, again.codes)
    np.testing.assert_array_equal(got.dense, again.dense)


@given(st.integers(0, 2**32 - 1), st.data())
def test_any_declaration_equals_slow_twin(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    chosen = data.draw(st.lists(st.sampled_from(ALL.features), min_size=1, unique=True))
    coded = {f.attribute for f in chosen if isinstance(f, ItemCode)}
    chosen = [f for f in chosen if not isinstance(f, HistoryLast) or f.attribute in coded] or [ItemAge()]
    config = FeatureConfig(tuple(chosen), history_max=data.draw(st.integers(1, 50)))
    features = make_features(rng, 12, config)
    query = make_query(rng, 12, 8, training=data.draw(st.booleans()))
    assert_same(features.gather(query), slow.gather(features, query))


def test_raw_values_equal_slow_twin() -> None:
    rng = np.random.default_rng(5)
    fitted = make_features(rng)
    nothing = np.zeros(0, np.float32)
    raw = FeatureSet(ALL, fitted.items, fitted.vocabularies, nothing, nothing, fitted.counts, fitted.totals)
    query = make_query(rng, 30, 50, training=True)
    np.testing.assert_allclose(raw.gather(query).dense, slow.gather(raw, query).dense, rtol=1e-6, atol=1e-6)


def test_standardised_on_training() -> None:
    rng = np.random.default_rng(2)
    items = make_items(rng, 200)
    query = make_query(rng, 200, 3000, training=True)
    features = FeatureSet.fit(ALL, items, query, np.zeros((200, 3), np.int64))
    values = features.gather(query).dense
    numbers = [i for i, name in enumerate(features.spec.dense_names) if not name.endswith("missing")]
    assert np.abs(values[:, numbers].mean(axis=0)).max() < 0.05
    assert values[:, numbers].std(axis=0).max() < 1.05


def test_a_hundred_thousand_events() -> None:
    rng = np.random.default_rng(3)
    features = make_features(rng)
    n = 100_000
    events = rng.integers(-1, 30, n).astype(np.int32)
    times = np.sort(NOW - rng.integers(0, 900 * DAY, n))
    candidates = np.arange(-1, 30, dtype=np.int32)
    splits = np.array([0, len(candidates)])
    query = FeatureQuery(events, times, np.array([0]), np.array([n]), np.array([NOW]), candidates, splits)
    got = features.gather(query)
    assert_same(got, slow.gather(features, query))
    everything = FeatureConfig(ALL.features, history_max=n)
    full = FeatureSet(
        everything, features.items, features.vocabularies, features.center, features.scale, features.counts, (9, 5, 2)
    )
    small = FeatureQuery(events, times, np.array([0]), np.array([n]), np.array([NOW]), candidates[:2], splits * 2 // 31)
    assert_same(full.gather(small), slow.gather(full, small))


def test_a_request_alone_equals_the_batch() -> None:
    rng = np.random.default_rng(6)
    features = make_features(rng)
    query = make_query(rng, 30, 40, training=True)
    whole = features.gather(query)
    for r in range(40):
        part = features.gather(query.requests(r, r + 1))
        rows = slice(query.splits[r], query.splits[r + 1])
        np.testing.assert_array_equal(part.codes, whole.codes[rows])
        np.testing.assert_array_equal(part.dense, whole.dense[rows])


def test_serving_from_interactions_reuses_arrays() -> None:
    rng = np.random.default_rng(7)
    features = make_features(rng)
    histories = Interactions(
        ["u"], features.items.item_ids, np.array([0, 2]), np.array([3, 4], np.int32), np.array([5, 6])
    )
    candidates = np.array([3, -1, 4], np.int32)
    query = FeatureQuery.of(histories, candidates, np.array([0, 3]), np.array([NOW]), {"placement": ["home"]})
    fresh = features.gather(query)
    out = FeatureBatch(np.full_like(fresh.codes, 99), np.full_like(fresh.dense, np.nan))
    assert features.gather(query, out=out).codes is out.codes
    np.testing.assert_array_equal(out.codes, fresh.codes)
    np.testing.assert_array_equal(out.dense, fresh.dense)
    name = features.spec.code_names.index("position")
    assert (out.codes[:, name] == 2).all()
    np.testing.assert_array_equal(fresh.splits, query.splits)


def test_no_candidates_and_no_requests() -> None:
    features = make_features(np.random.default_rng(8))
    nothing, none = np.zeros(0, np.int32), np.zeros(0, np.int64)
    empty = FeatureQuery(nothing, none, none, none, none, nothing, np.zeros(1, np.int64))
    assert features.gather(empty).dense.shape == (0, features.spec.dense)
    one = FeatureQuery(
        nothing, none, np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([NOW]), nothing, np.zeros(2, np.int64)
    )
    assert len(features.gather(one)) == 0


def test_new_items_and_renumbered_names_keep_their_codes() -> None:
    rng = np.random.default_rng(9)
    features = make_features(rng)
    old = features.items
    shuffled = old.over([*reversed(old.item_ids), "new"])
    names = {name: list(reversed(values)) for name, values in old.names.items()}
    codes = {n: np.where(c < 0, -1, len(names[n]) - 1 - c).astype(np.int32) for n, c in shuffled.codes.items()}
    items = ItemTable(shuffled.item_ids, codes, names, shuffled.numbers, shuffled.registered_at)
    counts = np.append(features.counts[::-1], [[0, 0, 0]], axis=0)
    other = FeatureSet.from_json(json.loads(json.dumps(features.to_json())), items, counts)
    assert other.digest == features.digest
    query = make_query(rng, 30, 30, training=False)

    def renumbered(positions: np.ndarray) -> np.ndarray:
        return np.where(positions < 0, -1, 29 - positions).astype(np.int32)

    moved = FeatureQuery(
        renumbered(query.events), query.event_times, query.begins, query.ends, query.now,
        renumbered(query.candidates), query.splits, query.context,
    )  # fmt: skip
    assert_same(other.gather(moved), features.gather(query))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": np.array([30], np.int32)}, "candidates must be positions from 0 to 29"),
        ({"candidates": np.array([-2], np.int32)}, "got -2"),
        ({"candidates": np.array([1], np.int64)}, "candidates int64"),
        ({"events": np.array([30], np.int32)}, "history items"),
        ({"ends": np.array([2])}, "history must lie within 1 events"),
        ({"begins": np.array([-1])}, "history must lie within"),
        ({"splits": np.array([0, 2])}, "candidate_splits must go from 0 to 1"),
        ({"splits": np.array([0, 1, 1])}, "candidate_splits must have shape"),
        ({"positions": np.zeros(2, np.int32)}, "positions must have shape"),
        ({"context": {"placement": ["a", "b"]}}, "context 'placement'"),
        ({"event_times": np.zeros(2, np.int64)}, "history_times must have shape"),
    ],
)
def test_wrong_columns(change: dict, message: str) -> None:
    features = make_features(np.random.default_rng(0))
    good = {
        "events": np.array([1], np.int32),
        "event_times": np.array([1]),
        "begins": np.array([0]),
        "ends": np.array([1]),
        "now": np.array([NOW]),
        "candidates": np.array([1], np.int32),
        "splits": np.array([0, 1]),
    }
    features.gather(FeatureQuery(**good))
    with pytest.raises(InvalidInputError, match=message):
        features.gather(FeatureQuery(**(good | change)))


def test_context_of_another_type_is_unknown() -> None:
    features = make_features(np.random.default_rng(0))
    one = np.array([0, 1])
    empty = np.zeros(0, np.int32)
    base = [empty, np.zeros(0, np.int64), one[:1], one[:1], np.array([NOW]), np.array([1], np.int32), one]
    unknown = features.gather(FeatureQuery(*base, {"placement": [None]}))
    for value in ([], {}, 3, float("nan"), object()):
        got = features.gather(FeatureQuery(*base, {"placement": [value]}))
        np.testing.assert_array_equal(got.codes, unknown.codes)


def test_declaration_round_trip() -> None:
    items = make_items(np.random.default_rng(0), 5)
    for config in (ALL, FeatureConfig.default(items)):
        assert FeatureConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "must be declared as"),
        ({"features": []}, "1 to 200"),
        ({"features": [{"kind": "nope"}]}, "feature 0: kind must be one of item_code"),
        ({"features": [{"kind": []}]}, "feature 0: kind"),
        ({"features": [{"kind": "item_code"}]}, "attribute"),
        ({"features": [{"kind": "item_code", "attribute": 3}]}, "'attribute' must be str"),
        ({"features": [{"kind": "item_code", "attribute": "a", "min_count": True}]}, "'min_count' must be int"),
        ({"features": [{"kind": "item_code", "attribute": "a", "min_count": 0}]}, "min_count must be from 1"),
        ({"features": [{"kind": "item_code", "attribute": "a", "size": 0}]}, "'size' is not one of"),
        ({"features": [{"kind": "item_age"}, {"kind": "item_age"}]}, "'item_age' is declared twice"),
        ({"features": [{"kind": "history_last", "attribute": "a"}]}, "needs an item_code of 'a'"),
        ({"features": [{"kind": "item_rate", "of": "view"}]}, "of must be one of"),
        ({"features": [{"kind": "item_rate", "of": "click", "per": "click"}]}, "per must be another of"),
        ({"features": [{"kind": "item_rate", "strength": float("nan")}]}, "strength must be from"),
        ({"features": [{"kind": "history_match", "attribute": "a", "half_life_days": 0}]}, "half_life_days"),
        ({"features": [{"kind": "position", "max": 3, "serving": 4}]}, "serving must be from 1 to max"),
        ({"features": [{"kind": "hour"}], "history_max": 0}, "history_max must be from 1"),
        ({"features": [{"kind": "hour"}], "clock": 0}, "'clock' is not one of"),
    ],
)
def test_wrong_declarations(value: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureConfig.from_json(value)


def test_features_that_the_catalogue_lacks() -> None:
    items = ItemTable.from_columns(["a"])
    query = make_query(np.random.default_rng(0), 1, 3, training=True)
    for feature, has in ((ItemCode("brand"), "attributes none"), (HistoryNumber("price"), "numbers none")):
        with pytest.raises(ConfigError, match=has):
            FeatureSet.fit(FeatureConfig((feature,)), items, query, np.zeros((1, 3), np.int64))


def test_features_need_counts_as_of_then() -> None:
    items = ItemTable.from_columns(["a"])
    query = make_query(np.random.default_rng(0), 1, 3, training=False)
    with pytest.raises(InvalidInputError, match="know the future"):
        FeatureSet.fit(FeatureConfig((ItemAge(),)), items, query, np.zeros((1, 3), np.int64))


@pytest.mark.parametrize("key", ["declaration", "vocabularies", "center", "totals"])
def test_damaged_tables(key: str) -> None:
    features = make_features(np.random.default_rng(0))
    value = features.to_json()
    for broken in (None, [], {}, "x", [1]):
        with pytest.raises(DataError, match="do not fit"):
            FeatureSet.from_json({**value, key: broken}, features.items, features.counts)
