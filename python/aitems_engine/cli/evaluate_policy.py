"""Estimate from a log what another policy would have earned: IPS, SNIPS and, with predictions, DR.

The log is a table (Parquet, CSV, TSV, JSONL) with a row for each item shown: reward, propensity (with which it was
shown; pages log it, see docs/reranking.md), target_propensity (with which the judged policy would have shown it), and,
for DR, predicted and predicted_target (the model's reward of what was shown, and its expectation under the judged
policy).
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """  aitems evaluate policy --log log.parquet
  aitems evaluate policy --log log.csv --column reward=bought --max-weight 20 --out report
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems evaluate policy`."""
    parser.add_argument("--log", required=True, type=Path, help="table with a row for each item shown")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, where it is not guessed"
    )
    parser.add_argument("--max-weight", type=float, default=float("inf"), help="cut larger weights (default: never)")
    parser.add_argument("--out", type=Path, help="directory of a report with a picture")


def run(args: argparse.Namespace) -> None:
    """Estimate, print, write the report."""
    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.evaluation.off_policy import (
        COLUMNS,
        estimate_policy,
        read_policy_log,
        support_problem,
        write_policy_report,
    )

    log = read_policy_log(args.log, parse_column_options(args.column, COLUMNS, "reward=bought"))
    found = estimate_policy(**log, max_weight=args.max_weight)
    problem = support_problem(log["propensity"], log["target_propensity"])
    for name, e in found.items():
        print(
            f"{name:<7} {e.value:.5f}  [{e.low:.5f}, {e.high:.5f}]  effective rows {e.effective_rows:.0f}  "
            f"clipped {e.clipped:.2%}"
        )
    if problem:
        print(f"careful: {problem}")
    if args.out:
        rows = len(log["reward"])
        print(f"report: {write_policy_report(args.out, found, data=f'{args.log.name}: {rows} rows.', problem=problem)}")
