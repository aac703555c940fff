"""Features of a request's candidates: the native gather beside the same in NumPy.

A million generated items, the default features of a catalogue with three attributes and a price, random candidates and
a history of 50. The NumPy contender is what one would write without native code: whole columns, the user side once, the
history matched by a small table of its codes. Both write the same batch (checked); new candidates and another history
each time, so caches are as cold as in serving; one thread, in turns, the median of what each took.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from aitems_engine.catalog import ItemTable
from aitems_engine.ranking import FeatureBatch, FeatureConfig, FeatureQuery, FeatureSet
from aitems_engine.ranking import declaration as d

ITEMS, USERS, HISTORY, ROUNDS = 1_000_000, 2_000, 50, 300
NOW, DAY = 1_700_000_000_000, 86_400_000
SIZES = {"category": 4_000, "brand": 20_000, "mall": 50}


def make_features(rng: np.random.Generator) -> tuple[FeatureSet, FeatureQuery]:
    """Return features over a generated shop, and requests of 20 candidates that they were fitted on."""
    items = ItemTable(
        [f"i{i}" for i in range(ITEMS)],
        {name: rng.integers(-1, size, ITEMS).astype(np.int32) for name, size in SIZES.items()},
        {name: [f"{name}{i}" for i in range(size)] for name, size in SIZES.items()},
        {"price": rng.lognormal(9, 1, ITEMS).astype(np.float32)},
        NOW - rng.integers(0, 10**10, ITEMS),
    )
    begins = np.arange(USERS) * HISTORY
    shown = FeatureQuery(
        rng.integers(0, ITEMS, USERS * HISTORY).astype(np.int32),
        np.sort(NOW - rng.integers(0, 10**10, (USERS, HISTORY)), axis=1).ravel(),
        begins,
        begins + HISTORY,
        np.full(USERS, NOW),
        rng.integers(0, ITEMS, USERS * 20).astype(np.int32),
        np.arange(USERS + 1) * 20,
        {"placement": ["home"] * USERS},
        counts=np.sort(rng.integers(0, 1000, (USERS * 20, 3)))[:, ::-1].copy(),
    )
    counts = np.sort(rng.integers(0, 1000, (ITEMS, 3)))[:, ::-1].copy()
    return FeatureSet.fit(FeatureConfig.default(items), items, shown, counts), shown


class NumpyGather:
    """The default features of one request by whole columns; static columns and codes are computed beforehand."""

    def __init__(self, features: FeatureSet) -> None:
        self.features, self.items = features, features.items
        attributes = [f.attribute for f in features.config.of(d.HistoryMatch)]
        self.matches = [np.arange(ITEMS, dtype=np.int32) if a == d.ITEM_ID else self.items.codes[a] for a in attributes]
        every = np.arange(ITEMS, dtype=np.int32)
        none = np.zeros(0, np.int32)
        request = FeatureQuery(
            none, none.astype(np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([NOW]), every,
            np.array([0, ITEMS]),
        )  # fmt: skip
        spec = features.spec
        self.static_codes = [i for i, n in enumerate(spec.code_names) if n.startswith("item_code")]
        self.static = [i for i, n in enumerate(spec.dense_names) if n.split(".")[0] in _STATIC]
        whole = features.gather(request)
        self.codes = whole.codes[:, self.static_codes].copy()
        self.dense = whole.dense[:, self.static].copy()
        self.log_price = np.log1p(self.items.numbers["price"].astype(np.float64)).astype(np.float32)

    def __call__(self, query: FeatureQuery) -> FeatureBatch:
        features, chosen, now = self.features, query.candidates, int(query.now[0])
        spec, n = features.spec, len(chosen)
        events = query.events[query.begins[0] : query.ends[0]]
        times = query.event_times[query.begins[0] : query.ends[0]]
        last = self.codes[events[-1], 1:4]
        hour = (now // 3_600_000 + 9) % 24 + 1
        weekday = ((now // 3_600_000 + 9) // 24 + 3) % 7 + 1
        codes = np.empty((n, len(spec.cardinalities)), np.int32)
        codes[:, : len(self.static_codes)] = self.codes[chosen]
        placement = features.vocabularies["context.placement"].index(query.context["placement"][0]) + 1
        codes[:, len(self.static_codes) :] = [*last, placement, hour, weekday, 1]
        first, at = len(self.static), 2
        raw = np.empty((n, spec.dense - first), np.float32)
        age = np.maximum(now - self.items.registered_at[chosen], 0) / DAY
        raw[:, 0], raw[:, 1] = np.log1p(age), 0
        weights = np.exp2((times - now) / (30 * DAY))
        for codes_of in self.matches:
            own = codes_of[events]
            known, place = np.unique(own, return_inverse=True)
            sums = np.bincount(place, weights)
            sums[known < 0] = 0
            wanted = codes_of[chosen]
            row = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            shared = np.where(known[row] == wanted, sums[row], 0)
            raw[:, at], raw[:, at + 1] = np.log1p(shared), shared / max(sums.sum(), 1e-300)
            at += 2
        raw[:, at] = self.log_price[chosen] - self.log_price[events].astype(np.float64).mean()
        raw[:, at + 1], raw[:, at + 2] = np.log1p((now - times[-1]) / 1000), np.log1p(len(events))
        dense = np.empty((n, spec.dense), np.float32)
        dense[:, :first] = self.dense[chosen]
        dense[:, first:] = np.clip((raw - features.center[first:]) * features.scale[first:], -10, 10)
        return FeatureBatch(codes, dense)


_STATIC = {"item_number", "item_rate", "item_count"}


def test_gather(publish: Callable[[str, str], None]) -> None:
    rng = np.random.default_rng(0)
    features, shown = make_features(rng)
    spec = features.spec
    peer = NumpyGather(features)
    lines = ["| candidates | native, microseconds | p99 | NumPy | ratio |", "|---|---|---|---|---|"]
    for n in (100, 1_000, 5_000):
        queries = [
            FeatureQuery(
                shown.events, shown.event_times, shown.begins[u : u + 1], shown.ends[u : u + 1], shown.now[u : u + 1],
                rng.integers(0, ITEMS, n).astype(np.int32), np.array([0, n]), {"placement": ["home"]},
            )
            for u in range(ROUNDS)
        ]  # fmt: skip
        out = features.gather(queries[0])
        took: dict[str, list[float]] = {"native": [], "numpy": []}
        for query in queries:
            start = time.process_time()
            features.gather(query, out=out)
            took["native"].append(time.process_time() - start)
            start = time.process_time()
            want = peer(query)
            took["numpy"].append(time.process_time() - start)
            np.testing.assert_array_equal(out.codes, want.codes)
            np.testing.assert_allclose(out.dense, want.dense, rtol=1e-4, atol=1e-5)
        ours, theirs = (np.median(took[name]) * 1e6 for name in took)
        p99 = np.percentile(took["native"], 99) * 1e6
        lines.append(f"| {n:,} | {ours:.0f} | {p99:.0f} | {theirs:.0f} | {theirs / ours:.1f}x |")
    batch = shown.requests(0, 1_000)
    start = time.process_time()
    features.gather(batch)
    each = (time.process_time() - start) / len(batch.candidates) * 1e9
    publish(
        "feature_gather",
        f"{ITEMS:,} items, {len(spec.cardinalities)} codes and {spec.dense} dense columns, a history of {HISTORY}, "
        f"one thread, processor time, median of {ROUNDS} requests; the same batch from both.\n\n"
        + "\n".join(lines)
        + f"\n\nTraining rows, 1,000 requests of 20 candidates with counts as of then: {each:.0f} nanoseconds a row. "
        f"The rows of the items take {features.bytes / ITEMS:.0f} bytes an item.",
    )
