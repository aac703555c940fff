"""Measure recall and speed of a saved index on queries, beside an exact scan of the same items."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

EXAMPLES = """  aitems ann evaluate --index items.index --queries users.npy
  aitems ann evaluate --index items.index --queries users.npy --k 100 --batch 1 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="index file of `aitems ann build`")
    parser.add_argument("--queries", required=True, help="float32 queries: .npy, .fvecs or .parquet")
    parser.add_argument("--column", default="vector", help="Parquet: the column of vectors (default vector)")
    parser.add_argument("--k", type=int, default=10, help="results a query (default 10)")
    parser.add_argument("--batch", type=int, default=256, help="queries a call (default 256)")
    parser.add_argument("--limit", type=int, default=2000, help="at most so many queries (default 2000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from aitems_engine.ann import AnnIndex
    from aitems_engine.ann.tuning import recall
    from aitems_engine.ann.vectors import read_vectors
    from aitems_engine.errors import InvalidInputError

    index = AnnIndex.open(args.index)
    queries = read_vectors(args.queries, args.column)[: args.limit]
    if len(queries) == 0 or args.batch < 1:
        raise InvalidInputError("at least one query and a batch of 1 or more are needed")

    def timed(form: str) -> tuple[Any, float]:
        began = time.thread_time()
        found = [
            index.search(queries[i : i + args.batch], args.k, form=form) for i in range(0, len(queries), args.batch)
        ]
        seconds = time.thread_time() - began
        return np.concatenate([hits.ids for hits in found]), seconds

    truth, exact_seconds = timed("exact")
    rounds = [timed("auto") for _ in range(5)]
    answer, seconds = rounds[0][0], float(np.median([s for _, s in rounds]))
    if truth.dtype == object:  # string ids: any numbering will do
        names = {name: number for number, name in enumerate(sorted({*truth.flat, *answer.flat} - {None}))}
        names[None] = -1
        truth, answer = (np.vectorize(names.__getitem__, otypes=[np.int64])(a) for a in (truth, answer))
    description = index.describe()
    report = {
        "kind": description["kind"],
        "items": len(index),
        "queries": len(queries),
        "batch": args.batch,
        f"recall@{args.k}": round(recall(answer, truth), 4),
        "queries_per_cpu_second": round(len(queries) / seconds),
        "exact_queries_per_cpu_second": round(len(queries) / exact_seconds),
        "times_exact": round(exact_seconds / seconds, 2),
    }
    if args.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:30} {value}")
