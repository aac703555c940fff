"""Measure rankers on impressions, side by side: AUC, gAUC, log loss, calibration, with intervals and pictures.

Only impressions from the moment on at which every model's own test begins are judged, unless --all is given. Writes
report.html (one file), report.md with its pictures, and metrics.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from aitems_engine.cli.train_ranking import configure_log, read_log
from aitems_engine.errors import InvalidInputError

EXAMPLES = """  aitems evaluate ranking --model ranker --events events.parquet --products products.parquet --out report
  aitems evaluate ranking --model dcn --model esmm --events later.csv --products products.csv --all --out report
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems evaluate ranking`."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=Path,
        help="directory written by `aitems train ranking`, may be repeated",
    )
    configure_log(parser)
    parser.add_argument("--out", required=True, type=Path, help="directory of the report")
    parser.add_argument("--all", action="store_true", help="all impressions: of events that no model was trained on")


def run(args: argparse.Namespace) -> None:
    """Measure, print, write the report."""
    from aitems_engine.bundle import Bundle
    from aitems_engine.evaluation.rankers import evaluate_ranker, examples_since, write_ranker_report
    from aitems_engine.ranking import open_ranker
    from aitems_engine.ranking.declaration import Context
    from aitems_engine.ranking.examples import DAY_MS
    from aitems_engine.ranking.ranker import HEAD

    if args.out.exists() and not args.out.is_dir():
        raise InvalidInputError(f"--out must be a directory, '{args.out}' is a file")
    names = [path.name for path in args.model]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"models must have different names, got {', '.join(names)}")
    bundles = {name: Bundle.open(path) for name, path in zip(names, args.model, strict=True)}
    facts = {name: bundle.read_json(HEAD)["facts"] for name, bundle in bundles.items()}
    items, log = read_log(args)
    since = 0 if args.all else max(int(fact.get("test_begin", 0)) for fact in facts.values())
    found = {}
    for name, bundle in bundles.items():
        features, ranker = open_ranker(bundle, items)
        lacking = [f.name for f in features.config.of(Context) if f.name not in log.context]
        if lacking:
            raise InvalidInputError(f"model '{name}' needs the context {', '.join(lacking)}, which the events lack")
        window = round(float(facts[name].get("window_days", 7.0)) * DAY_MS)
        examples = examples_since(log, features, since, window_ms=window)
        found[name] = evaluate_ranker(ranker.predict(examples.batch), examples)
    html = write_ranker_report(args.out, found, data=f"{args.events.name}: {len(examples)} impressions.")
    for name, scores in found.items():
        for output, measured in scores.items():
            print(f"{name}, {output}: " + ", ".join(f"{k} {v:.4f}" for k, v in measured.values().items()))
    print(f"report: {html}")
    (args.out / "metrics.json").write_text(
        json.dumps({n: {o: m.values() for o, m in scores.items()} for n, scores in found.items()}, indent=1) + "\n",
        encoding="utf-8",
    )
