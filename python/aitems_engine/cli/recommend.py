"""Recommend items for every history of a file, offline: user_id, rank, item_id, score.

Users and items that the model never saw are fine: an unknown item of a history is left out; an empty history gets
what is popular from `popularity`, nothing from the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """  aitems recommend --model model --histories histories.txt --k 20 --exclude-seen --out top.parquet
  aitems recommend --model model --out top.csv --k 10      # the users the model was trained on
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems recommend`."""
    parser.add_argument("--model", required=True, type=Path, help="directory written by `aitems train retrieval`")
    parser.add_argument("--histories", type=Path, help="file of events (default: the histories of the training)")
    parser.add_argument("--k", type=int, default=20, help="items a user (default 20)")
    parser.add_argument("--exclude-seen", action="store_true", help="leave out items of the history")
    parser.add_argument("--out", required=True, type=Path, help=".parquet, .csv, .tsv or .jsonl")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, where it is not guessed"
    )


def run(args: argparse.Namespace) -> None:
    """Recommend and write."""
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
