"""Put a catalogue, retrievers, a ranker, rules and a classifier into one bundle that `Engine.open` answers from.

The configuration is a JSON file: {"placements": {"home": {...}, ...}, "vectors": "ials", "user_mode": {...}}. A
placement names retrievers with quotas, the budget of candidates, the objective and the rules; see
docs/recommendation.md. Without one there is the placement "home" with all retrievers and no rules. Afterwards the
bundle is opened and tried with a few users.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

EXAMPLES = """  aitems bundle build --retriever gf-cf=model --out engine
  aitems bundle build --products products.parquet --taxonomy taxonomy.csv --events events.parquet \\
    --retriever gf-cf=gf-cf --retriever ials=ials --ranker dcn --config recommender.json --out engine
  aitems bundle build --category bundle --retriever gf-cf=model --ads ads.parquet --out engine
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems bundle build`."""
    add = parser.add_argument
    add("--out", required=True, type=Path, help="directory of the bundle")
    add(
        "--retriever",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="directory written by `aitems train retrieval`, and what to call it; may be repeated",
    )
    add("--products", type=Path, help="file of products: attributes and prices for features and rules")
    add("--taxonomy", type=Path, help="category tree of the products: adds its levels as attributes")
    add("--events", type=Path, help="file of events: what is known of users (default: those of the first retriever)")
    add("--ranker", type=Path, help="directory written by `aitems train ranking`")
    add("--ads", type=Path, help="table with item_id and bid")
    add("--config", type=Path, help="placements, as JSON")
    add("--category", type=Path, help="bundle of `aitems train category` to take over")


def run(args: argparse.Namespace) -> None:
    """Build, try and report."""
    from aitems_engine.bundle import Bundle, write_bundle
    from aitems_engine.catalog import ItemTable, Taxonomy, read_products
    from aitems_engine.catalog.products import Products
    from aitems_engine.cli import read_json
    from aitems_engine.engine import RECOMMENDER, Engine
    from aitems_engine.errors import InvalidInputError
    from aitems_engine.events import read_interactions
    from aitems_engine.recommendation import (
        DEFAULT_CONFIG,
        Request,
        read_ads,
        read_query_specificity,
        recommender_parts,
    )
    from aitems_engine.retrieval import open_retriever

    opened = {name: open_retriever(path) for name, path in _named(args.retriever).items()}
    products = read_products(args.products) if args.products else Products.from_columns([])
    items = ItemTable.from_products(products, Taxonomy.read(args.taxonomy) if args.taxonomy else None)
    # items that only events know follow those of the file
    known = dict.fromkeys(items.item_ids)
    for retriever, _ in opened.values():
        known.update(dict.fromkeys(retriever.item_ids))
    if len(known) > len(items):
        items = items.over(list(known))
    histories = read_interactions(args.events) if args.events else next(iter(opened.values()))[1]
    if histories is None:
        raise InvalidInputError("the first retriever was saved without histories; give them with --events")
    histories = histories.over(items.item_ids)
    config = read_json(args.config) if args.config else DEFAULT_CONFIG
    asked = args.events and isinstance(config, dict) and "user_mode" in config
    parts = recommender_parts(
        items,
        {name: retriever for name, (retriever, _) in opened.items()},
        histories,
        ranker=Bundle.open(args.ranker) if args.ranker else None,
        ads=read_ads(args.ads, items) if args.ads else None,
        queries=read_query_specificity(args.events, items) if asked else None,
        config=config,
    )
    if args.category:
        category = Bundle.open(args.category)
        if RECOMMENDER in category.parts:
            raise InvalidInputError(f"--category: '{args.category}' has a recommender; give a bundle of train category")
        parts |= {name: category.file(name) for name in category.parts}
    digest = write_bundle(args.out, parts)
    engine = Engine.open(args.out)
    placements = engine.describe()["recommender"]["placements"]
    pages = engine.recommend_many([Request(user_id=u, placement=p) for p in placements for u in histories.user_ids[:8]])
    print(f"{args.out}: {len(items)} items, {len(histories)} users, placements {', '.join(placements)}")
    print(f"digest {digest}")
    for flag, count in Counter(flag for page in pages for flag in page.flags).items():
        print(f"note: {flag} ({count} of {len(pages)} pages tried)")


def _named(options: list[str]) -> dict[str, Path]:
    from aitems_engine.errors import InvalidInputError

    named: dict[str, Path] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) or not path or name in named:
            raise InvalidInputError(
                f"--retriever must be NAME=DIR with distinct names of letters, digits, '-' and '_', got '{option}'"
            )
        named[name] = Path(path)
    return named
