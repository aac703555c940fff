"""Recommend items: one page from a bundle, or the best items for every history of a file from one retriever.

With --bundle, one request goes through all stages: retrievers, ranker, rules. With --model, a retriever answers every
history of a file offline: user_id, rank, item_id, score. Users and items that are not known are fine: an unknown item
of a history is left out, and a user without history gets what is popular.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLES = """  aitems recommend --bundle engine --user u00000001 --k 20 --explain
  aitems recommend --bundle engine --history p00000007,p00000123 --placement item --context query=운동화
  aitems recommend --model model --histories histories.txt --k 20 --exclude-seen --out top.parquet
  aitems recommend --model model --out top.csv --k 10      # the users the model was trained on
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems recommend`."""
    add = parser.add_argument
    add("--k", type=int, default=20, help="items (default 20)")
    one = parser.add_argument_group("one page, from a bundle")
    add = one.add_argument
    add("--bundle", type=Path, help="directory written by `aitems bundle build`")
    add("--user", help="user whose history the bundle knows")
    add("--history", default="", metavar="ITEM,ITEM,...", help="items, oldest first, in place of what is known")
    add("--placement", default="home", help="recipe of the bundle (default home)")
    add("--context", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("--request", type=Path, help="file with the whole request as JSON, in place of the above")
    add("--explain", action="store_true", help="show stages and rules")
    add("--trace", type=Path, help="file to write the trace to, for `aitems explain`")
    many = parser.add_argument_group("every history of a file, from one retriever")
    add = many.add_argument
    add("--model", type=Path, help="directory written by `aitems train retrieval`")
    add("--histories", type=Path, help="file of events (default: the histories of the training)")
    add("--exclude-seen", action="store_true", help="leave out items of the history")
    add("--out", type=Path, help=".parquet, .csv, .tsv or .jsonl")
    add(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, where it is not guessed"
    )


def run(args: argparse.Namespace) -> None:
    """Recommend and print or write."""
    from aitems_engine.errors import InvalidInputError

    if (args.bundle is None) == (args.model is None):
        raise InvalidInputError("give --bundle for one page or --model for a file of histories; see --help")
    if args.bundle is not None:
        _one_page(args)
    elif args.out is None:
        raise InvalidInputError("--model writes a file; name it with --out")
    else:
        _every_history(args)


def _one_page(args: argparse.Namespace) -> None:
    from aitems_engine.cli import read_json
    from aitems_engine.cli.explain import show
    from aitems_engine.engine import Engine
    from aitems_engine.recommendation import Request

    if args.request:
        request = Request.from_dict(read_json(args.request))
    else:
        context = dict(option.partition("=")[::2] for option in args.context)
        history = [item for item in args.history.split(",") if item]
        request = Request(args.user, history, context, args.placement, args.k)
    page = Engine.open(args.bundle).recommend(request)
    if args.explain:
        show(page)
    else:
        for item, score in zip(page.item_ids, page.scores.tolist(), strict=True):
            print(f"{item}\t{score:.6f}")
    if args.trace:
        args.trace.write_text(json.dumps(page.trace.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _every_history(args: argparse.Namespace) -> None:
    import numpy as np

    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.catalog.table_writer import TableWriter
    from aitems_engine.cli.train_retrieval import EVENT_EXAMPLE
    from aitems_engine.errors import InvalidInputError
    from aitems_engine.events import read_interactions
    from aitems_engine.events.readers import EVENT_COLUMNS
    from aitems_engine.retrieval import open_retriever
    from aitems_engine.retrieval.retriever import BATCH

    columns = parse_column_options(args.column, EVENT_COLUMNS, EVENT_EXAMPLE)
    retriever, own = open_retriever(args.model)
    known = read_interactions(args.histories, columns=columns) if args.histories else own
    if known is None:
        raise InvalidInputError(f"model '{args.model}' holds no histories; give them with --histories")
    histories = known.over(retriever.item_ids)
    short = 0
    with TableWriter(args.out) as writer:
        for start in range(0, len(histories), BATCH):
            batch = histories.take(slice(start, start + BATCH))
            found = retriever.candidates(batch, args.k, exclude_seen=args.exclude_seen)
            row, rank = np.nonzero(found.items >= 0)
            short += int((found.items < 0).any(1).sum())
            items = found.items[row, rank].tolist()
            writer.write(
                {
                    "user_id": [batch.user_ids[r] for r in row.tolist()],
                    "rank": (rank + 1).tolist(),
                    "item_id": [retriever.item_ids[i] for i in items],
                    "score": found.scores[row, rank].astype(np.float64).tolist(),
                }
            )
        rows = writer.rows
    unknown = histories.counts.get("unknown_items", 0)
    notes = [f"{unknown} interactions with unknown items left out"] * bool(unknown)
    notes += [f"{short} users have fewer than {args.k} items left"] * bool(short)
    print(f"{len(histories)} users, {rows} rows: {args.out}" + "".join(f"; {note}" for note in notes))
