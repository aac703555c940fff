"""Train a retriever on events: from a user's history to the items worth ranking.

NAME is popularity, item-knn, ease, gf-cf or ials. The result is a directory that holds the retriever and the histories
it was made from. Events are a table with user_id and item_id (Parquet, CSV, TSV, JSONL; timestamp, event_type and
event_id where there are any), RecBole's .inter, or lines of `user item item ...` (.txt).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from aitems_engine.errors import InvalidInputError

if TYPE_CHECKING:
    from aitems_engine.events import Interactions
    from aitems_engine.retrieval import Retriever

EXAMPLES = """  aitems train retrieval gf-cf --events events.parquet --out model
  aitems train retrieval ease --events events.csv --column user_id=member --out model --l2 300 --decay 0.9
  aitems train retrieval ials --events history.txt --out model --rank 128 --epochs 12
  aitems train retrieval popularity --events events.parquet --out model --half-life-days 7 --event-type purchase
"""
# option -> (type, retrievers that know it, help)
OPTIONS: dict[str, tuple[type, tuple[str, ...], str]] = {
    "half_life_days": (
        float,
        ("popularity",),
        "an interaction so much older than the newest counts half (default: never)",
    ),
    "neighbours": (int, ("item-knn",), "kept for each item (default 100)"),
    "shrinkage": (float, ("item-knn",), "takes back similarities that rest on few users (default 20)"),
    "l2": (float, ("ease", "ials"), "regularisation (default: ease 500, ials 0.002)"),
    "decay": (float, ("ease", "item-knn"), "what one step back in the history costs, above 0 to 1 (default 1)"),
    "rank": (int, ("gf-cf", "ials"), "singular vectors or dimensions (default: gf-cf 256, ials 64)"),
    "alpha": (float, ("gf-cf",), "weight of the ideal low-pass filter (default 0.3)"),
    "epochs": (int, ("ials",), "default 16"),
    "unobserved": (float, ("ials",), "weight of a pair that was not observed (default 0.1)"),
    "seed": (int, ("gf-cf", "ials"), "default 0"),
}
EVENT_EXAMPLE = "user_id=member"
NAMES = ("popularity", "item-knn", "ease", "gf-cf", "ials")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems train retrieval`."""
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", required=True, type=Path, help="directory of the model")
    configure_events(parser)
    for option, (kind, names, text) in OPTIONS.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, help=f"{', '.join(names)}: {text}")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def configure_events(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is read."""
    from aitems_engine.events.readers import EVENT_TYPES, POSITIVE_TYPES

    parser.add_argument("--events", required=True, type=Path, help="file of events")
    parser.add_argument(
        "--column", action="append", default=[], metavar="FIELD=NAME", help="column of a field, where it is not guessed"
    )
    parser.add_argument(
        "--event-type",
        action="append",
        choices=EVENT_TYPES,
        help=f"events that count, may be repeated (default {', '.join(POSITIVE_TYPES)})",
    )


def read_events(args: argparse.Namespace) -> Interactions:
    """Return the `Interactions` the arguments name."""
    from aitems_engine.catalog.columns import parse_column_options
    from aitems_engine.events import read_interactions
    from aitems_engine.events.readers import EVENT_COLUMNS, POSITIVE_TYPES

    columns = parse_column_options(args.column, EVENT_COLUMNS, EVENT_EXAMPLE)
    return read_interactions(args.events, columns=columns, event_types=args.event_type or POSITIVE_TYPES)


def run(args: argparse.Namespace) -> None:
    """Train and write."""
    from aitems_engine.retrieval import save_retriever
    from aitems_engine.training import retrieval as training

    chosen = {option: getattr(args, option) for option in OPTIONS if getattr(args, option) is not None}
    for option in chosen:
        if args.name not in OPTIONS[option][1]:
            raise InvalidInputError(
                f"--{option.replace('_', '-')} is for {', '.join(OPTIONS[option][1])}, not for {args.name}"
            )
    interactions = read_events(args)
    began = time.perf_counter()
    if args.name == "ials":
        chosen["progress"] = iter if args.quiet else progress("ials", "epoch")
    fits: dict[str, Callable[..., Retriever]] = {
        "popularity": training.fit_popularity,
        "item-knn": training.fit_item_knn,
        "ease": training.fit_ease,
        "gf-cf": training.fit_gf_cf,
        "ials": training.fit_ials,
    }
    retriever = fits[args.name](interactions, **chosen)
    seconds = time.perf_counter() - began
    facts = {"events": args.events.name, "counts": dict(interactions.counts), "seconds": round(seconds, 2)}
    digest = save_retriever(args.out, retriever, interactions, facts=facts)
    noticed = "".join(f", {n} {what.replace('_', ' ')}" for what, n in interactions.counts.items() if n)
    print(
        f"{args.name}: {len(interactions)} users, {interactions.num_items} items, {len(interactions.items)} "
        f"interactions{noticed}; trained in {seconds:.1f} s\nmodel {args.out} ({digest[:12]})"
    )


def progress(title: str, unit: str) -> Callable[[Iterable[int]], Iterable[int]]:
    """Return a wrapper that shows a progress bar over an iterable on a terminal."""
    if not sys.stderr.isatty():
        return iter
    from tqdm import tqdm

    return lambda steps: tqdm(steps, desc=title, unit=unit)
