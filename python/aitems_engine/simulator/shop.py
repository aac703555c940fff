"""Makes a Korean shop with known truth: products with noisy titles, labels and mall categories, and what is so.

The order of work: tree -> products a leaf -> days -> (a chunk at a time) slots -> titles, malls, labels -> files. A
leaf, a label and a time a product are held for the whole shop; all else lives for one chunk, so memory stays flat.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine import __version__
from aitems_engine.errors import InvalidInputError, require_extra
from aitems_engine.simulator.ceiling import Ceiling
from aitems_engine.simulator.event_files import write_users
from aitems_engine.simulator.malls import STATES, Malls
from aitems_engine.simulator.titles import Slots, Titles
from aitems_engine.simulator.tree import Tree, build_tree, leaf_counts, season_demand
from aitems_engine.simulator.users import simulate_log
from aitems_engine.simulator.world import DAY_MS, Categories, Items, World, check_users
from aitems_engine.simulator.writing import Writer

CHUNK = 20_000
MAX_PRODUCTS = 100_000_000
IMBALANCE = 1000.0
FIRST_DAY_MS = 1_672_498_800_000  # 2023-01-01 00:00 in Seoul
DAYS = 731  # two years, one of them a leap year
NOISE_KINDS = ("none", "sibling", "pair", "random")
NOISE_SHARES = (0.6, 0.25, 0.15)  # of the wrong labels: a neighbour in the section, the leaf's usual mix-up, any leaf


@dataclass(frozen=True)
class SimulatedShop:
    """Where the files of a shop lie and what it holds."""

    products: Path
    truth: Path
    taxonomy: Path
    manifest: Path
    num_products: int
    num_leaves: int
    users: tuple[Path, ...] = ()
    """The files named in `event_files.FILES`, where users were asked for."""


def simulate_shop(
    out: str | Path,
    *,
    products: int = 200_000,
    leaves: int = 4215,
    seed: int = 1,
    label_noise: float = 0.03,
    imbalance: float = IMBALANCE,
    users: int = 0,
    progress: bool = False,
) -> SimulatedShop:
    """Write a shop into the folder `out`: products.parquet, truth.parquet, taxonomy.csv, manifest.json, README.md.

    With users also the files named in `event_files.FILES`.

    Parameters
    ----------
    out : path
        Folder to write to; made if it is not there.
    products : int
        1 to 100,000,000; ids ascend with the time of registration.
    leaves : int
        Exactly this many leaves, 2 to what the word lists make (more than 5,000).
    seed : int >= 0
        The same seed and sizes give the same rows.
    label_noise : float
        Share of products whose `category` is wrong, 0 to 0.9; the true one is in truth.parquet.
    imbalance : float >= 1
        Ratio of the most to the least frequent leaf; see `tree.leaf_counts`.
    users : int
        0 to 10,000,000; each brings about 80 impressions, held in memory at 100 bytes each.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InvalidInputError
        A size or share outside its range.
    MissingExtraError
        pyarrow is not installed (extra ``train``).

    Notes
    -----
    One core writes about 60,000 products a second. Memory: 20 bytes a product and one chunk of 20,000.
    """
    check(products, seed, label_noise, imbalance)
    check_users(users)
    require_extra("train", "pyarrow")
    import pyarrow.parquet as pq

    seeds = np.random.SeedSequence(seed)
    tree_seed, count_seed, habit_seed, mall_seed, time_seed, label_seed, chunk_seed, user_seed = seeds.spawn(8)
    tree = build_tree(leaves, np.random.default_rng(tree_seed))
    counts = leaf_counts(tree, products, imbalance, np.random.default_rng(count_seed))
    titles = Titles(tree, np.random.default_rng(habit_seed))
    malls = Malls(tree, counts, np.random.default_rng(mall_seed))
    leaf, when = arrange(tree, counts, np.random.default_rng(time_seed))
    label, noise = mislabel(tree, leaf, label_noise, np.random.default_rng(label_seed))

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    shop = SimulatedShop(
        folder / "products.parquet",
        folder / "truth.parquet",
        folder / "taxonomy.csv",
        folder / "manifest.json",
        products,
        leaves,
    )
    tree.write(shop.taxonomy)
    writer = Writer(titles)
    ceiling = Ceiling(titles, malls, counts)
    starts = range(0, products, CHUNK)
    prices, mall_of = np.zeros(products if users else 0), np.zeros(products if users else 0, np.int32)
    with (
        pq.ParquetWriter(shop.products, product_schema()) as rows,
        pq.ParquetWriter(shop.truth, truth_schema()) as facts,
    ):
        chunks = zip(starts, chunk_seed.spawn(len(starts)), strict=True)
        for start, chunk in progress_bar(chunks, products, progress):
            part = slice(start, min(products, start + CHUNK))
            slot_rng, word_rng, mall_rng, price_rng = (np.random.default_rng(s) for s in chunk.spawn(4))
            slots = titles.draw(leaf[part], (when[part] - FIRST_DAY_MS) / (DAYS * DAY_MS), slot_rng)
            written = writer.write(slots, word_rng)
            mall = malls.draw(leaf[part], mall_rng)
            ceiling.add(leaf[part], slots, mall)
            price = titles.prices(tree.noun[leaf[part]], price_rng)
            if users:
                prices[part], mall_of[part] = price, mall.mall
            ids = [f"{i:010d}" for i in range(part.start + 1, part.stop + 1)]
            image = [f"images/{m[-2:]}/{i}.jpg" for m, i in zip((malls.ids[m] for m in mall.mall), ids, strict=True)]
            rows.write_table(
                product_table(
                    ids,
                    written,
                    [malls.ids[m] for m in mall.mall],
                    mall.path,
                    tree.leaf_ids[label[part]],
                    price,
                    image,
                    when[part],
                )
            )
            facts.write_table(truth_table(ids, tree.leaf_ids[leaf[part]], noise[part], slots, mall.state))
    if users:
        product_ids = np.char.zfill(np.arange(1, products + 1).astype(str), 10)
        world = World.draw(
            Items(tree.noun[leaf], leaf, mall_of, prices, when),
            Categories.of_rows(tree.rows, type_peaks(tree)),
            users,
            FIRST_DAY_MS,
            FIRST_DAY_MS + DAYS * DAY_MS,
            rng := np.random.default_rng(user_seed),
        )
        shop = replace(shop, users=write_users(folder, world, *simulate_log(world, rng), product_ids))
    describe(shop, counts, ceiling.accuracy(), {"seed": seed, "label_noise": label_noise, "imbalance": imbalance})
    return shop


def check(products: int, seed: int, label_noise: float, imbalance: float) -> None:
    if not 1 <= products <= MAX_PRODUCTS:
        raise InvalidInputError(f"products must be from 1 to {MAX_PRODUCTS}, got {products}")
    if seed < 0:
        raise InvalidInputError(f"seed must be 0 or more, got {seed}")
    if not 0 <= label_noise <= 0.9:
        raise InvalidInputError(f"label_noise must be from 0 to 0.9, got {label_noise}")
    if not 1 <= imbalance <= 1e6:
        raise InvalidInputError(f"imbalance must be from 1 to 1000000, got {imbalance}")


def progress_bar(chunks: Any, products: int, shown: bool) -> Any:
    if not shown:
        yield from chunks
        return
    require_extra("train", "tqdm")
    from tqdm import tqdm

    with tqdm(total=products, unit=" products", unit_scale=True, desc="simulating") as bar:
        for start, seed in chunks:
            yield start, seed
            bar.update(min(CHUNK, products - start))


def arrange(
    tree: Tree, counts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the leaf and the time (ms) of each product, in the order of time.

    The shop grows by half over the two years; a leaf with a season sells up to ten times as much in its peak month.
    """
    leaf = np.repeat(np.arange(tree.num_leaves, dtype=np.int32), counts)
    month = np.arange(24) % 12 + 1
    growth = np.linspace(1.0, 1.5, 24)
    day = np.empty(len(leaf))
    peak = tree.peak_month[leaf]
    for season in range(13):
        rows = np.flatnonzero(peak == season)
        weight = growth * season_demand(season, month)
        picked = np.searchsorted(np.cumsum(weight / weight.sum())[:-1], rng.random(len(rows)))
        day[rows] = (picked + rng.random(len(rows))) * (DAYS / 24)
    when = FIRST_DAY_MS + (day * DAY_MS).astype(np.int64)
    order = np.argsort(when, kind="stable")
    return leaf[order], when[order]


def type_peaks(tree: Tree) -> NDArray[np.int8]:
    """Return the peak month of each product type, 0 without a season."""
    peaks = np.zeros(len(tree.noun_names), np.int8)
    peaks[tree.noun] = tree.peak_month
    return peaks


def mislabel(
    tree: Tree, leaf: NDArray[np.int32], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return each product's label and the kind of its error (index into NOISE_KINDS); a wrong label is never right."""
    n, leaves = len(leaf), tree.num_leaves
    kind = np.zeros(n, np.int8)
    wrong = rng.random(n) < share
    kind[wrong] = rng.choice(np.arange(1, 4), size=int(wrong.sum()), p=NOISE_SHARES)
    start = np.searchsorted(tree.section, tree.section)
    size = np.bincount(tree.section)[tree.section]
    # an offset of 1..size-1 within the section; a section of one leaf falls back to any other leaf
    pair = start + (np.arange(leaves) - start + 1 + rng.integers(0, 2**31, leaves) % np.maximum(size - 1, 1)) % size
    lonely = size[leaf] < 2
    sibling = (
        start[leaf] + (leaf - start[leaf] + 1 + rng.integers(0, 2**31, n) % np.maximum(size[leaf] - 1, 1)) % size[leaf]
    )
    anything = (leaf + 1 + rng.integers(0, leaves - 1, n)) % leaves
    kind[(kind > 0) & lonely] = 3
    label = np.select([kind == 1, kind == 2, kind == 3], [sibling, pair[leaf], anything], leaf).astype(np.int32)
    return label, kind


def product_schema() -> Any:
    import pyarrow as pa

    text = ("product_id", "title", "mall_id", "mall_category", "category")
    numbers = [("price", pa.float64()), ("image", pa.string()), ("registered_at", pa.int64())]
    return pa.schema([*((name, pa.string()) for name in text), *numbers])


def product_table(
    ids: list[str],
    titles: list[str],
    malls: list[str],
    paths: list[str],
    labels: NDArray[np.str_],
    price: NDArray[np.float64],
    image: list[str],
    when: NDArray[np.int64],
) -> Any:
    import pyarrow as pa

    columns = [
        pa.array(ids),
        pa.array(titles),
        pa.array(malls),
        pa.array([path or None for path in paths], pa.string()),
        pa.array(labels.tolist()),
        pa.array(price, from_pandas=True),
        pa.array(image),
        pa.array(when),
    ]
    return pa.table(columns, schema=product_schema())


def truth_schema() -> Any:
    import pyarrow as pa

    text = ("product_id", "true_category", "label_noise", "mall_category_state")
    flags = ("noun_stated", "qualifier_stated", "keyword_abuse")
    return pa.schema([*((name, pa.string()) for name in text), *((name, pa.bool_()) for name in flags)])


def truth_table(
    ids: list[str], true: NDArray[np.str_], noise: NDArray[np.int8], slots: Slots, mall_state: NDArray[np.int8]
) -> Any:
    import pyarrow as pa

    columns = [
        pa.array(ids),
        pa.array(true.tolist()),
        pa.array([NOISE_KINDS[k] for k in noise.tolist()]),
        pa.array([STATES[k] for k in mall_state.tolist()]),
        pa.array(slots.noun_kind == 0),
        pa.array(slots.qualifier >= 0),
        pa.array((slots.abuse >= 0).any(axis=1)),
    ]
    return pa.table(columns, schema=truth_schema())


def describe(
    shop: SimulatedShop, counts: NDArray[np.int64], ceiling: dict[str, float], settings: dict[str, float]
) -> None:
    """Write manifest.json (sizes, settings, SHA-256 of each file) and README.md."""
    files = {path.name: sha256(path) for path in (shop.products, shop.truth, shop.taxonomy, *shop.users)}
    manifest = {
        "format_version": 1,
        "made_by": f"aitems-engine {__version__} simulate shop",
        "products": shop.num_products,
        "leaves": shop.num_leaves,
        "leaves_with_products": int((counts > 0).sum()),
        "largest_leaf": int(counts.max()),
        "smallest_leaf": int(counts.min()),
        "first_day_ms": FIRST_DAY_MS,
        "days": DAYS,
        **settings,
        "accuracy_ceiling": ceiling,
        "sha256": files,
    }
    shop.manifest.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    text = f"""# A simulated shop

{shop.num_products:,} products in {shop.num_leaves:,} leaves, made by `aitems simulate shop` (seed {settings["seed"]}).
Every word and brand is invented; figures measured on these files are simulated figures.

| file | what |
|---|---|
| products.parquet | product_id, title, mall_id, mall_category, category, price, image, registered_at |
| truth.parquet | product_id, true_category, label_noise, mall_category_state, and flags of the title |
| taxonomy.csv | category_id, parent_id, name: four levels |
| manifest.json | sizes, settings and the SHA-256 of each file |

- `category` is the label, wrong for {settings["label_noise"]:.1%} of the products; `price` is in won, `image` a name
  only, `registered_at` milliseconds since 1970.
- `label_noise`: none, sibling (a neighbour in the section), pair (the leaf's usual mix-up), random.
- `mall_category_state`: right, missing, wrong (a neighbour), abused (a popular leaf of the mall, to be seen).
- `noun_stated`, `qualifier_stated`: whether the title names the two words of its leaf; `keyword_abuse`: whether it
  also names other product types.
- Nobody can do better against the truth than {ceiling["title"]:.1%} from the title and
  {ceiling["title_and_mall"]:.1%} from title and mall category (see docs/simulator.md); a classifier does worse.

Never train on truth.parquet: it is there to measure against.
"""
    if shop.users:
        text += """
events.parquet holds what users did (impression, click, purchase), users_truth.parquet the product types they like, and
impressions_truth.parquet the probabilities with which each shown item was clicked and, once clicked, bought.
"""
    shop.manifest.with_name("README.md").write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
