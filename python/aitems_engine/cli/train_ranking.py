"""Train a ranker on what was shown, clicked and bought: from features of a user and an item to probabilities.

NAME is deepfm, dlrm, dcn-v2 (clicks) or esmm (clicks and purchases). Events are a table with event_type, user_id,
item_id and timestamp, impressions among them (Parquet, CSV, TSV, JSONL). The newest tenth of the impressions tests, the
tenth before decides when to stop and calibrates. The result is a bundle with features, network and calibration.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aitems_engine.cli import read_json
from aitems_engine.errors import InvalidInputError

if TYPE_CHECKING:
    from aitems_engine.catalog.items import ItemTable
    from aitems_engine.events.impressions import ImpressionLog
    from aitems_engine.training.ranking import RankerSettings

EXAMPLES = """  aitems train ranking dcn-v2 --events shop/events.parquet --products shop/products.parquet --out ranker
  aitems train ranking esmm --events events.parquet --products products.parquet --taxonomy taxonomy.csv --out ranker
  aitems train ranking deepfm --events events.csv --products products.csv --features features.json --out ranker
  aitems train ranking esmm --events big.parquet --products products.parquet --out ranker --checkpoint state
"""
NAMES = ("deepfm", "dlrm", "dcn-v2", "esmm")
PLACEMENT = "context.placement"
# option -> (type, help); defaults are those of `RankerShape` and `RankerSettings`
SHAPE: dict[str, tuple[type, str]] = {
    "dim": (int, "of the vector of each code"),
    "cross_layers": (int, "dcn-v2: number of cross layers"),
    "cross_rank": (int, "dcn-v2: rank of their matrices, 0 = full"),
    "dropout": (float, "share of each hidden layer that is dropped in training"),
}
TRAINING: dict[str, tuple[type, str]] = {
    "epochs": (int, "length of the learning-rate schedule; the most that run"),
    "patience": (int, "epochs without a lower validation loss before it stops"),
    "batch_size": (int, "impressions of a step"),
    "learning_rate": (float, "of the dense weights"),
    "table_learning_rate": (float, "of the table of vectors"),
    "table_l2": (float, "keeps vectors short"),
    "unknown_share": (float, "share of codes read as unknown in training"),
    "seed": (int, "of everything random"),
    "threads": (int, "0 = as many as torch chooses"),
    "device": (str, "as torch names it, e.g. cpu or cuda:0 (default: GPU if there)"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems train ranking`."""
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", required=True, type=Path, help="directory of the bundle")
    configure_log(parser)
    parser.add_argument("--features", type=Path, help="JSON file that declares the features (default: all there are)")
    parser.add_argument("--hidden", help="sizes of the hidden layers, separated by commas")
    for option, (kind, text) in {**SHAPE, **TRAINING}.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, help=text)
    parser.add_argument(
        "--calibration", choices=("platt", "isotonic", "none"), default="platt", help="default platt, by placement"
    )
    parser.add_argument("--window-days", type=float, default=7.0, help="a purchase counts so long after the click")
    parser.add_argument("--checkpoint", type=Path, help="file of the training's state, to stop and go on later")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def configure_log(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is read."""
    parser.add_argument("--events", required=True, type=Path, help="file of events with impressions")
    parser.add_argument("--products", required=True, type=Path, help="file of products")
    parser.add_argument("--taxonomy", type=Path, help="category tree; adds the levels above the leaf as features")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of the events, where not guessed"
    )


def read_log(args: argparse.Namespace, context: tuple[str, ...] = ()) -> tuple[ItemTable, ImpressionLog]:
    """Return the catalogue and the impressions that the arguments name."""
    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.catalog.items import ItemTable
    from aitems_engine.catalog.products import read_products
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.cli.train_retrieval import EVENT_EXAMPLE
    from aitems_engine.events.impressions import IMPRESSION_COLUMNS, read_impressions

    columns = parse_column_options(args.column, IMPRESSION_COLUMNS, EVENT_EXAMPLE)
    items = ItemTable.from_products(
        read_products(args.products), Taxonomy.read(args.taxonomy) if args.taxonomy else None
    )
    return items, read_impressions(args.events, items.item_ids, columns=columns, context=context)


def settings_of(args: argparse.Namespace) -> RankerSettings:
    """Return the settings that the given options change."""
    from aitems_engine.training.rankers import RankerShape
    from aitems_engine.training.ranking import RankerSettings

    def given(options: dict[str, tuple[type, str]]) -> dict[str, Any]:
        return {option: getattr(args, option) for option in options if getattr(args, option) is not None}

    shape: dict[str, Any] = given(SHAPE)
    if args.hidden is not None:
        try:
            shape["hidden"] = tuple(int(size) for size in args.hidden.split(",") if size)
        except ValueError:
            raise InvalidInputError(f"--hidden must be sizes such as 128,64, got '{args.hidden[:40]}'") from None
    return RankerSettings(RankerShape(args.name, **shape), **given(TRAINING))


def run(args: argparse.Namespace) -> None:
    """Train, print the measures on the newest impressions, write the bundle."""
    from aitems_engine.errors import require_extra

    require_extra("train", "torch")
    from aitems_engine.bundle import write_bundle
    from aitems_engine.evaluation.rankers import evaluate_ranker
    from aitems_engine.ranking import FeatureConfig, Ranker, ranker_parts
    from aitems_engine.ranking.declaration import Context
    from aitems_engine.ranking.examples import DAY_MS, split_examples
    from aitems_engine.training.progress import bar
    from aitems_engine.training.ranker_calibration import calibrate_ranker
    from aitems_engine.training.ranking import best_epoch, train_ranker

    settings = settings_of(args)
    declared = FeatureConfig.from_json(read_json(args.features)) if args.features else None
    contexts = tuple(f.name for f in declared.of(Context)) if declared else ()
    items, log = read_log(args, tuple(name for name in contexts if name not in ("placement", "user_id")))
    if declared is None:
        declared = FeatureConfig.default(items, ("placement",) if "placement" in log.context else ())
    split = split_examples(log, items, declared, window_ms=round(args.window_days * DAY_MS))
    fields = split.features.spec
    began = time.perf_counter()
    with bar(not args.quiet, args.name) as on_step:
        trained = train_ranker(
            split.train, split.validation, fields, settings, checkpoint=args.checkpoint, on_step=on_step
        )
    seconds = time.perf_counter() - began
    calibration = calibrate_ranker(
        trained.validation_logits,
        split.validation,
        fields,
        method=args.calibration,
        segment=PLACEMENT if PLACEMENT in fields.code_names else "",
    )
    scores = evaluate_ranker(Ranker(trained.onnx, fields, calibration).predict(split.test.batch), split.test)
    facts = {
        "ranker": args.name,
        "events": args.events.name,
        "impressions": [len(side) for side in (split.train, split.validation, split.test)],
        "test_begin": split.test_begin,
        "window_days": args.window_days,
        "test": {output: found.values() for output, found in scores.items()},
    }
    digest = write_bundle(args.out, ranker_parts(split.features, trained.onnx, calibration=calibration, facts=facts))
    counted = "".join(f", {n} {what.replace('_', ' ')}" for what, n in log.counts.items() if n)
    print(
        f"{args.name}: {len(split.train)} impressions to learn from, {len(split.validation)} to stop and calibrate by, "
        f"{len(split.test)} newest to test{counted}\n{len(fields.cardinalities)} fields of codes, {fields.dense} dense "
        f"columns; epoch {best_epoch(trained.history)} of {len(trained.history)} is best; {seconds:.1f} s"
    )
    for output, found in scores.items():
        print(f"  {output}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in found.values().items()))
    print(f"ranker {args.out} ({digest[:12]})")
