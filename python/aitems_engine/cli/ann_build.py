"""Build a nearest-neighbour index from a file of vectors, choosing how to search by measuring, and save it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLES = """  aitems ann build --vectors items.npy --out items.index
  aitems ann build --vectors items.npy --queries users.npy --recall-target 0.99 --threads 0 --out items.index
  aitems ann build --vectors items.parquet --column embedding --id-column product_id \\
    --attribute mall_id --attribute category --metric cosine --out items.index
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vectors", required=True, help="float32 vectors: .npy, .fvecs or .parquet")
    parser.add_argument("--column", default="vector", help="Parquet: the column of vectors (default vector)")
    parser.add_argument("--ids", help=".npy of ids, int64 or strings (default 0, 1, 2, ...)")
    parser.add_argument("--id-column", help="Parquet: the column of ids")
    parser.add_argument(
        "--attribute", action="append", default=[], help="Parquet: a column to filter by; may be repeated"
    )
    parser.add_argument("--metric", default="ip", choices=["ip", "cosine", "l2"], help="default ip, the inner product")
    parser.add_argument(
        "--recall-target", type=float, default=0.95, help="share of true results to find (default 0.95)"
    )
    parser.add_argument("--queries", help="a sample of real queries to measure with, a file like --vectors")
    parser.add_argument("--kind", default="auto", choices=["auto", "exact", "ivf", "graph"], help="default auto")
    parser.add_argument(
        "--rerank", default="float", choices=["float", "half"], help="half: less memory (default float)"
    )
    parser.add_argument("--threads", type=int, default=0, help="default 0, all cores")
    parser.add_argument("--out", required=True, help="index file to write")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from aitems_engine.ann import AnnIndex
    from aitems_engine.ann.vectors import read_columns, read_vectors
    from aitems_engine.errors import DataError, InvalidInputError

    def read_ids(path: str) -> np.ndarray:
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise DataError(f"{path}: no .npy file of integers or strings ({error})") from error

    parquet = Path(args.vectors).suffix == ".parquet"
    if (args.attribute or args.id_column) and not parquet:
        raise InvalidInputError("--attribute and --id-column need --vectors to be a Parquet file")
    if args.ids and args.id_column:
        raise InvalidInputError("give --ids or --id-column, not both")
    if not Path(args.out).absolute().parent.is_dir():  # known before the work, not after it
        raise InvalidInputError(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    names = [*args.attribute, *([args.id_column] if args.id_column else [])]
    columns = read_columns(args.vectors, names) if names else {}
    ids = columns.pop(args.id_column) if args.id_column else read_ids(args.ids) if args.ids else None
    index = AnnIndex.build(
        read_vectors(args.vectors, args.column),
        ids,
        args.metric,
        args.recall_target,
        columns or None,
        queries=read_vectors(args.queries, args.column) if args.queries else None,
        kind=args.kind,
        rerank=args.rerank,
        threads=args.threads,
    )
    index.save(args.out)
    print(json.dumps(index.describe(), indent=2, ensure_ascii=False))
