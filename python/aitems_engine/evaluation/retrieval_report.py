"""The report of `aitems evaluate retrieval`: models side by side, differences by user, a picture of each measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aitems_engine.evaluation.pages import Page
from aitems_engine.evaluation.plots import measures
from aitems_engine.evaluation.ranking import RankingScores, bootstrap_mean


def write_retrieval_report(out: Path, found: Mapping[str, RankingScores], *, test: str) -> Path:
    """Write report.html, report.md and pictures; return the path of the page.

    Parameters
    ----------
    out : path
        Directory; made where it is missing.
    found : mapping of model name to RankingScores
        Over the same users.
    test : str
        Name of the file that was asked about.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = Page("Retrieval")
    first, scores = next(iter(found.items()))
    page.text(
        f"Test: {test}. {len(scores.users)} users with something to find. Ranked over the whole catalogue, nothing "
        "sampled; equal scores count with the expectation over their orders. Intervals: 95 %, bootstrap over users."
    )
    page.heading("Measures")
    page.table(["model", *scores.by_user, *scores.of_lists], [[n, *_cells(s)] for n, s in found.items()])
    intervals = {
        measure: {name: bootstrap_mean(s.by_user[measure]) for name, s in found.items()} for measure in scores.by_user
    }
    page.picture("measures.png", measures(intervals), "Means with 95 % intervals")
    others = [(n, s) for n, s in found.items() if n != first and (s.users.tolist() == scores.users.tolist())]
    if others:
        page.heading(f"{first} minus the others, user by user")
        rows = []
        for name, other in others:
            differences = [bootstrap_mean(scores.by_user[m] - other.by_user[m]) for m in scores.by_user]
            rows.append([name, *(f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in differences)])
        page.table(["model", *scores.by_user], rows)
    seen = {name: s.seen_targets for name, s in found.items() if s.seen_targets}
    if seen:
        page.text(
            "Items to find that stand in the history as well (never found when seen items are left out): "
            + ", ".join(f"{name} {count}" for name, count in seen.items())
        )
    page.write(out)
    return out / "report.html"


def _cells(scores: RankingScores) -> list[str]:
    return [f"{value:.4f}" for value in scores.means().values()]
