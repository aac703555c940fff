"""Measure a bundle on labelled products and write a report: accuracy, macro-F1, calibration, coverage, worst leaves.

The products need a title and a category (the id of a leaf of the bundle's taxonomy). Writes report.html (one file),
report.md with its pictures, and metrics.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aitems_engine.catalog import iter_products
from aitems_engine.catalog.columns import parse_column_options
from aitems_engine.cli.classify import check_numbers, configure_execution, progress
from aitems_engine.engine import Engine
from aitems_engine.errors import InvalidInputError

EXAMPLES = """  aitems evaluate category --bundle bundle --products test.parquet --out report
  aitems evaluate category --bundle bundle --products test.tsv --column category=leaf --out report --mode exact
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=Path, help="directory written by `aitems train category`")
    parser.add_argument("--products", required=True, type=Path, help="file of labelled products")
    parser.add_argument("--out", required=True, type=Path, help="directory for the report")
    configure_execution(parser)


def run(args: argparse.Namespace) -> None:
    from aitems_engine.evaluation.evaluate import evaluate_category
    from aitems_engine.evaluation.report import write_category_report

    columns = parse_column_options(args.column)
    check_numbers(args)
    if args.out.exists() and not args.out.is_dir():
        raise InvalidInputError(f"--out must be a directory, '{args.out}' is a file")
    if (args.out / "manifest.json").exists():
        raise InvalidInputError(f"--out: '{args.out}' is a bundle; a report inside would make it unreadable")
    with Engine.open(args.bundle, execution=args.execution, mode=args.mode) as engine:
        batches = iter_products(
            args.products,
            batch_size=args.batch_size,
            columns=columns,
            require=("title", "category"),
            csv_escape=args.csv_escape,
        )
        evaluation = evaluate_category(engine, progress(batches), threads=args.threads)
        report = write_category_report(
            args.out,
            evaluation.predictions,
            taxonomy=engine.taxonomy,
            labels=engine.labels,
            titles=evaluation.titles,
            facts={
                "bundle": engine.bundle_digest,
                "products": args.products.name,
                "execution": f"{args.execution}, {args.mode if args.execution == 'native' else 'fp32'}",
            },
        )
    print(report.headline())
    print(f"report: {report.html}")
