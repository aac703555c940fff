"""Re-ranking: greedy variety against NumPy that does the same incrementally, and what each rule of a chain costs.

1,000 candidates, one thread, processor time, in turns; the orders of both are checked to be equal. "Clustered": 60
directions with noise and scores of a skewed distribution, as shops have them. "Worst": independent vectors and equal
scores, so that every row stays in play and nothing is spared by bounds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from aitems_engine._native import rerank as native
from aitems_engine.catalog import ItemTable
from aitems_engine.rerank import Chain, RuleContext, Slate

N, DIM, ROUNDS = 1000, 128, 101
STRENGTH, MISSING, FLOOR = 0.5, 0.3, 1e-5


def mmr_numpy(relevance: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    closest = np.full(len(unit), -1.0)
    own = (1 - STRENGTH) * relevance
    chosen = np.empty(k, np.int32)
    for step in range(k):
        worth = own - STRENGTH * closest
        worth[chosen[:step]] = -np.inf
        chosen[step] = best = int(worth.argmax())
        np.maximum(closest, unit @ unit[best], out=closest)
    return chosen


def dpp_numpy(relevance: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Chen, Zhang and Zhou 2018, algorithm 1, the kernel's rows computed when they are needed."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    factor = np.zeros((k, len(unit)))
    d2 = np.ones(len(unit))
    own = (1 - STRENGTH) * relevance
    chosen = np.empty(k, np.int32)
    for step in range(k):
        worth = own + STRENGTH * np.log(np.maximum(d2, 1e-12))
        worth[d2 < FLOOR] = -np.inf
        worth[chosen[:step]] = -np.inf
        chosen[step] = best = int(worth.argmax())
        rest = (unit @ unit[best] - factor[:step, best] @ factor[:step]) / np.sqrt(d2[best])
        factor[step] = rest
        d2 -= rest * rest
    return chosen


def microseconds(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    """Return the times of each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time_ns()
            call()
            times[name].append((time.process_time_ns() - start) / 1e3)
    return {name: np.array(values) for name, values in times.items()}


def test_diversity(publish: Callable[[str, str], None]) -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(N, dtype=np.int32)
    skewed = np.sort(rng.gamma(1, 0.02, N))[::-1]
    centres = rng.standard_normal((60, DIM))
    data = {
        "clustered": (
            (centres[rng.integers(0, 60, N)] + 0.5 * rng.standard_normal((N, DIM))).astype(np.float32),
            (skewed - skewed.min()) / (skewed.max() - skewed.min()),
        ),
        "worst": (rng.standard_normal((N, DIM)).astype(np.float32), np.zeros(N)),
    }
    table = [
        "| method | k | data | microseconds | NumPy | NumPy / ours, median (10 % to 90 %) |",
        "|---|---|---|---|---|---|",
    ]
    for k in (20, 50):
        for name, (vectors, relevance) in data.items():
            relevance = np.ascontiguousarray(relevance)

            def mmr(v=vectors, r=relevance, k=k) -> np.ndarray:
                return native.mmr(r, v, rows, None, k, STRENGTH, MISSING)

            def dpp(v=vectors, r=relevance, k=k, window=10_000) -> np.ndarray:
                return native.dpp(r, v, rows, None, k, STRENGTH, MISSING, window, FLOOR)

            pairs = {
                "MMR": (mmr, lambda v=vectors, r=relevance, k=k: mmr_numpy(r, v, k)),
                "DPP": (dpp, lambda v=vectors, r=relevance, k=k: dpp_numpy(r, v, k)),
            }
            for method, (ours, peer) in pairs.items():
                assert ours().tolist() == peer().tolist()
                times = microseconds({"ours": ours, "numpy": peer})
                ratio = np.quantile(times["numpy"] / times["ours"], (0.5, 0.1, 0.9))
                table.append(
                    f"| {method} | {k} | {name} | {np.median(times['ours']):.0f} | {np.median(times['numpy']):.0f} | "
                    f"{ratio[0]:.1f}x ({ratio[1]:.1f} to {ratio[2]:.1f}) |"
                )
            windowed = microseconds({"ours": lambda dpp=dpp: dpp(window=10)})["ours"]
            table.append(f"| DPP, window 10 | {k} | {name} | {np.median(windowed):.0f} |  |  |")
    publish("rerank_diversity", f"{N} candidates, {DIM} dimensions, strength {STRENGTH}.\n\n" + "\n".join(table))


RULES: list[dict[str, object]] = [
    {"rule": "exclude_items", "item_ids": ["i1", "i7"]},
    {"rule": "exclude_attribute", "attribute": "mall", "values": ["m3"]},
    {"rule": "stock"},
    {"rule": "bought"},
    {"rule": "seen"},
    {"rule": "price", "weight": 0.2},
    {"rule": "dpp", "strength": 0.3},
    {"rule": "cap", "attribute": "mall", "most": 4},
    {"rule": "spacing", "attribute": "category", "window": 4},
    {"rule": "freshness", "share": 0.1, "max_age_days": 7, "min_impressions": 100},
    {"rule": "ads", "max_ads": 4, "gap": 3, "organic_loss_budget": 0.2},
    {"rule": "exploration", "slots": [5, 10]},
]
RELAX = ["spacing:category", "cap:mall", "seen"]


def test_chain(publish: Callable[[str, str], None]) -> None:
    rng = np.random.default_rng(0)
    size = 5000
    items = ItemTable.from_columns(
        [f"i{i}" for i in range(size)],
        {"mall": [f"m{i % 40}" for i in range(size)], "category": [f"c{i % 97}" for i in range(size)]},
    )
    chosen = rng.choice(size, N, replace=False).astype(np.int32)
    scores = np.sort(rng.gamma(1, 0.02, N))[::-1].copy()
    centres = rng.standard_normal((60, DIM))
    slate = Slate(
        chosen,
        scores,
        pctr=scores.clip(0, 0.9).astype(np.float32),
        pcvr=np.full(N, 0.05, np.float32),
        price=rng.lognormal(10, 1, N).astype(np.float32),
        codes={name: codes[chosen] for name, codes in items.codes.items()},
        age_days=rng.exponential(60, N).astype(np.float32),
        impressions=rng.integers(0, 10_000, N),
        is_ad=rng.random(N) < 0.05,
        bid=rng.gamma(1, 3, N).astype(np.float32),
        vectors=(centres[rng.integers(0, 60, N)] + 0.5 * rng.standard_normal((N, DIM))).astype(np.float32),
        seen=rng.random(N) < 0.05,
        bought=rng.random(N) < 0.02,
        in_stock=rng.random(N) < 0.97,
    )
    names = [f"{r['rule']}:{r['attribute']}" if "attribute" in r else str(r["rule"]) for r in RULES]
    columns: list[list[str]] = []
    for k in (20, 50):
        context = RuleContext(k, seed=5)
        chains = [
            Chain.from_config({"rules": RULES[:i], "relax": [n for n in RELAX if n in names[:i]]}, items)
            for i in range(len(RULES) + 1)
        ]
        page = chains[-1].run(slate, context)
        assert len(page.order) == k
        cost = page.steps[-1].clicks - page.steps[0].clicks
        assert np.isclose(sum(e.delta_clicks for e in page.ledger), cost)
        times = microseconds({str(i): lambda c=c, x=context: c.run(slate, x) for i, c in enumerate(chains)})
        medians = [float(np.median(times[str(i)])) for i in range(len(chains))]
        p99 = float(np.quantile(times[str(len(RULES))], 0.99))
        added = [f"{after - before:+.0f}" for before, after in itertools.pairwise(medians)]
        columns.append([f"{medians[0]:.0f}", *added, f"{medians[-1]:.0f} (p99 {p99:.0f})"])
    lines = ["| rule | k = 20, microseconds | k = 50 |", "|---|---|---|"]
    lines += [f"| {n} | {a} | {b} |" for n, a, b in zip(["no rule", *names, "whole chain"], *columns, strict=True)]
    publish(
        "rerank_chain",
        f"{N} candidates, {DIM} dimensions (clustered), every rule filling the page again for its ledger; what each "
        "rule adds to the chain of those before it, medians, ledger not read.\n\n" + "\n".join(lines),
    )
