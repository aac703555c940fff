"""The readers on real files, where they are there (AITEMS_DATA)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aitems_engine.catalog import Taxonomy, read_products
from aitems_engine.catalog.splits import find_leaks, order_keys, split_by_order, split_grouped
from aitems_engine.errors import DataError, TaxonomyError

DATA = Path(os.environ.get("AITEMS_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))
pytestmark = [pytest.mark.data, pytest.mark.skipif(not (DATA / "danawa").is_dir(), reason="AITEMS_DATA is not there")]


def test_danawa() -> None:
    path = DATA / "danawa" / "products.tsv"
    with pytest.raises(DataError, match=r"'1543809' stands in product 1763 .* \(50 such rows in all\)"):
        read_products(path)
    p = read_products(path, require=("title", "category", "price"), duplicate_ids="first")
    assert len(p) == 48_074
    assert len(set(p.category)) == 17
    assert p.title[0] == "Labtec ELITE-835"
    assert (p.price >= 0).all()
    split = split_by_order(order_keys(p))
    assert abs(len(split.test) - 0.2 * len(p)) < 1
    ids = np.array(p.product_id, dtype=np.int64)
    assert ids[split.train].max() < ids[split.validation].min() < ids[split.test].min()
    clean = split_grouped(p.title)
    assert find_leaks(clean, p.title) == []


def test_amazon() -> None:
    path = DATA / "amazon_in" / "products.csv"
    p = read_products(path, columns={"category": "sub_category", "price": "actual_price"})
    assert len(p) == 10_830
    assert len(set(p.category)) == 112
    assert np.isfinite(p.price).sum() > 10_000
    assert Counter(p.title).most_common(1)[0][1] > 1


def test_retrotech() -> None:
    path = DATA / "retrotech" / "products.csv"
    with pytest.raises(DataError, match=r"line 60: .* escaped by a backslash"):
        read_products(path)
    p = read_products(path, csv_escape="\\", duplicate_ids="keep")
    assert len(p) == 48_194
    assert p.title[0] == "Fists of Bruce Lee - Dolby - DVD"


def test_bestbuy_tree_is_refused_as_it_is_and_loads_repaired() -> None:
    path = DATA / "bestbuy_tree" / "categories.csv"
    with pytest.raises(TaxonomyError, match=r"row 3: parent 'abcat0020000' .* \(363 such rows in all\)"):
        Taxonomy.read(path)
    t = Taxonomy.read(path, repair=True)
    assert len(t.leaf_ids) == 3_789
    assert t.path("abcat0020001") == "Gift Ideas > Kids > Toys > Learning Toys"
    assert len({t.path(leaf) for leaf in t.leaf_ids}) == len(t.leaf_ids)
    assert len([r for r in t.repairs if "not unique" in r]) == 4
    again = Taxonomy.from_csv(t.to_csv())
    assert again.leaf_ids == t.leaf_ids
    assert [again.path(leaf) for leaf in again.leaf_ids] == [t.path(leaf) for leaf in t.leaf_ids]
    p = np.random.default_rng(0).dirichlet(np.ones(len(t.leaf_ids)), 20)
    nodes = t.node_probabilities(p)
    np.testing.assert_allclose(nodes[:, t.positions(t.top_ids)].sum(axis=1), 1, rtol=1e-6)
    for i, node in enumerate(t.node_ids):
        children = np.flatnonzero(t.parents == i)
        if len(children):
            np.testing.assert_allclose(nodes[:, i], nodes[:, children].sum(axis=1), rtol=1e-5, atol=1e-9, err_msg=node)


def test_a_wrong_mapping_is_noticed() -> None:
    with pytest.raises(DataError, match="closest: 'name'"):
        read_products(DATA / "danawa" / "products.tsv", columns={"title": "nama"})
