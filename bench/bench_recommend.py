"""A request through the whole recommender.

A million generated items, a history of 50, three retrievers, 1,000 candidates ranked by a network, a chain of rules.
One thread, one process; the network has random weights, which cost the same as others. "Overhead" is everything that is
neither a retriever nor the ranker's network: history, merge, feature gathering, objective, rules and the response.
Stages are told in processor time, which other jobs on the machine lengthen less than time on the wall; single calls and
batches take turns, so that both have the same neighbours.
AITEMS_BENCH_ITEMS sets another size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aitems_engine import Engine, Request
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureConfig, FeatureQuery, FeatureSet, ranker_parts
from aitems_engine.recommendation import recommender_parts, stages
from aitems_engine.retrieval import Ials, ItemKnn, Popularity
from aitems_engine.retrieval.sparse import Csr
from aitems_engine.training.ranker_onnx import build_ranker_onnx
from aitems_engine.training.rankers import RankerShape, make_ranker

ITEMS = int(os.environ.get("AITEMS_BENCH_ITEMS", 1_000_000))
USERS, HISTORY, CLUSTERS, NEIGHBOURS, DIM = 20_000, 50, 2_000, 20, 64
ROUNDS_OF_BOTH, SINGLE, BATCH = 8, 50, 256
SERVED, ROUNDS = 200, 3
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the bundle."""
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
    return folder / "engine"


def requests(start: int, count: int) -> list[Request]:
    return [
        Request(user_id=f"u{u % USERS}", k=20, timestamp=NOW, request_id=f"r{u}") for u in range(start, start + count)
    ]


def test_latency(folder: Path, monkeypatch: pytest.MonkeyPatch, publish: Callable[[str, str], None]) -> None:
    engine = Engine.open(folder)
    for request in requests(0, 20):
        engine.recommend(request)
    engine.recommend_many(requests(20, BATCH))
    wall, whole, each, of_stage, of_batch = [], [], [], {}, {}
    for number in range(ROUNDS_OF_BOTH):
        start = 1000 * (number + 1)
        monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=time.thread_time))
        for request in requests(start, SINGLE):
            begin, begin_cpu = time.perf_counter_ns(), time.thread_time_ns()
            page = engine.recommend(request)
            whole.append((time.thread_time_ns() - begin_cpu) / 1e3)
            wall.append((time.perf_counter_ns() - begin) / 1e3)
            assert len(page) == 20
            assert set(page.flags) <= {"freshness_infeasible"}
            for stage in page.trace.stages:
                of_stage.setdefault(stage.name, []).append(stage.microseconds)
        begin_cpu = time.thread_time()
        pages = engine.recommend_many(requests(start + SINGLE, BATCH))
        each.append((time.thread_time() - begin_cpu) * 1e6 / BATCH)
        monkeypatch.undo()
        assert all(len(page) == 20 for page in pages)
        for stage in pages[0].trace.stages[:-1]:
            of_batch.setdefault(stage.name, []).append(stage.microseconds / BATCH)
        rules = [page.trace.stages[-1].microseconds for page in pages]
        of_batch.setdefault("rules", []).append(np.mean(rules))
    some = requests(0, 64)
    alone = [engine.recommend(request).item_ids for request in some]
    together = [page.item_ids for page in engine.recommend_many(some)]
    equal = np.mean([a == b for a, b in zip(alone, together, strict=True)])

    for stage_times, times in ((of_stage, whole), (of_batch, each)):
        rest = np.array(times) - sum(np.array(values) for values in stage_times.values())
        stage_times["objective, slate and response"] = rest
        models = [values for name, values in stage_times.items() if name == "ranker" or name.startswith("retriever")]
        overhead = np.array(times) - sum(np.array(values) for values in models)
        stage_times["**overhead** (all but retrievers and ranker)"] = overhead
        stage_times["**whole**"] = times

    def row(name: str, values: np.ndarray | list[float], batched: np.ndarray | list[float] | None) -> str:
        in_batch = "" if batched is None else f"{np.median(batched):,.0f}"
        return f"| {name} | {np.median(values):,.0f} | {np.quantile(values, 0.99):,.0f} | {in_batch} |"

    lines = ["| stage | p50, microseconds | p99 | in a batch |", "|---|---|---|---|"]
    lines += [row(name, values, of_batch[name]) for name, values in of_stage.items()]
    lines += [row("whole, on the wall", wall, None)]
    ratios = np.reshape(whole, (ROUNDS_OF_BOTH, SINGLE)).mean(axis=1) / each
    publish(
        "recommend_latency",
        f"{ITEMS:,} items, {len(whole)} requests, one thread, processor time; load average {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores meanwhile.\n\n"
        + "\n".join(lines)
        + f"\n\n`recommend_many` in batches of {BATCH}: {np.median(ratios):.2f}x the throughput of single calls "
        f"({ratios.min():.2f} to {ratios.max():.2f} in {ROUNDS_OF_BOTH} rounds of {SINGLE} calls and a batch); "
        f"{equal:.0%} of 64 pages are the same as alone.",
    )


def serve(engine: Engine, start: int, batch: int) -> int:
    """Answer SERVED requests, alone or in batches; return how many."""
    if batch == 1:
        return sum(len(engine.recommend(request)) == 20 for request in requests(start, SERVED))
    parts = range(start, start + SERVED, batch)
    return sum(len(page) == 20 for part in parts for page in engine.recommend_many(requests(part, batch)))


def serve_in_process(folder: Path, start: int, batch: int) -> tuple[int, float, float]:
    """Do the same in a process of its own: how many, from when, until when."""
    engine = Engine.open(folder)
    engine.recommend_many(requests(0, 20))
    begin = time.time()
    return serve(engine, start, batch), begin, time.time()


def test_two_cores(folder: Path, publish: Callable[[str, str], None]) -> None:
    engine = Engine.open(folder)
    engine.recommend_many(requests(0, 20))
    lines = ["| | one at a time | batches of 50 |", "|---|---|---|"]
    rates: dict[str, list[str]] = {"one thread": [], "two threads": [], "two processes": []}
    for batch in (1, 50):
        found: dict[str, list[float]] = {name: [] for name in rates}
        for number in range(ROUNDS):
            for name, count in (("one thread", 1), ("two threads", 2)):
                with ThreadPoolExecutor(count) as pool:
                    begin = time.perf_counter()
                    starts = [SERVED * (2 * number + i) for i in range(count)]
                    served = sum(pool.map(lambda start: serve(engine, start, batch), starts))  # noqa: B023
                    found[name].append(served / (time.perf_counter() - begin))
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            told = list(pool.map(serve_in_process, [folder] * 2, [0, SERVED], [batch] * 2))
            found["two processes"].append(sum(count / (end - begin) for count, begin, end in told))
        for name, values in found.items():
            rates[name].append(f"{max(values):,.0f}")
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rates.items()]
    status = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], check=True, capture_output=True, text=True
    ).stdout
    memory = json.loads(status)
    publish(
        "recommend_throughput",
        f"Requests a second, best of {ROUNDS} rounds of {SERVED} (processes: one); load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores meanwhile.\n\n"
        + "\n".join(lines)
        + f"\n\nMemory of an opened bundle after {memory['requests']} requests: {memory['own'] / ITEMS:,.0f} bytes an "
        f"item of the process's own and {memory['mapped'] / ITEMS:,.0f} of mapped files, which processes share; files: "
        f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / ITEMS:,.0f} bytes an item.",
    )


MEMORY = """
import json, sys
from aitems_engine import Engine, Request
def held():
    lines = dict(line.split(":") for line in open("/proc/self/status").read().splitlines() if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in lines.items()}
before = held()
engine = Engine.open(sys.argv[1], verify=False)
for user in range(500):
    engine.recommend(Request(user_id=f"u{user}"))
after = held()
own, mapped = (after[name] - before[name] for name in ("RssAnon", "RssFile"))
print(json.dumps({"requests": 500, "own": own, "mapped": mapped}))
"""
