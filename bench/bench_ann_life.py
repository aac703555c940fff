"""Life of a nearest-neighbour index: half the catalogue rolled beside searches, and growth.

Items are generated (two_tower_vectors.py), with skewed norms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench.bench_ann import BATCH, IMAGES
from bench.two_tower_vectors import two_tower

from aitems_engine.ann import AnnIndex
from aitems_engine.ann.tuning import recall

pytestmark = pytest.mark.timeout(3600)
DIM, K, TUNED = 64, 10, 400
CHURNED, STEP = 100_000, 2_000  # items; of them deleted, and as many added, at a time
READS = 20  # calls between two steps, of 16 queries each
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


@pytest.mark.parametrize("kind", ["ivf", "graph"])
def test_churn(kind: str, publish: Callable[[str, str], None]) -> None:
    """Half of the items are replaced step by step while another thread searches; then recall beside a fresh build."""
    items, queries = two_tower(CHURNED * 3 // 2, DIM, TUNED + 600, unit=False)
    asked, queries = queries[:TUNED], queries[TUNED:]
    index = AnnIndex.build(items[:CHURNED], kind=kind, queries=asked)
    rolled = CHURNED // 2
    gone_before = 0  # ids below it were deleted before a search that reads it begins
    searches = stale = 0
    done = threading.Event()

    def search() -> None:
        nonlocal searches, stale
        while not done.is_set():
            gone = gone_before
            ids = index.search(queries[searches % 500 :][:16], K).ids
            stale += int((ids < gone).sum())
            searches += 1

    reader = threading.Thread(target=search)
    reader.start()
    for first in range(0, rolled, STEP):
        index.upsert(np.arange(CHURNED + first, CHURNED + first + STEP), items[CHURNED + first :][:STEP])
        index.delete(np.arange(first, first + STEP))
        gone_before = first + STEP
        while searches < (first // STEP + 1) * READS:
            time.sleep(0.01)
    done.set()
    reader.join()
    live = np.arange(rolled, len(items))
    truth = AnnIndex.build(items[live], live, kind="exact").search(queries, K).ids
    fresh = AnnIndex.build(items[live], live, kind=kind, queries=asked)

    def reached(searched: AnnIndex) -> float:
        calls = [searched.search(queries[i : i + 16], K).ids for i in range(0, len(queries), 16)]
        return recall(np.concatenate(calls), truth)

    before = reached(index)
    index.compact()
    after, anew = reached(index), reached(fresh)
    assert stale == 0
    assert min(before, after) >= anew - 0.01
    publish(
        f"ann_churn_{kind}",
        f"kind='{kind}': {CHURNED} x {DIM}, skewed norms; {rolled} items deleted and as many added in steps of {STEP} "
        f"beside {searches} calls of 16 queries, merges in the background: {stale} deleted ids returned. Recall@{K} "
        f"right after {before:.4f}, after compact() {after:.4f}, of a fresh build {anew:.4f}.",
    )


def test_growth(publish: Callable[[str, str], None], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Default settings: cost of a query, build, memory and loading as the catalogue grows tenfold and tenfold again."""
    lines, singles, batches = [], [], []
    for size in SIZES:
        items, queries = two_tower(size, DIM, TUNED + 1000, unit=False)
        asked, queries = queries[:TUNED], queries[TUNED:]
        began = time.process_time()
        index = AnnIndex.build(items, queries=asked)
        build_s = time.process_time() - began
        found, seconds = {}, {}
        for batch in (1, BATCH):
            times = []
            for _ in range(3):
                began = time.process_time()
                hits = [index.search(queries[i : i + batch], K).ids for i in range(0, len(queries), batch)]
                times.append(time.process_time() - began)
            found[batch], seconds[batch] = np.concatenate(hits), float(np.median(times)) / len(queries)
        truth = index.search(queries, K, form="exact").ids
        reached = {batch: recall(ids, truth) for batch, ids in found.items()}
        index.save(tmp_path / "items.index")
        described = index.describe()
        loads = []
        for verify in (True, False):
            began = time.process_time()
            AnnIndex.open(tmp_path / "items.index", verify=verify)
            loads.append((time.process_time() - began) * 1e3)
        share = described["memory_bytes"] / (size * DIM * 5)
        singles.append(seconds[1] * 1e6)
        batches.append(seconds[BATCH] * 1e6)
        lines.append(
            f"| {size:,} | {described['kind']} | {singles[-1]:.1f} us ({reached[1]:.3f}) | {batches[-1]:.1f} us "
            f"({reached[BATCH]:.3f}) | {build_s:.1f} s | {share:.2f}x | {loads[0]:.0f} ms / {loads[1]:.1f} ms |"
        )
        assert min(reached.values()) >= 0.93
        print(lines[-1], flush=True)
    publish(
        "ann_growth",
        "\n".join(
            [
                f"Default settings (recall_target .95), {DIM} dimensions, skewed norms, one thread. CPU time a query "
                "with recall in brackets; of the build with tuning; memory over that of codes and vectors; CPU "
                "time to open the file with and without checksums.",
                "",
                f"| items | kind | one query a call | {BATCH} a call | build | memory | open |",
                "|---|---|---|---|---|---|---|",
                *lines,
                "",
                "![cost of a query against the number of items](images/ann_growth.svg)",
            ]
        ),
    )
    if request.config.getoption("--update-docs"):
        plot(singles, batches)


def plot(singles: list[float], batches: list[float]) -> None:
    """Write the cost of a query against the number of items."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(SIZES, singles, marker="o", label="one query a call")
    axes.plot(SIZES, batches, marker="o", label=f"batches of {BATCH}")
    axes.set(xscale="log", yscale="log", xlabel="items", ylabel="CPU microseconds a query", title="recall target .95")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(IMAGES / "ann_growth.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
