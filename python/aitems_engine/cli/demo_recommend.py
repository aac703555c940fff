"""The second half of the demo: what users of the simulated shop did -> retrievers, a ranker, one bundle -> three pages.

Everything is done by the commands a user would type; they are printed.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from aitems_engine.errors import ConfigError

PAGE = 8
CONFIG: dict[str, Any] = {
    "placements": {
        "home": {
            "retrievers": {"knn": 300, "popularity": 100},
            "objective": "pctr * (0.1 + pcvr)",
            "rules": {
                "rules": [{"rule": "cap", "attribute": "category", "most": 3}, {"rule": "seen"}],
                "relax": ["cap:category"],
            },
        }
    }
}


def commands(shop: Path, out: Path) -> list[list[str]]:
    """Return the commands from events to a bundle."""
    events, products, taxonomy = (str(shop / name) for name in ("events.parquet", "products.parquet", "taxonomy.csv"))
    catalogue = ["--products", products, "--taxonomy", taxonomy, "--events", events]
    ranker = ["train", "ranking", "esmm", *catalogue, "--out", str(out / "esmm"), "--epochs", "3", "--quiet"]
    build = ["bundle", "build", *catalogue, "--config", str(out / "recommender.json"), "--ranker", str(out / "esmm")]
    for name in ("knn", "popularity"):
        build += ["--retriever", f"{name}={out / name}"]
    return [
        ["train", "retrieval", "item-knn", "--events", events, "--out", str(out / "knn"), "--decay", "0.9", "--quiet"],
        ["train", "retrieval", "popularity", "--events", events, "--out", str(out / "popularity"), "--quiet"],
        ranker,
        [*build, "--category", str(out / "bundle"), "--out", str(out / "engine")],
    ]


def recommend(shop: Path, out: Path, users: int, seed: int) -> None:
    """Build the bundle and print a page with its trace for some users."""
    from aitems_engine.catalog import read_products
    from aitems_engine.cli import main
    from aitems_engine.cli.explain import show
    from aitems_engine.engine import Engine
    from aitems_engine.events import read_interactions
    from aitems_engine.recommendation import Request

    (out / "recommender.json").write_text(json.dumps(CONFIG, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for command in commands(shop, out):
        print(f"$ aitems {shlex.join(command)}", flush=True)
        if main(command):
            raise ConfigError(f"'aitems {' '.join(command[:3])}' failed; see above")
    products = read_products(shop / "products.parquet")
    title = dict(zip(products.product_id, products.title, strict=True))
    engine, known = Engine.open(out / "engine"), read_interactions(shop / "events.parquet")
    lengths = np.diff(known.splits)
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(lengths >= 3))[:users].tolist()
    for row in chosen:
        user = known.user_ids[row]
        print(f"\nuser {user}, who clicked or bought, newest last:")
        for item in known.history(row)[-3:].tolist():
            print(f"       {title[known.item_ids[item]][:100]}")
        page = engine.recommend(Request(user_id=user, k=PAGE, request_id=f"demo-{user}"))
        show(page, title)
    print(f"\nagain: aitems recommend --bundle {out / 'engine'} --user {known.user_ids[chosen[0]]} --explain")
