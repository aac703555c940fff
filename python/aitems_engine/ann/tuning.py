"""Chooses how an index searches by measuring recall on a sample against the exact answer.

Cost is counted, not timed (rows of codes read, candidates scored exactly), so that the same vectors give the same index
on every machine. What was measured is returned in words and numbers for `AnnIndex.describe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine._native import ann as native

# Bytes that single queries choose from (items x dimensions, an eighth of it with signs) from which on they are worth a
# graph: 100,000 items of 64 dimensions, 133,000 of 384. Lists read a part of all, which no longer lies in the nearest
# caches; a walk reads some hundred rows.
GRAPH_FROM_BYTES = 6_400_000
DEGREE = 32  # of the graph
SIGN_DIMS = (128, 2048)  # dimensions for which single queries look at one bit of each first
EXACT_BELOW = 4096  # items; below, an exact scan costs no more than the overheads of lists
SAMPLE_QUERIES = 400
SAMPLE_RESULTS = 40_000  # results compared for each k: fewer queries where more is asked of each
RESULTS = (
    10,
    30,
    100,
    300,
    1000,
)  # numbers of results for which the effort is measured; between them it is interpolated
SHORTLISTS = ((1, 2), (1.2, 4), (1.6, 8), (2.4, 16), (4, 32))  # candidates scored exactly: factor of k, and more
SIGN_SHORTLISTS = (4, 7, 12, 20, 32, 60)  # the same factors of k for estimates from signs
SIGN_COST = 0.4  # rows of codes that can be read while the signs of one row are (csrc/ann/plan.cpp, kSignRow)
WALK_COST = 100  # rows of codes that can be read while a walk follows the edges of one row
RERANK_COST = 8  # rows of codes that can be read while one candidate is scored exactly
FILTERED_RECALL = 0.9925  # .99 with room for the noise of a sample
ITEM_QUERY_MARGIN = 0.4  # without real queries the goal moves this share of the way from the target to 1

EXACT_FORM, GRAPH_FORM, SIGN_FORM = 3, 4, 5  # csrc/ann/plan.hpp
BEAM_TRIED = 400  # whatever lists cost: form="graph" may be asked for
BEAM_ROWS = 5.5  # rows of lists that can be read for each edge of a row in the beam (csrc/ann/plan.cpp, cost_of_walk)
_Floats = NDArray[np.float32]
_Ids = NDArray[np.int64]
Effort = tuple[int, int, int]  # k, probes, shortlist


@dataclass
class Tuning:
    """What was measured and chosen."""

    target: list[Effort] = field(default_factory=list)
    filtered: list[Effort] = field(default_factory=list)
    walk: list[Effort] = field(default_factory=list)  # beam in place of probes
    walk_filtered: list[Effort] = field(default_factory=list)
    signs: list[Effort] = field(default_factory=list)
    signs_filtered: list[Effort] = field(default_factory=list)
    measured: list[dict[str, float | str]] = field(default_factory=list)
    note: str = ""

    def apply(self, index: native.Index) -> None:
        """Make `index` search as was chosen."""
        index.set_plan(self.target, self.filtered, self.walk, self.walk_filtered, self.signs, self.signs_filtered)


def default_lists(count: int, dim: int) -> int:
    """Return the number of lists for `count` vectors: about sqrt(count), fewer and longer ones at high dimension."""
    lists = 1.25 * np.sqrt(count) * (64 / max(64, dim)) ** 0.5
    return int(np.clip(2 ** np.round(np.log2(max(lists, 1))), 1, 1 << 16))


def choose_lists(count: int, dim: int, kind: str, lists: int | None, recall_target: float) -> tuple[int, str]:
    """Return how many lists an index of `count` items should have (0: an exact scan) and, for 0, why."""
    if count == 0:
        return 0, "no items yet"
    if kind == "exact":
        return 0, "kind='exact' was asked for"
    if kind == "auto" and recall_target == 1:
        return 0, "recall_target is 1"
    if kind == "auto" and count < EXACT_BELOW and lists is None:
        return 0, f"{count} items: below {EXACT_BELOW} an exact scan is as cheap"
    return lists or default_lists(count, dim), ""


def choose_degree(count: int, dim: int, kind: str, degree: int | None, lists: int, *, signs: bool) -> int:
    """Return how many out-neighbours the graph of an index with so many lists should have; 0: no graph."""
    wanted = kind == "graph" or (kind == "auto" and count * dim / (8 if signs else 1) >= GRAPH_FROM_BYTES)
    return (degree or DEGREE) if wanted and lists else 0


def choose_signs(dim: int, signs: bool | None, lists: int) -> bool:
    """Return whether an index with so many lists should have signs."""
    wanted = SIGN_DIMS[0] <= dim <= SIGN_DIMS[1] if signs is None else signs
    return wanted and lists > 0


def sample_rows(count: int, seed: int) -> NDArray[np.int64]:
    """Return which of `count` items to search with: evenly drawn, without repetition, ascending."""
    return np.sort(np.random.default_rng(seed).choice(count, min(SAMPLE_QUERIES, count), replace=False))


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the share of the true ids that were found, over all queries (missing results, -1, do not count)."""
    present = truth >= 0
    hits = sum(len(np.intersect1d(f[f >= 0], t[t >= 0], assume_unique=True)) for f, t in zip(found, truth, strict=True))
    return hits / max(1, int(present.sum()))


def fewest(enough: Callable[[int], bool], most: int, too_few: int = 0) -> int:
    """Return the smallest number that is enough, to about a sixteenth; `most` is known to be."""
    low, high = too_few, most
    while high - low > max(1, high // 16):
        middle = (low + high) // 2 if low else max(1, high // 4)
        if enough(middle):
            high = middle
        else:
            low = middle
    return high


def tune(
    index: native.Index,
    exact: native.Index,
    queries: NDArray[np.float32],
    recall_target: float,
    *,
    real: bool,
    threads: int,
    step: Callable[[], None] = lambda: None,
) -> Tuning:
    """Measure `index` against `exact` on `queries` and return the efforts that reach the target.

    Parameters
    ----------
    index, exact : native indexes over the same items
    queries : float32 (n, dim)
    recall_target : float in (0, 1]
    real : bool
        Whether the queries are real ones. An item finds itself easily, so without real queries the target is moved
        towards 1.
    step : called before each measurement; may raise to stop
    """
    stats = index.stats()
    lists, items = stats["lists"], stats["items"]
    tuning = Tuning()
    most = exact.search(queries, min(RESULTS[-1], items), None, 0, 0, threads, EXACT_FORM, "")[0]
    for wanted in RESULTS:
        k = min(wanted, items)
        if tuning.target and k <= tuning.target[-1][0]:
            continue
        asked = queries[: max(50, SAMPLE_RESULTS // k)]
        truth = most[: len(asked), :k]

        def measure(
            form: int, probes: int, shortlist: int, k: int = k, asked: _Floats = asked, truth: _Ids = truth
        ) -> float:
            step()
            return recall(index.search(asked, k, None, probes, shortlist, threads, form, "")[0], truth)

        shortlists = sorted({min(items, max(k, round(k * factor)) + extra) for factor, extra in SHORTLISTS})
        more = sorted({min(items, k * factor) for factor in SIGN_SHORTLISTS})
        for target, efforts, walks, signs in (
            (recall_target, tuning.target, tuning.walk, tuning.signs),
            (FILTERED_RECALL, tuning.filtered, tuning.walk_filtered, tuning.signs_filtered),
        ):
            goal = target if real else target + (1 - target) * ITEM_QUERY_MARGIN
            scanned = _fewest_probes(partial(measure, 0), shortlists, goal, lists, items / lists)
            probes, shortlist = scanned or (lists, min(items, 8 * k))
            efforts.append((k, probes, shortlist))
            reached = round(measure(0, probes, shortlist), 4)
            tuning.measured.append(
                {
                    "k": k,
                    "target": target,
                    "goal": round(goal, 4),
                    "probes": probes,
                    "shortlist": shortlist,
                    "recall": reached,
                }
            )
            if stats["sign_bytes"] and len(signs) == len(efforts) - 1:
                scanned = _fewest_probes(partial(measure, SIGN_FORM), more, goal, lists, SIGN_COST * items / lists)
                if scanned:
                    signs.append((k, *scanned))
                    found = {"probes": scanned[0], "shortlist": scanned[1], "recall": measure(SIGN_FORM, *scanned)}
                    tuning.measured.append({"k": k, "form": "signs", "target": target, "goal": round(goal, 4), **found})
            if stats["degree"] and len(walks) == len(efforts) - 1:
                pays = int(probes * items / lists / (BEAM_ROWS * stats["degree"]))  # beyond, lists are cheaper
                widest = min(items, max(BEAM_TRIED, pays))
                measured = _fewest_in_beam(index, asked, truth, k, goal, shortlists, widest, threads)
                if measured:
                    walks.append((k, measured["beam"], measured["shortlist"]))
                    tuning.measured.append({"k": k, "target": target, "goal": round(goal, 4), **measured})
    tuning.note = (
        "measured with real queries"
        if real
        else "measured with items as queries, towards a higher goal; pass queries= for a closer fit"
    )
    return tuning


def _fewest_probes(
    measure: Callable[[int, int], float], shortlists: list[int], goal: float, lists: int, list_cost: float
) -> tuple[int, int] | None:
    """Return the cheapest probes and shortlist that reach the goal; None if not even all lists do."""
    choices: list[tuple[float, int, int]] = []  # cost, probes, shortlist
    for shortlist in shortlists:
        if measure(lists, shortlist) >= goal:
            probes = fewest(lambda p, s=shortlist: measure(p, s) >= goal, lists)  # type: ignore[misc]
            choices.append((probes * list_cost + RERANK_COST * shortlist, probes, shortlist))
            if len(choices) > 1 and choices[-1][0] > choices[-2][0]:  # longer lists of candidates save no more probes
                break
    return min(choices)[1:] if choices else None


def _fewest_in_beam(
    index: native.Index,
    asked: _Floats,
    truth: _Ids,
    k: int,
    goal: float,
    shortlists: list[int],
    most: int,
    threads: int,
) -> dict[str, Any]:
    """Return the smallest beam, up to `most`, that reaches the goal, with its shortlist and recall; empty if none."""

    def measure(beam: int, shortlist: int) -> float:
        return recall(index.search(asked, k, None, 0, shortlist, threads, GRAPH_FORM, "", beam)[0], truth)

    best: dict[str, Any] = {}
    shortlists = [shortlist for shortlist in shortlists if shortlist < most]
    if not shortlists or measure(most, shortlists[-1]) < goal:
        return best
    for shortlist in shortlists:
        most = best["beam"] if best else most
        if shortlist >= most or (not best and measure(most, shortlist) < goal):
            continue
        beam = fewest(lambda b, s=shortlist: b >= s and measure(b, s) >= goal, most, shortlist)  # type: ignore[misc]
        if not best or WALK_COST * (best["beam"] - beam) > RERANK_COST * (shortlist - best["shortlist"]):
            best = {"beam": beam, "shortlist": shortlist, "recall": round(measure(beam, shortlist), 4)}
    return best
