"""Measure recall and speed of a saved index on queries, beside an exact scan of the same items."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

EXAMPLES = """  aitems ann evaluate --index items.index --queries users.npy
  aitems ann evaluate --index items.index --queries users.npy --k 100 --batch 1 --json
  aitems ann evaluate --index items.index --queries users.npy --plot recall.png
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="index file of `aitems ann build`")
    parser.add_argument("--queries", required=True, help="float32 queries: .npy, .fvecs or .parquet")
    parser.add_argument("--column", default="vector", help="Parquet: the column of vectors (default vector)")
    parser.add_argument("--k", type=int, default=10, help="results a query (default 10)")
    parser.add_argument("--batch", type=int, default=256, help="queries a call (default 256)")
    parser.add_argument("--limit", type=int, default=2000, help="at most so many queries (default 2000)")
    parser.add_argument("--plot", metavar="PNG", help="also measure other efforts, and draw recall against rate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from aitems_engine.ann import AnnIndex
    from aitems_engine.ann.tuning import recall
    from aitems_engine.ann.vectors import read_vectors
    from aitems_engine.errors import InvalidInputError, require_extra
    from aitems_engine.evaluation import plots

    if args.plot:
        require_extra("train", "matplotlib")
        if not Path(args.plot).absolute().parent.is_dir():
            raise InvalidInputError(f"--plot {args.plot}: there is no folder {Path(args.plot).parent}")
    index = AnnIndex.open(args.index)
    queries = read_vectors(args.queries, args.column)[: args.limit]
    if len(queries) == 0 or args.batch < 1:
        raise InvalidInputError("at least one query and a batch of 1 or more are needed")

    numbers: dict[object, int] = {None: -1}  # of string ids: any numbering will do

    def timed(**effort: Any) -> tuple[Any, float]:
        began = time.thread_time()
        found = [
            index.search(queries[i : i + args.batch], args.k, **effort) for i in range(0, len(queries), args.batch)
        ]
        seconds = time.thread_time() - began
        ids = np.concatenate([hits.ids for hits in found])
        if ids.dtype == object:
            ids = np.array([[numbers.setdefault(i, len(numbers)) for i in row] for row in ids])
        return ids, seconds

    def measured(**effort: Any) -> tuple[float, float]:
        """Return recall and seconds, the median of five rounds."""
        rounds = [timed(**effort) for _ in range(5)]
        return recall(rounds[0][0], truth), float(np.median([s for _, s in rounds]))

    truth, exact_seconds = timed(form="exact")
    reached, seconds = measured()
    description = index.describe()
    report: dict[str, Any] = {
        "kind": description["kind"],
        "items": len(index),
        "queries": len(queries),
        "batch": args.batch,
        f"recall@{args.k}": round(reached, 4),
        "queries_per_cpu_second": round(len(queries) / seconds),
        "exact_queries_per_cpu_second": round(len(queries) / exact_seconds),
        "times_exact": round(exact_seconds / seconds, 2),
    }
    if args.plot:
        lists = description["lists"]
        probes = sorted({max(1, round(lists * share)) for share in 2.0 ** -np.arange(8)}) if lists else []
        efforts = [measured(probes=p) for p in probes]
        rate = len(queries)
        curve = [(found, rate / s) for found, s in efforts]
        picture = plots.recall_against_rate(curve, (reached, rate / seconds), rate / exact_seconds, args.k)
        Path(args.plot).write_bytes(picture)
        report["efforts"] = [
            {"probes": p, "recall": round(found, 4), "queries_per_cpu_second": round(rate / s)}
            for p, (found, s) in zip(probes, efforts, strict=True)
        ]
    if args.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:30} {value}" if name != "efforts" else f"{args.plot} shows {len(value)} other efforts")
