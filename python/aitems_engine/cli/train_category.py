"""Train the category classifier on labelled products and write a bundle, with a report of how good it is.

The newest tenth of the products (by registered_at; without dates a random tenth of each leaf) is held out for early
stopping, temperature and abstention thresholds; afterwards the network is trained once more on everything.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aitems_engine.cli.classify import configure_columns

if TYPE_CHECKING:
    from aitems_engine.catalog.products import Products
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.training.category import CategorySettings, CategoryTraining

EXAMPLES = """  aitems train category --products shop/products.parquet --taxonomy shop/taxonomy.csv --out bundle
  aitems train category --products labelled.csv --out bundle --column title=name --column category=leaf
  aitems train category --products big.parquet --out bundle --epochs 6 --checkpoint states   # resumable
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems train category`."""
    parser.add_argument(
        "--products", required=True, help="Parquet, CSV, TSV or JSONL with title and category (leaf id)"
    )
    parser.add_argument("--taxonomy", help="category tree (CSV, TSV or JSON); without it the categories are flat")
    parser.add_argument("--out", required=True, help="directory of the bundle")
    configure_columns(parser)
    parser.add_argument(
        "--duplicate-ids",
        choices=("refuse", "first", "keep"),
        default="refuse",
        help="rows whose product_id stood before: error (default), leave out, or keep",
    )
    parser.add_argument("--tokenizer", help="tokenizer.json to use (default: WordPiece, trained on the titles)")
    parser.add_argument("--vocab-size", type=int, help="of the tokeniser trained here (default 20000)")
    parser.add_argument(
        "--epochs", type=int, help="length of the training schedule (default: 4 to 10 by the number of products)"
    )
    parser.add_argument("--patience", type=int, help="epochs without improvement before it stops")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--title-filters", type=int, help="filters of each convolution width")
    parser.add_argument("--gram-buckets", type=int, help="hash buckets of character n-grams; 0 = no n-gram bag")
    parser.add_argument("--gram-dim", type=int, help="width of the n-gram bag")
    parser.add_argument("--logit-adjustment", type=float, help="0 = plain loss, 1 = all leaves count alike in training")
    parser.add_argument("--target-accuracy", type=float, help="accuracy of answered products that thresholds aim at")
    parser.add_argument("--validation-share", type=float, help="share held out for early stopping and calibration")
    parser.add_argument("--half-life-days", type=float, help="a product older than the newest by this counts half")
    parser.add_argument("--no-skipgram", action="store_true", help="start token vectors at random")
    parser.add_argument("--no-refit", action="store_true", help="keep the network that never saw the held-out rows")
    parser.add_argument("--checkpoint", help="directory of training states, to stop and go on later")
    parser.add_argument("--report", help="directory of the report (default: OUT-report)")
    parser.add_argument("--no-report", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 = as many as torch chooses")
    parser.add_argument("--device", default="", help="as torch names it, e.g. cpu or cuda:0 (default: GPU if there)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> None:
    """Train, print the measures, write bundle and report."""
    from aitems_engine.errors import require_extra

    require_extra("train", "torch")
    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.catalog.products import read_products
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.text import Tokenizer
    from aitems_engine.training.category import train_category

    products = read_products(
        args.products,
        columns=parse_column_options(args.column),
        require=("title", "category"),
        duplicate_ids=args.duplicate_ids,
        csv_escape=args.csv_escape,
    )
    taxonomy = Taxonomy.read(args.taxonomy) if args.taxonomy else None
    result = train_category(
        products,
        taxonomy,
        out=args.out,
        settings=settings_of(args),
        tokenizer=Tokenizer.from_file(args.tokenizer) if args.tokenizer else None,
        checkpoint=args.checkpoint,
        progress=not args.quiet,
    )
    print(
        f"{len(products) - result.skipped_unlabelled} products, {len(result.labels)} leaves"
        + (f" ({result.skipped_unlabelled} products without a category left out)" if result.skipped_unlabelled else "")
    )
    if result.validation is None:
        print("no validation rows: no measures, no early stopping, no calibration, no abstention")
    else:
        for name, value in result.validation.scores.items():
            print(f"  {LABELS[name]:<44} {value:.4f}")
        print(f"  measured on {len(result.validation.rows)} held-out products, before the last fit on all rows")
    print(f"bundle {result.bundle} ({result.digest[:12]}); native and ONNX differ by {result.execution_difference:.1e}")
    if not args.no_report and result.validation is not None:
        print(f"report {write_report(Path(args.report or f'{args.out}-report'), result, products, taxonomy)}")


LABELS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ece": "expected calibration error (15 bins)",
    "nll": "negative log-likelihood",
    "coverage": "coverage at the thresholds",
    "accuracy_answered": "accuracy of what is answered",
    "accuracy_title": "accuracy, title head alone",
    "accuracy_mall": "accuracy, mall head alone (rows that have one)",
}


def settings_of(args: argparse.Namespace) -> CategorySettings:
    """Return the settings that the given options change."""
    from aitems_engine.training.category import CategorySettings

    def given(**options: object) -> dict[str, Any]:
        return {name: value for name, value in options.items() if value is not None}

    default = CategorySettings()
    fit = replace(
        default.fit,
        seed=args.seed,
        threads=args.threads,
        device=args.device,
        **given(
            epochs=args.epochs,
            patience=args.patience,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            logit_adjustment=args.logit_adjustment,
        ),
    )
    limits = replace(default.limits, **given(gram_buckets=args.gram_buckets))
    return replace(
        default,
        fit=fit,
        limits=limits,
        skipgram=not args.no_skipgram,
        refit=not args.no_refit,
        **given(
            vocab_size=args.vocab_size,
            gram_dim=args.gram_dim,
            title_filters=args.title_filters,
            target_accuracy=args.target_accuracy,
            validation_share=args.validation_share,
            half_life_days=args.half_life_days,
        ),
    )


def write_report(out: Path, result: CategoryTraining, products: Products, taxonomy: Taxonomy | None) -> Path:
    """Write the report of the held-out products and return its page."""
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.evaluation.report import write_category_report

    assert result.validation is not None
    report = write_category_report(
        out,
        result.validation.predictions,
        taxonomy=taxonomy or Taxonomy.flat(result.labels),
        labels=result.labels,
        title="Category classifier: held-out products",
        learning_curve=[
            {
                "epoch": record.epoch,
                "train_loss": record.loss,
                "validation_accuracy": record.accuracy or 0.0,
                "validation_macro_f1": record.macro_f1 or 0.0,
            }
            for record in result.history
        ],
        titles=[products.title[i] for i in result.validation.rows.tolist()],
        facts={
            "bundle": result.digest,
            "measured on": f"{len(result.validation.rows)} held-out products, before the last fit on all rows",
            "temperature": f"{result.combination.temperature:.3f}",
            "prior put back": f"{result.combination.prior:.3f}",
            **{LABELS[name]: f"{value:.4f}" for name, value in result.validation.scores.items() if name in LABELS},
        },
    )
    return report.html
