"""Search a saved nearest-neighbour index; prints `query rank id score`, tab-separated, or writes an .npz file."""

from __future__ import annotations

import argparse
import contextlib

EXAMPLES = """  aitems ann search --index items.index --queries users.npy --k 10 | head
  aitems ann search --index items.index --queries users.npy --filter mall_id=m17 --filter category!=c9
  aitems ann search --index items.index --queries users.npy --k 100 --threads 0 --out hits.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="index file of `aitems ann build`")
    parser.add_argument("--queries", required=True, help="float32 queries: .npy, .fvecs or .parquet")
    parser.add_argument("--column", default="vector", help="Parquet: the column of vectors (default vector)")
    parser.add_argument("--k", type=int, default=10, help="results a query (default 10)")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only items with this string or integer value (NAME!=VALUE: without it); several: all must hold",
    )
    parser.add_argument("--threads", type=int, default=0, help="default 0, all cores")
    parser.add_argument("--out", help=".npz file with ids and scores, instead of lines")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from aitems_engine.ann import AnnIndex, Filter
    from aitems_engine.ann.vectors import read_vectors
    from aitems_engine.errors import InvalidInputError

    wanted: Filter | None = None
    for text in args.filter:
        name, equals, value = text.partition("=")
        if not equals or not name.rstrip("!"):
            raise InvalidInputError(f"--filter must be NAME=VALUE or NAME!=VALUE, got {text!r}")
        values: list[str | int] = [value]
        with contextlib.suppress(ValueError):
            values.append(int(value))
        one = Filter.isin(name.rstrip("!"), values)
        one = ~one if name.endswith("!") else one
        wanted = one if wanted is None else wanted & one
    index = AnnIndex.open(args.index)
    hits = index.search(read_vectors(args.queries, args.column), args.k, wanted, args.threads)
    if args.out:
        ids = hits.ids if hits.ids.dtype != object else np.where(hits.ids == None, "", hits.ids).astype(str)  # noqa: E711
        np.savez(args.out, ids=ids, scores=hits.scores)
        return
    for query, (ids, scores) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        for rank, (item, score) in enumerate(zip(ids, scores, strict=True)):
            if np.isfinite(score):
                print(query, rank + 1, item, f"{score:.6g}", sep="\t")
