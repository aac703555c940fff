"""Explain a page from its trace: make it again from the same bundle, and show what every stage and rule did.

A trace comes from `aitems recommend --bundle ... --trace trace.json`, or is `response.trace.to_dict()` as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aitems_engine.recommendation import Response

EXAMPLES = """  aitems recommend --bundle engine --user u00000001 --trace trace.json
  aitems explain --bundle engine --trace trace.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems explain`."""
    parser.add_argument("--bundle", required=True, type=Path, help="the bundle that answered")
    parser.add_argument("--trace", required=True, type=Path, help="file of the trace")


def run(args: argparse.Namespace) -> int:
    """Replay, compare and show; 1 where the replay differs."""
    from aitems_engine.cli import read_json
    from aitems_engine.engine import Engine
    from aitems_engine.recommendation import Trace

    trace = Trace.from_dict(read_json(args.trace))
    page = Engine.open(args.bundle).replay(trace)
    same = page.item_ids == trace.item_ids and page.scores.tolist() == trace.scores
    print(f"request {trace.request.request_id}, placement {trace.request.placement}, bundle {trace.bundle_digest[:12]}")
    print("replay: the same items and scores" if same else "replay: DIFFERENT from the trace; please report this")
    show(page)
    return 0 if same else 1


def show(page: Response, titles: Mapping[str, str] | None = None) -> None:
    """Print a page with where its items came from, its stages, and what its rules cost."""
    for place, item in enumerate(page.items, 1):
        found = ", ".join(f"{o.retriever} #{o.rank}" for o in item.provenance) or "popular: nobody found it"
        ad = " ad" if item.is_ad else ""
        print(
            f"{place:4} {item.item_id:<16} {item.score:9.5f}  pctr {item.pctr:.4f}  pcvr {item.pcvr:.4f}{ad}  {found}"
        )
        if titles is not None:
            print(f"       {titles[item.item_id][:100]}")
    print("stage                      us  entered    left")
    for stage in page.trace.stages:
        print(f"{stage.name:<20} {stage.microseconds:8.0f} {stage.entered:8} {stage.left:7}  {stage.outcome}")
    print("rule                 filtered  dropped   moved   clicks    revenue")
    for entry in page.trace.reranked.ledger if page.trace.reranked else ():
        print(
            f"{entry.rule:<20} {entry.filtered:8} {entry.dropped:8} {entry.moved:7} {entry.delta_clicks:+8.4f} "
            f"{entry.delta_revenue:+10.2f}  {entry.note}"
        )
    if page.trace.goal_probability is not None:
        print(f"goal-oriented with probability {page.trace.goal_probability:.3f}")
    for flag in page.flags:
        print(f"note: {flag}")
    if page.short_reason:
        print(f"short: {page.short_reason}")
