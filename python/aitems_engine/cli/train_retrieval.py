"""Train a retriever on events: from a user's history to the items worth ranking.

NAME is popularity, item-knn, ease, gf-cf, ials, two-tower, sasrec or bert4rec. The result is a directory that holds the
retriever and the histories it was made from. Events are a table with user_id and item_id (Parquet, CSV, TSV, JSONL;
timestamp, event_type and event_id where there are any), RecBole's .inter, or lines of `user item item ...` (.txt).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aitems_engine.errors import InvalidInputError

if TYPE_CHECKING:
    from aitems_engine.events import Interactions
    from aitems_engine.retrieval import Retriever

EXAMPLES = """  aitems train retrieval gf-cf --events events.parquet --out model
  aitems train retrieval ease --events events.csv --column user_id=member --out model --l2 300 --decay 0.9
  aitems train retrieval ials --events history.txt --out model --rank 128 --epochs 12
  aitems train retrieval popularity --events events.parquet --out model --half-life-days 7 --event-type purchase
  aitems train retrieval two-tower --events events.parquet --products products.parquet --out model --checkpoint state
  aitems train retrieval sasrec --events events.parquet --out model --checkpoint state --refit
"""


def sizes(text: str) -> tuple[int, ...]:
    """Return numbers separated by commas."""
    return tuple(int(size) for size in text.split(","))


# option -> (type, retrievers that know it, help)
OPTIONS: dict[str, tuple[Callable[[str], Any], tuple[str, ...], str]] = {
    "half_life_days": (
        float,
        ("popularity",),
        "an interaction so much older than the newest counts half (default: never)",
    ),
    "neighbours": (int, ("item-knn",), "kept for each item (default 100)"),
    "shrinkage": (float, ("item-knn",), "takes back similarities that rest on few users (default 20)"),
    "l2": (float, ("ease", "ials"), "regularisation (default: ease 500, ials 0.002)"),
    "decay": (
        float,
        ("ease", "item-knn", "two-tower"),
        "what one step back in the history costs, above 0 to 1 (default 1)",
    ),
    "rank": (int, ("gf-cf", "ials"), "singular vectors or dimensions (default: gf-cf 256, ials 64)"),
    "alpha": (float, ("gf-cf",), "weight of the ideal low-pass filter (default 0.3)"),
    "user_power": (float, ("gf-cf",), "a user's row is divided by this power of its degree (default 0.5)"),
    "epochs": (
        int,
        ("ials", "two-tower", "sasrec", "bert4rec"),
        "default: ials 16; at most, two-tower 20, sasrec 60, bert4rec 200",
    ),
    "unobserved": (float, ("ials",), "weight of a pair that was not observed (default 0.1)"),
    "dim": (int, ("two-tower", "sasrec", "bert4rec"), "of the vectors (default 64)"),
    "hidden": (sizes, ("two-tower",), "hidden layers of the user tower, e.g. 128,64 (default none)"),
    "temperature": (
        float,
        ("two-tower", "sasrec", "bert4rec"),
        "of the softmax (default: two-tower 0.07, else 0: inner products, not cosines)",
    ),
    "logq": (float, ("two-tower", "sasrec"), "share of log(expected draws) that is subtracted, 0 to 1 (default 1)"),
    "uniform": (int, ("two-tower",), "items drawn uniformly as negatives of a step (default 2048)"),
    "id_dropout": (float, ("two-tower",), "share of items whose attributes stand alone in training (default 0.1)"),
    "validation": (
        int,
        ("two-tower", "sasrec", "bert4rec"),
        "users to stop training by, half of them at most (default: two-tower 2000, else 5000); 0 = none",
    ),
    "patience": (
        int,
        ("two-tower", "sasrec", "bert4rec"),
        "epochs without a better validation before it stops (default: two-tower 3, sasrec 8, bert4rec 20)",
    ),
    "table_learning_rate": (float, ("two-tower",), "of the vectors (default 0.2)"),
    "threads": (int, ("two-tower", "sasrec", "bert4rec"), "0 = as many as torch chooses"),
    "device": (
        str,
        ("two-tower", "sasrec", "bert4rec"),
        "as torch names it, e.g. cpu or cuda:0 (default: GPU if there)",
    ),
    "seed": (int, ("gf-cf", "ials", "two-tower", "sasrec", "bert4rec"), "default 0"),
    "blocks": (int, ("sasrec", "bert4rec"), "of the transformer (default 2)"),
    "heads": (int, ("sasrec", "bert4rec"), "of each block; dim is a multiple (default 2)"),
    "longest": (
        int,
        ("two-tower", "sasrec", "bert4rec"),
        "newest items of a history that are seen (default: two-tower 100, else 50)",
    ),
    "dropout": (float, ("sasrec", "bert4rec"), "default 0.5; less for much data"),
    "history_dropout": (float, ("sasrec",), "share of a history's items that are left out in training (default 0.1)"),
    "loss": (str, ("sasrec",), "full, sampled or gbce (default full: cross entropy over all items)"),
    "mask": (float, ("bert4rec",), "chance of an item to be masked, beside one of each history (default 0.3)"),
    "last": (float, ("bert4rec",), "share of the histories of which the newest item alone is masked (default 0.2)"),
    "negatives": (int, ("sasrec",), "items drawn in a step for sampled and gbce (default 1024)"),
    "tokens": (int, ("sasrec", "bert4rec"), "items of histories in a step (default 1024)"),
    "bfloat16": (bool, ("sasrec", "bert4rec"), "multiply the full cross entropy in bfloat16: faster with AMX"),
    "learning_rate": (float, ("sasrec", "bert4rec"), "of AdamW (default 0.002)"),
    "weight_decay": (float, ("sasrec", "bert4rec"), "of AdamW (default 0)"),
    "refit": (bool, ("sasrec", "bert4rec"), "train anew on everything for as many epochs as were best"),
    "past_only": (bool, ("two-tower",), "learn from the items before the target, not from all others"),
    "products": (Path, ("two-tower",), "file of products: their attributes, and items that no event knows"),
    "taxonomy": (Path, ("two-tower",), "category tree of the products: adds its levels as attributes"),
    "checkpoint": (Path, ("two-tower", "sasrec", "bert4rec"), "file of the training's state, to stop and go on later"),
}
EVENT_EXAMPLE = "user_id=member"
NAMES = ("popularity", "item-knn", "ease", "gf-cf", "ials", "two-tower", "sasrec", "bert4rec")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems train retrieval`."""
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", required=True, type=Path, help="directory of the model")
    configure_events(parser)
    for option, (kind, names, text) in OPTIONS.items():
        form: dict[str, Any] = {"action": "store_const", "const": True} if kind is bool else {"type": kind}
        parser.add_argument(f"--{option.replace('_', '-')}", help=f"{', '.join(names)}: {text}", **form)
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
    if args.name in ("two-tower", "sasrec", "bert4rec"):
        chosen["quiet"] = args.quiet
    fits: dict[str, Callable[..., Retriever]] = {
        "popularity": training.fit_popularity,
        "item-knn": training.fit_item_knn,
        "ease": training.fit_ease,
        "gf-cf": training.fit_gf_cf,
        "ials": training.fit_ials,
        "two-tower": fit_towers,
        "sasrec": partial(fit_sequences, "sasrec"),
        "bert4rec": partial(fit_sequences, "bert4rec"),
    }
    retriever = fits[args.name](interactions, **chosen)
    seconds = time.perf_counter() - began
    facts = {"events": args.events.name, "counts": dict(interactions.counts), "seconds": round(seconds, 2)}
    if retriever.item_ids is not interactions.item_ids:
        interactions = interactions.over(retriever.item_ids)
    digest = save_retriever(args.out, retriever, interactions, facts=facts)
    noticed = "".join(f", {n} {what.replace('_', ' ')}" for what, n in interactions.counts.items() if n)
    print(
        f"{args.name}: {len(interactions)} users, {interactions.num_items} items, {len(interactions.items)} "
        f"interactions{noticed}; trained in {seconds:.1f} s\nmodel {args.out} ({digest[:12]})"
    )


def fit_towers(
    interactions: Interactions,
    *,
    products: Path | None = None,
    taxonomy: Path | None = None,
    checkpoint: Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Retriever:
    """Return the trained two-tower retriever over the items of events and products."""
    from aitems_engine.errors import require_extra

    require_extra("train", "torch")
    from aitems_engine.catalog import ItemTable, Taxonomy, read_products
    from aitems_engine.training.progress import bar
    from aitems_engine.training.two_tower import TwoTowerSettings, best_epoch, fit_two_tower

    if taxonomy is not None and products is None:
        raise InvalidInputError("--taxonomy is for the categories of --products; give both")
    items = None
    if products is not None:
        items = ItemTable.from_products(read_products(products), Taxonomy.read(taxonomy) if taxonomy else None)
        # items that only events know follow those of the file
        interactions = interactions.over(list(dict.fromkeys([*items.item_ids, *interactions.item_ids])))
    with bar(not quiet, "two-tower") as on_step:
        found = fit_two_tower(
            interactions, TwoTowerSettings(**settings), items=items, checkpoint=checkpoint, on_step=on_step
        )
    best = best_epoch(found.history)
    recall = found.history[best - 1].recall
    print(
        f"epoch {best} of {len(found.history)} is best"
        + (f", recall@20 {recall:.4f} on the items kept to stop by" if recall is not None else "")
    )
    return found.retriever


def fit_sequences(
    name: str, interactions: Interactions, *, checkpoint: Path | None = None, quiet: bool = False, **settings: Any
) -> Retriever:
    """Return the trained retriever of that name, sasrec or bert4rec."""
    from aitems_engine.errors import require_extra

    require_extra("train", "torch")
    from aitems_engine.training.bert4rec import Bert4RecSettings, fit_bert4rec
    from aitems_engine.training.progress import bar
    from aitems_engine.training.sasrec import SasrecSettings, fit_sasrec
    from aitems_engine.training.sequences import Fitted, best_epoch

    with bar(not quiet, name) as on_step:
        found: Fitted[Any]
        if name == "sasrec":
            found = fit_sasrec(interactions, SasrecSettings(**settings), checkpoint=checkpoint, on_step=on_step)
        else:
            found = fit_bert4rec(interactions, Bert4RecSettings(**settings), checkpoint=checkpoint, on_step=on_step)
    best = best_epoch(found.history)
    ndcg = found.history[best - 1].ndcg
    print(
        f"epoch {best} of {len(found.history)} is best"
        + (f", NDCG@10 {ndcg:.4f} on the items kept to stop by" if ndcg is not None else "")
        + (f"; trained anew on everything for {found.refitted}" if found.refitted else "")
    )
    retriever: Retriever = found.retriever
    return retriever


def progress(title: str, unit: str) -> Callable[[Iterable[int]], Iterable[int]]:
    """Return a wrapper that shows a progress bar over an iterable on a terminal."""
    if not sys.stderr.isatty():
        return iter
    from tqdm import tqdm

    return lambda steps: tqdm(steps, desc=title, unit=unit)
