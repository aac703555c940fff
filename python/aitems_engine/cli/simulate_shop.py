"""Simulate a Korean shop with known truth: a four-level taxonomy, noisy titles, mall categories and wrong labels."""

from __future__ import annotations

import argparse
import sys
import time

EXAMPLES = """  aitems simulate shop --products 200000 --leaves 4215 --seed 1 --out shop
  aitems simulate shop --products 5000 --leaves 60 --out small-shop        # a quick look
  aitems simulate shop --products 20000 --leaves 400 --users 5000 --out shop   # with what users did
  aitems simulate shop --products 200000 --label-noise 0.2 --out noisy     # to test label cleaning
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--products", type=int, default=200_000, help="how many products (default 200000)")
    parser.add_argument("--leaves", type=int, default=4215, help="how many leaf categories, exactly (default 4215)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed and sizes give the same shop (default 1)")
    parser.add_argument("--label-noise", type=float, default=0.03, help="share of wrong labels (default 0.03)")
    parser.add_argument("--imbalance", type=float, default=1000.0, help="largest leaf to smallest (default 1000)")
    parser.add_argument("--users", type=int, default=0, help="users with sessions, clicks, purchases (default none)")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    from aitems_engine.simulator import simulate_shop

    started = time.monotonic()
    shop = simulate_shop(
        args.out,
        products=args.products,
        leaves=args.leaves,
        seed=args.seed,
        label_noise=args.label_noise,
        imbalance=args.imbalance,
        users=args.users,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    seconds = time.monotonic() - started
    print(f"{shop.num_products} products in {shop.num_leaves} leaves, {seconds:.1f} s")
    for path in (shop.products, shop.truth, shop.taxonomy, *shop.users, shop.manifest):
        print(f"  {path}")
