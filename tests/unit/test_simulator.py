"""The simulated shop: what was asked for is there, exactly, and the same seed gives the same shop."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aitems_engine.errors import InvalidInputError
from aitems_engine.simulator import simulate_shop
from aitems_engine.simulator.tree import build_tree, candidates, leaf_counts

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    made = simulate_shop(tmp_path_factory.mktemp("shop"), products=30_000, leaves=300, seed=5, label_noise=0.1)
    with made.taxonomy.open(encoding="utf-8") as file:
        nodes = list(csv.DictReader(file))
    return {
        "made": made,
        "products": pq.read_table(made.products).to_pydict(),
        "truth": pq.read_table(made.truth).to_pydict(),
        "nodes": nodes,
    }


def leaves_of(nodes: list[dict[str, str]]) -> set[str]:
    return {n["category_id"] for n in nodes} - {n["parent_id"] for n in nodes}


def test_taxonomy_has_four_levels_and_the_leaves_asked_for(shop):
    nodes = shop["nodes"]
    parent = {n["category_id"]: n["parent_id"] for n in nodes}
    assert len(parent) == len(nodes)
    leaves = leaves_of(nodes)
    assert len(leaves) == 300
    for leaf in leaves:
        path = [leaf]
        while parent[path[-1]]:
            path.append(parent[path[-1]])
        assert len(path) == 4
    names = [n["name"] for n in nodes if n["category_id"] in leaves]
    assert len(set(names)) == len(names)


def test_columns_and_truth(shop):
    products, truth = shop["products"], shop["truth"]
    columns = "product_id title mall_id mall_category category price image registered_at"
    assert list(products) == columns.split()
    assert products["product_id"] == truth["product_id"] == sorted(set(products["product_id"]))
    assert products["registered_at"] == sorted(products["registered_at"])
    assert all(products["title"])
    leaves = leaves_of(shop["nodes"])
    assert set(products["category"]) <= leaves
    assert set(truth["true_category"]) <= leaves
    for label, true, kind in zip(products["category"], truth["true_category"], truth["label_noise"], strict=True):
        assert (label == true) == (kind == "none")
        if kind in ("sibling", "pair"):
            assert label[:4] == true[:4]
    wrong = 1 - Counter(truth["label_noise"])["none"] / 30_000
    assert wrong == pytest.approx(0.1, abs=0.01)
    for path, state in zip(products["mall_category"], truth["mall_category_state"], strict=True):
        assert (path is None) == (state == "missing")
        assert path is None or (" > " in path and "  " not in path)


def test_imbalance_is_exact_where_it_can_be():
    rng = np.random.default_rng(0)
    counts = leaf_counts(build_tree(4215, rng), 200_000, 1000.0, rng)
    assert counts.sum() == 200_000
    assert counts.min() == 1
    assert 990 <= counts.max() <= 1010


@pytest.mark.parametrize("leaves", [2, 3, 17, 4215, 5000])
def test_any_number_of_leaves(leaves):
    tree = build_tree(leaves, np.random.default_rng(leaves))
    assert tree.num_leaves == leaves
    assert len(set(tree.leaf_ids.tolist())) == leaves
    assert len({tree.names(i) for i in range(leaves)}) == leaves
    assert sorted(tree.leaf_ids.tolist()) == tree.leaf_ids.tolist()


def test_same_seed_same_shop(tmp_path):
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        made = simulate_shop(tmp_path / name, products=2_500, leaves=40, seed=seed)
        digests.append(json.loads(made.manifest.read_text())["sha256"])
    assert digests[0] == digests[1]
    assert digests[0]["products.parquet"] != digests[2]["products.parquet"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"leaves": 1}, "leaves must be from 2 to"),
        ({"leaves": 10**6}, "leaves must be from 2 to"),
        ({"products": 0}, "products must be from 1"),
        ({"products": 10**9}, "products must be from 1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"label_noise": 1.0}, "label_noise must be from 0 to 0.9"),
        ({"label_noise": float("nan")}, "label_noise must be from 0 to 0.9"),
        ({"imbalance": 0.5}, "imbalance must be from 1"),
    ],
)
def test_impossible_requests(tmp_path: Path, wrong, message):
    with pytest.raises(InvalidInputError, match=message):
        simulate_shop(tmp_path / "shop", **{"products": 10, "leaves": 5, **wrong})
    assert not (tmp_path / "shop").exists()


def test_tiny_shops_work(tmp_path):
    made = simulate_shop(tmp_path, products=1, leaves=2, seed=0)
    assert pq.read_table(made.products).num_rows == 1


def test_word_lists_make_more_leaves_than_the_talk():
    assert sum(len(pairs) for pairs in candidates()) > 4215
