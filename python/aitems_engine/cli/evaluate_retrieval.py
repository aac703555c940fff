"""Measure retrievers on what users did later: recall, NDCG and reciprocal rank over the whole catalogue.

The histories are those the model was trained on (or --histories); the test file says what these users did afterwards.
Nothing is sampled, ties count with their expectation. Several models are compared user by user, with 95 % bootstrap
intervals. Writes report.html, report.md and metrics.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from aitems_engine.errors import InvalidInputError

EXAMPLES = """  aitems evaluate retrieval --model model --test test.parquet --out report
  aitems evaluate retrieval --model gf-cf --model ease --model popularity --test later.txt --out report --k 10 --k 50
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems evaluate retrieval`."""
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        type=Path,
        help="directory written by `aitems train retrieval`; may be repeated",
    )
    parser.add_argument("--test", required=True, type=Path, help="what these users did later, in any form of events")
    parser.add_argument("--histories", type=Path, help="what is known of the users (default: the model's own)")
    parser.add_argument("--out", required=True, type=Path, help="directory of the report")
    parser.add_argument(
        "--k", action="append", type=int, help="length of the lists, may be repeated (default 10 and 20)"
    )
    parser.add_argument("--include-seen", action="store_true", help="items of the history may be recommended again")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, where it is not guessed"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print, write the report."""
    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.cli.train_retrieval import EVENT_EXAMPLE, progress
    from aitems_engine.evaluation.ranking import evaluate_ranking
    from aitems_engine.evaluation.retrieval_report import write_retrieval_report
    from aitems_engine.events import read_interactions
    from aitems_engine.events.readers import EVENT_COLUMNS
    from aitems_engine.retrieval import open_retriever

    columns = parse_column_options(args.column, EVENT_COLUMNS, EVENT_EXAMPLE)
    if args.out.exists() and not args.out.is_dir():
        raise InvalidInputError(f"--out must be a directory, '{args.out}' is a file")
    names = [path.name for path in args.model]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"models must have different names, got {', '.join(names)}")
    test = read_interactions(args.test, columns=columns)
    given = read_interactions(args.histories, columns=columns) if args.histories else None
    found = {}
    for name, path in zip(names, args.model, strict=True):
        retriever, own = open_retriever(path)
        known = given or own
        if known is None:
            raise InvalidInputError(f"model '{path}' holds no histories; give them with --histories")
        histories = known.over(retriever.item_ids)
        targets = test.over(retriever.item_ids).of_users(histories.user_ids)
        found[name] = evaluate_ranking(
            retriever,
            histories,
            targets,
            tuple(args.k or (10, 20)),
            exclude_seen=not args.include_seen,
            progress=progress(name, "batch"),
        )
        missing = len(set(test.user_ids) - set(histories.user_ids))
        lost = targets.counts.get("unknown_items", 0)
        if missing or lost:
            print(
                f"{name}: {missing} users of the test have no history and {lost} interactions an unknown item",
                file=sys.stderr,
            )
    html = write_retrieval_report(args.out, found, test=args.test.name)
    for name, scores in found.items():
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.means().items()))
    print(f"report: {html}")
    (args.out / "metrics.json").write_text(
        json.dumps({name: scores.means() for name, scores in found.items()}, indent=1) + "\n", encoding="utf-8"
    )
