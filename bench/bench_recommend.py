"""A request through the whole recommender.

A million generated items, a history of 50, three retrievers, 1,000 candidates ranked by a network, a chain of rules.
One thread, one process; the network has random weights, which cost the same as others. "Overhead" is everything that is
neither a retriever nor the ranker's network: history, merge, feature gathering, objective, rules and the response.
AITEMS_BENCH_ITEMS sets another size.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aitems_engine import Engine, Request
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureConfig, FeatureQuery, FeatureSet, ranker_parts
from aitems_engine.recommendation import recommender_parts
from aitems_engine.retrieval import Ials, ItemKnn, Popularity
from aitems_engine.retrieval.sparse import Csr
from aitems_engine.training.ranker_onnx import build_ranker_onnx
from aitems_engine.training.rankers import RankerShape, make_ranker

ITEMS = int(os.environ.get("AITEMS_BENCH_ITEMS", 1_000_000))
USERS, HISTORY, CLUSTERS, NEIGHBOURS, DIM = 20_000, 50, 2_000, 20, 64
SINGLE, BATCHES, BATCH = 400, 4, 256
NOW = 1_700_000_000_000
RULES = {
    "rules": [
        {"rule": "seen"},
        {"rule": "mmr", "strength": 0.3},
        {"rule": "cap", "attribute": "mall", "most": 4},
        {"rule": "spacing", "attribute": "category", "window": 4},
        {"rule": "freshness", "share": 0.1, "max_age_days": 7},
    ],
    "relax": ["spacing:category", "cap:mall"],
}
CONFIG = {
    "placements": {
        "home": {
            "retrievers": {"ials": 600, "knn": 500, "popularity": 300},
            "budget": 1000,
            "objective": "pctr * (0.1 + pcvr * price)",
            "rules": RULES,
        }
    },
    "vectors": "ials",
}


def shop(rng: np.random.Generator) -> tuple[ItemTable, Interactions, np.ndarray, np.ndarray]:
    """Return items, what users did, the cluster of each item, and item vectors."""
    cluster = np.sort(rng.integers(0, CLUSTERS, ITEMS)).astype(np.int32)
    items = ItemTable.from_columns(
        [f"i{i:07d}" for i in range(ITEMS)],
        {
            "mall": [f"m{x}" for x in rng.integers(0, 500, ITEMS).tolist()],
            "category": [f"c{x}" for x in cluster.tolist()],
        },
        {"price": rng.lognormal(10, 1, ITEMS)},
        NOW - (rng.exponential(100, ITEMS) * 86_400_000).astype(np.int64),
    )
    begin = np.searchsorted(cluster, np.arange(CLUSTERS + 1))
    liked = rng.integers(0, CLUSTERS, (USERS, 5))
    of = liked[np.arange(USERS)[:, None], rng.integers(0, 5, (USERS, HISTORY))]
    size = begin[of + 1] - begin[of]
    events = (begin[of] + (size * rng.random(of.shape) ** 2).astype(np.int64)).astype(np.int32)
    times = np.sort(NOW - rng.integers(10**6, 10**10, events.shape), axis=1)
    users = [f"u{u}" for u in range(USERS)]
    splits = np.arange(USERS + 1, dtype=np.int64) * HISTORY
    known = Interactions(users, items.item_ids, splits, events.ravel(), times.ravel())
    centres = rng.standard_normal((CLUSTERS, DIM)).astype(np.float32)
    vectors = centres[cluster] + 0.7 * rng.standard_normal((ITEMS, DIM), np.float32)
    vectors *= rng.lognormal(0, 0.3, ITEMS).astype(np.float32)[:, None] / np.sqrt(DIM)
    return items, known, cluster, vectors.astype(np.float32)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    rng = np.random.default_rng(0)
    folder: Path = tmp_path_factory.mktemp("recommend")
    items, known, cluster, vectors = shop(rng)
    begin = np.searchsorted(cluster, np.arange(CLUSTERS + 1))
    size = np.maximum(begin[cluster + 1] - begin[cluster], 1)
    near = np.sort(begin[cluster][:, None] + (size[:, None] * rng.random((ITEMS, NEIGHBOURS))).astype(np.int64), axis=1)
    weights = rng.random(near.size).astype(np.float32)
    similar = Csr(np.arange(ITEMS + 1, dtype=np.int64) * NEIGHBOURS, near.ravel().astype(np.int32), weights, ITEMS)
    retrievers = {
        "ials": Ials(items.item_ids, vectors, 0.1, 0.002, 1.0),
        "knn": ItemKnn(items.item_ids, similar, 0.9),
        "popularity": Popularity(items.item_ids, np.bincount(known.items, minlength=ITEMS).astype(np.float32)),
    }
    shown = known.take(slice(0, 500))
    counts = rng.integers(0, 300, (ITEMS, 3)).astype(np.int64)
    candidates = rng.integers(0, ITEMS, 500 * 40).astype(np.int32)
    query = FeatureQuery(
        shown.items,
        shown.times,
        shown.splits[:-1],
        shown.splits[1:],
        np.full(500, NOW),
        candidates,
        np.arange(501, dtype=np.int64) * 40,
        {"placement": ["home"] * 500},
        counts=counts[candidates],
    )
    features = FeatureSet.fit(FeatureConfig.default(items), items, query, counts)
    network = make_ranker(features.spec, RankerShape("esmm"))
    write_bundle(folder / "ranker", ranker_parts(features, build_ranker_onnx(network.eval())))
    parts = recommender_parts(items, retrievers, known, ranker=Bundle.open(folder / "ranker"), config=CONFIG)
    write_bundle(folder / "engine", parts)
    del parts, retrievers, features
    return Engine.open(folder / "engine", verify=False)


def test_latency(engine: Engine, publish: Callable[[str, str], None]) -> None:
    requests = [
        Request(user_id=f"u{u}", k=20, timestamp=NOW, request_id=f"r{u}") for u in range(SINGLE + BATCHES * BATCH)
    ]
    for request in requests[:20]:
        engine.recommend(request)
    total, stages = [], {}
    single_cpu = time.process_time()
    for request in requests[:SINGLE]:
        begin = time.perf_counter_ns()
        page = engine.recommend(request)
        total.append((time.perf_counter_ns() - begin) / 1e3)
        assert len(page) == 20
        assert set(page.flags) <= {"freshness_infeasible"}
        for stage in page.trace.stages:
            stages.setdefault(stage.name, []).append(stage.microseconds)
    single_cpu = time.process_time() - single_cpu
    batch_cpu = time.process_time()
    for start in range(SINGLE, SINGLE + BATCHES * BATCH, BATCH):
        pages = engine.recommend_many(requests[start : start + BATCH])
        assert all(len(page) == 20 for page in pages)
    batch_cpu = time.process_time() - batch_cpu
    some = requests[SINGLE : SINGLE + 64]
    alone = [engine.recommend(request).item_ids for request in some]
    together = [page.item_ids for page in engine.recommend_many(some)]
    equal = np.mean([a == b for a, b in zip(alone, together, strict=True)])

    whole = np.array(total)
    models = sum(
        np.array(values) for name, values in stages.items() if name == "ranker" or name.startswith("retriever")
    )
    rest = whole - models
    stages["objective, slate and response"] = list(whole - sum(np.array(v) for v in stages.values()))

    def row(name: str, values: np.ndarray) -> str:
        return f"| {name} | {np.median(values):,.0f} | {np.quantile(values, 0.99):,.0f} |"

    lines = ["| stage | p50, microseconds | p99 |", "|---|---|---|"]
    lines += [row(name, np.array(values)) for name, values in stages.items()]
    lines += [row("**overhead** (all but retrievers and ranker)", rest), row("**whole**", whole)]
    each = batch_cpu / (BATCHES * BATCH)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    publish(
        "recommend_latency",
        f"{ITEMS:,} items, {SINGLE} requests, one thread.\n\n"
        + "\n".join(lines)
        + f"\n\n`recommend_many` in batches of {BATCH}: {each * 1e6:,.0f} microseconds of processor time a request, "
        f"{single_cpu / SINGLE / each:.2f}x the throughput of single calls; {equal:.0%} of 64 pages are the same as "
        f"alone. Peak memory with the generator: {memory:,.0f} MiB.",
    )
