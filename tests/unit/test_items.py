"""The catalogue of a recommender: codes, positions, what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from aitems_engine.catalog import ItemTable, Products, Taxonomy
from aitems_engine.errors import DataError, InvalidInputError


def table() -> ItemTable:
    return ItemTable.from_columns(
        ["a", "b", "c"], {"mall": ["m1", None, "m1"]}, {"price": [1.0, np.nan, 3.0]}, np.array([5, -1, 7])
    )


def test_attributes_become_codes() -> None:
    items = table()
    assert items.codes["mall"].tolist() == [0, -1, 0]
    assert items.names["mall"] == ["m1"]
    assert items.positions(["c", "?", "a"]).tolist() == [2, -1, 0]


def test_levels_of_the_taxonomy() -> None:
    tree = Taxonomy.from_csv("category_id,parent_id,name\nt,,Top\nm,t,Middle\nl,m,Leaf\n")
    products = Products.from_columns(["x", "y", "z"], category=["l", None, "elsewhere"], price=[1, 2, np.nan])
    items = ItemTable.from_products(products, tree)
    assert [items.names[f"category_{i}"] for i in (1, 2)] == [["t"], ["m"]]
    assert items.codes["category_1"].tolist() == [0, -1, -1]
    assert items.codes["category"].tolist() == [0, -1, 1]
    assert "category_3" not in items.codes


def test_over_another_catalogue() -> None:
    other = table().over(["c", "new", "a"])
    assert other.codes["mall"].tolist() == [0, -1, 0]
    np.testing.assert_array_equal(other.numbers["price"], np.array([3, np.nan, 1], np.float32))
    assert other.registered_at.tolist() == [7, -1, 5]


def test_arrays_restore() -> None:
    items = table()
    again = ItemTable.restore(items.item_ids, items.names, items.arrays())
    assert again.item_ids == items.item_ids
    assert again.arrays().keys() == items.arrays().keys()
    for name, values in items.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: parts[2].update({"codes.mall": np.array([0, 1, 0], np.int32)}),
        lambda parts: parts[2].update({"numbers.price": np.zeros(2, np.float32)}),
        lambda parts: parts[2].pop("registered_at"),
        lambda parts: parts[1].pop("mall"),
        lambda parts: parts[0].append("d"),
    ],
)
def test_parts_that_do_not_fit(spoil: object) -> None:
    items = table()
    parts = (list(items.item_ids), dict(items.names), items.arrays())
    spoil(parts)  # type: ignore[operator]
    with pytest.raises(DataError, match="do not fit"):
        ItemTable.restore(*parts)


def test_ids_must_be_distinct() -> None:
    with pytest.raises(InvalidInputError, match="distinct"):
        ItemTable.from_columns(["a", "a"])


def test_empty() -> None:
    assert len(ItemTable.from_columns([], {"mall": []}, {"price": []})) == 0
