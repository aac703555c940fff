"""Nearest neighbours beside its peers (ann_peers.py): recall against the exact answer, queries per CPU-second.

Two public sets (AITEMS_DATA/vectors): gowalla64, raw inner product; bestbuy384, unit norm. One thread. Every contender
is swept over its effort with the same number of queries a call; its fastest setting that reaches the recall is timed
again, interleaved with the others', and the median of the rounds is reported.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench.ann_peers import Contender, built, installed

from aitems_engine._native import isa
from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.ann.tuning import GRAPH_FORM, SIGN_FORM, recall

DATA = Path(os.environ.get("AITEMS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "vectors"
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason="needs the vectors under AITEMS_DATA"),
    pytest.mark.timeout(4 * 3600),
]
BATCH = 256
BATCHES = (1, BATCH, 1000)
ROUNDS = 3
TARGETS = (0.95, 0.99)
SETS = ("gowalla64", "bestbuy384")


LEVELS = [level for level in ("amx", "v4", "v3") if level in isa.runnable()][:2]


def ours(items: np.ndarray, queries: np.ndarray) -> list[Contender]:
    """Return one index, searched on the two best ISA levels that run here; half-precision re-ranking."""
    index, seconds = built(lambda: AnnIndex.build(items, queries=queries, rerank="half"))
    described = index.describe()
    plan = described["plan"][0]
    probes = sorted(
        {max(1, round(plan["probes"] * 1.3**i)) for i in range(-2, 11)} & set(range(1, described["lists"] + 1))
    )
    sweep: list[object] = [(p, s) for p in probes for s in (1.0, 1.2, 1.6, 2.4)]
    if "signs" in described:
        sweep += [("signs", p, s) for p in probes for s in (4.0, 6.0, 9.0, 14.0, 20.0)]
    if described["kind"] == "graph":
        sweep += [("graph", round(24 * 1.3**i), s) for i in range(12) for s in (1.2, 1.6)]
    threads = [1]

    def contender(level: str) -> Contender:
        def search(q: np.ndarray, k: int, effort: object) -> np.ndarray:
            shortlist, number = round(k * effort[-1]), threads[0]
            if effort[0] == "graph":
                beam = max(effort[1], shortlist)
                return index._core.search(q, k, None, 0, shortlist, number, GRAPH_FORM, level, beam)[0]
            if effort[0] == "signs":
                return index._core.search(q, k, None, effort[1], shortlist, number, SIGN_FORM, level)[0]
            return index._core.search(q, k, None, effort[0], shortlist, number, 0, level)[0]

        return Contender(f"aitems {level}", seconds, sweep, search, set_threads)

    def set_threads(number: int) -> None:
        threads[0] = number

    return [contender(level) for level in LEVELS]


def run(contender: Contender, queries: np.ndarray, k: int, batch: int, effort: object) -> tuple[np.ndarray, float]:
    began = time.process_time()
    found = [contender.search(queries[i : i + batch], k, effort) for i in range(0, len(queries), batch)]
    return np.concatenate(found), time.process_time() - began


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    items = np.ascontiguousarray(np.load(DATA / f"{name}_items.npy"), np.float32)
    return items, np.ascontiguousarray(np.load(DATA / f"{name}_queries.npy"), np.float32)


def rated(
    contenders: list[Contender], efforts: dict[str, object], queries: np.ndarray, k: int, batch: int
) -> dict[str, float]:
    """Return queries per CPU-second: medians of rounds in turns, each with warm caches."""
    times: dict[str, list[float]] = {name: [] for name in efforts}
    gc.collect()
    for _ in range(ROUNDS):
        for c in contenders:
            if c.name in efforts:  # once before the clock: the one before may have emptied the caches, or filled them
                run(c, queries, k, batch, efforts[c.name])
                times[c.name].append(run(c, queries, k, batch, efforts[c.name])[1])
    return {name: len(queries) / float(np.median(t)) for name, t in times.items()}


def on_two_threads(contenders: list[Contender], efforts: dict[str, object], queries: np.ndarray) -> str:
    """Return thousand queries per second of wall time, by contender."""
    rates = []
    for c in contenders:
        if c.name in efforts:
            c.set_threads(2)
            walls = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                run(c, queries, 10, BATCH, efforts[c.name])
                walls.append(time.perf_counter() - began)
            c.set_threads(1)
            rates.append(f"{c.name} {len(queries) / float(np.median(walls)) / 1e3:.1f}k")
    return ", ".join(rates)


@pytest.mark.parametrize("name", SETS)
def test_against_peers(name: str, publish: Callable[[str, str], None], request: pytest.FixtureRequest) -> None:
    items, queries = load(name)
    exact = AnnIndex.build(items, kind="exact")
    tuning, queries = queries[:400], queries[400:1400]  # no setting of ours is chosen on the queries that are reported
    makers, missing = installed()
    own = ours(items, tuning)
    contenders = [*own, *(make(items, tuning) for make in makers)]
    lines, curves, arrived = [], {}, {}
    for k in (10, 100):
        truth = exact.search(queries, k).ids
        for batch in BATCHES:
            swept = {}  # contender -> [(effort, recall, seconds)]
            for c in contenders:
                swept[c.name] = [
                    (e, recall(found, truth), s) for e in c.sweep for found, s in [run(c, queries, k, batch, e)]
                ]
            if k == 10:
                curves[batch] = {n: [(r, len(queries) / s) for _, r, s in points] for n, points in swept.items()}
            for target in TARGETS:
                chosen = {}
                for c in contenders:
                    enough = [entry for entry in swept[c.name] if entry[1] >= target]
                    if enough:
                        chosen[c.name] = min(enough, key=lambda entry: entry[2])
                efforts = {n: entry[0] for n, entry in chosen.items()}
                if (k, batch, target) == (10, BATCH, TARGETS[0]):
                    arrived = efforts
                rates = rated(contenders, efforts, queries, k, batch)
                peers = sorted(((r, n) for n, r in rates.items() if not n.startswith("aitems")), reverse=True)
                cells = []
                for c in own:
                    assert chosen[c.name][1] >= target
                    ratio = f", **{rates[c.name] / peers[0][0]:.1f}x**" if peers else ""
                    cells.append(f"{rates[c.name] / 1e3:.1f}k ({chosen[c.name][1]:.3f}){ratio}")
                best = (
                    f"{peers[0][1]} {peers[0][0] / 1e3:.1f}k ({chosen[peers[0][1]][1]:.3f})"
                    if peers
                    else "none arrives"
                )
                others = ", ".join(f"{n} {r / 1e3:.1f}k" for r, n in peers[1:]) or "-"
                lines.append(f"| @{k}, {target:.2f} | {batch} | {' | '.join(cells)} | {best} | {others} |")
    builds = ", ".join(f"{c.name} {c.build_s:.1f} s" for c in contenders if c is not own[-1])
    absent = f" Not installed: {', '.join(missing)}." if missing else ""
    table = "\n".join(
        [
            f"**{name}**: {len(items)} x {items.shape[1]}, {'inner product' if name == 'gowalla64' else 'unit norm'}, "
            f"{len(queries)} queries. Thousand queries per CPU-second on one thread, the recall reached in brackets, "
            "and the ratio to the best peer.",
            "",
            f"| recall | queries a call | {' | '.join(c.name for c in own)} | best peer | other peers that arrive |",
            "|---|---|---|---|" + "---|" * len(own),
            *lines,
            "",
            f"Build, CPU time: {builds}.{absent}",
            "",
            f"On two threads, recall@10 .95, batches of {BATCH}, wall time: "
            f"{on_two_threads(contenders, arrived, queries)}.",
            "",
            f"![recall against rate](images/ann_{name}.svg)",
        ]
    )
    publish(f"ann_{name}", table)
    if request.config.getoption("--update-docs"):
        plot(name, curves[BATCH])


def plot(name: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Write recall against rate, the best settings of each contender only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"  # letters as text: a tenth of the size
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for contender, points in curves.items():
        front, most = [], 0.0
        for reached, rate in sorted(points, key=lambda p: -p[1]):
            if reached > most:
                front.append((reached, rate))
                most = reached
        shown = [p for p in front if p[0] >= 0.8]
        if shown:
            axes.plot(
                *zip(*shown, strict=True),
                marker=".",
                linewidth=3 if contender.startswith("aitems") else 1,
                label=contender,
            )
    axes.set(yscale="log", xlabel="recall@10", ylabel="queries per CPU-second", title=f"{name}, batches of {BATCH}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"ann_{name}.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def test_filters(publish: Callable[[str, str], None]) -> None:
    """Filters of 1, 10 and 50 %, random and following the lists, against an exact scan of the items that pass."""
    lines = []
    for name in SETS:
        items, queries = load(name)
        rng = np.random.default_rng(0)
        draw = rng.random(len(items))
        # category-shaped: the items nearest to a random one
        order = np.argsort(-(items @ items[123]))
        shaped = np.empty(len(items), np.int64)
        shaped[order] = np.arange(len(items))
        attributes = {
            "random": [[p for p in (1, 10, 50) if d < p / 100] for d in draw],
            "shaped": [[p for p in (1, 10, 50) if place < p / 100 * len(items)] for place in shaped],
        }
        index = AnnIndex.build(items, attributes=attributes, queries=queries[:400])
        queries = queries[400:]
        for shape in attributes:
            for percent in (1, 10, 50):
                wanted = Filter.eq(shape, percent)

                def timed(form: str, wanted: Filter = wanted, index: AnnIndex = index, queries: np.ndarray = queries):
                    began = time.process_time()
                    hits = [
                        index.search(queries[i : i + BATCH], 10, wanted, form=form)
                        for i in range(0, len(queries), BATCH)
                    ]
                    return np.concatenate([h.ids for h in hits]), hits[0].how, time.process_time() - began

                runs = [(timed("auto"), timed("exact")) for _ in range(3)]
                (found, how, _), (truth, _, _) = runs[0]
                planned = float(np.median([a[2] for a, _ in runs]))
                exact = float(np.median([e[2] for _, e in runs]))
                reached = recall(found, truth)
                lines.append(
                    f"| {name} | {shape} {percent} % | {how} | {reached:.3f} | {len(queries) / planned / 1e3:.1f}k "
                    f"| {exact / planned:.1f}x |"
                )
                assert reached >= 0.99
    publish(
        "ann_filters",
        "\n".join(
            [
                "Recall@10 and thousand queries per CPU-second in batches of 256, one thread. The ratio is to an exact "
                "scan of the items that pass.",
                "",
                "| set | filter | plan | recall@10 | rate | against exact subset |",
                "|---|---|---|---|---|---|",
                *lines,
            ]
        ),
    )
