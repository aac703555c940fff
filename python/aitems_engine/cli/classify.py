"""Classify the products of a file: read in batches, written as one record a product, memory bounded.

Input: CSV, TSV, JSONL (also .gz) or Parquet with a title and, where there are, product_id and mall_category.
Output by suffix: JSONL and Parquet hold `product_id, categories [{leaf_id, path, probability}], abstained, cause,
bundle`; CSV and TSV have the same in flat columns (`leaf_id_1, path_1, probability_1, ...`). The output appears when
it is complete.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aitems_engine.catalog import Products, iter_products
from aitems_engine.catalog.columns import parse_column_options
from aitems_engine.catalog.table_writer import TableWriter
from aitems_engine.catalog.tables import table_format
from aitems_engine.engine import Engine
from aitems_engine.errors import InvalidInputError, require_extra
from aitems_engine.types import Classification

EXAMPLES = """  aitems classify --bundle bundle --products new.jsonl --out categories.jsonl
  aitems classify --bundle bundle --products new.csv --column title=goods_nm --out categories.parquet --top-k 3
  aitems classify --bundle bundle --products new.tsv.gz --out categories.csv --execution onnx
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=Path, help="directory written by `aitems train category`")
    parser.add_argument("--products", required=True, type=Path, help="file of products")
    parser.add_argument("--out", required=True, type=Path, help="file to write: .jsonl, .parquet, .csv or .tsv")
    parser.add_argument("--top-k", type=int, default=5, help="categories a product (default 5)")
    configure_execution(parser)


def configure_execution(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs an engine over a file."""
    parser.add_argument("--threads", type=int, default=0, help="native threads, 0 = all cores (default)")
    parser.add_argument("--execution", choices=("native", "onnx"), default="native")
    parser.add_argument("--mode", choices=("int8", "exact"), default="int8", help="of native execution (default int8)")
    configure_columns(parser)
    parser.add_argument("--batch-size", type=int, default=2048, help="products a batch (default 2048)")


def configure_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that reads a file of products."""
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="column of a field whose name is not guessed, e.g. title=goods_nm; may be repeated",
    )
    parser.add_argument("--csv-escape", metavar="CHAR", help="character that escapes quotation marks in CSV, e.g. \\")


def run(args: argparse.Namespace) -> None:
    columns = parse_column_options(args.column)
    check_numbers(args)
    kind, _ = table_format(args.out)
    if args.out.resolve() == args.products.resolve():
        raise InvalidInputError("--out must not be the file that --products reads")
    if not args.out.parent.is_dir():
        raise InvalidInputError(f"--out: the directory '{args.out.parent}' does not exist")
    started = time.perf_counter()
    rows = abstained = 0
    with Engine.open(args.bundle, execution=args.execution, mode=args.mode) as engine:
        batches = iter_products(args.products, batch_size=args.batch_size, columns=columns, csv_escape=args.csv_escape)
        with TableWriter(args.out, _schema(kind)) as writer:
            for products in progress(batches):
                result = engine.classify(products.title, products.mall_category, top_k=args.top_k, threads=args.threads)
                if kind == ".jsonl":
                    writer.write_json(result.json_records(products.product_id))
                else:
                    writer.write(output_columns(result, products.product_id, nested=kind == ".parquet"))
                rows += len(products)
                abstained += int(result.abstained.sum())
    seconds = time.perf_counter() - started
    print(
        f"{rows} products classified in {seconds:.1f} s ({rows / seconds:.0f} a second), "
        f"{abstained} abstained ({abstained / rows:.1%}): {args.out}"
    )


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse impossible numbers before anything is read."""
    for name, low in (("top_k", 1), ("batch_size", 1), ("threads", 0)):
        value = getattr(args, name, low)
        if value < low:
            raise InvalidInputError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")


def progress(batches: Iterable[Products]) -> Iterator[Products]:
    """Yield the batches, with a progress bar on a terminal where tqdm is there."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from batches
        return
    with tqdm(unit=" products", disable=not sys.stderr.isatty()) as bar:
        for products in batches:
            yield products
            bar.update(len(products))


def output_columns(result: Classification, product_ids: list[str], *, nested: bool) -> dict[str, Any]:
    """Return the columns to write."""
    columns: dict[str, Any] = {"product_id": product_ids}
    if nested:
        columns["categories"] = [record["categories"] for record in result.records(product_ids)]
    else:
        leaf_ids, paths = result.leaf_ids, result.paths
        for k in range(result.label_indices.shape[1]):
            columns[f"leaf_id_{k + 1}"] = leaf_ids[:, k].tolist()
            columns[f"path_{k + 1}"] = [row[k] for row in paths]
            columns[f"probability_{k + 1}"] = [f"{p:.6f}" for p in result.probabilities[:, k].tolist()]
    columns["abstained"] = result.abstained.tolist()
    columns["cause"] = result.causes
    columns["bundle"] = [result.bundle_digest] * len(result)
    return columns


def _schema(kind: str) -> Any:
    if kind != ".parquet":
        return None
    require_extra("train", "pyarrow")
    import pyarrow as pa

    category = pa.struct([("leaf_id", pa.string()), ("path", pa.string()), ("probability", pa.float32())])
    return pa.schema(
        [
            ("product_id", pa.string()),
            ("categories", pa.list_(category)),
            ("abstained", pa.bool_()),
            ("cause", pa.string()),
            ("bundle", pa.string()),
        ]
    )
