"""Splits: every row on one side, nothing from the future, the same every time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.catalog import Products
from aitems_engine.catalog.splits import (
    Split,
    find_leaks,
    order_keys,
    split_by_order,
    split_grouped,
    split_stratified,
)
from aitems_engine.errors import InvalidInputError


def assert_partition(split: Split, rows: int) -> None:
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together.tolist()) == list(range(rows))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60))
def test_by_order(keys: list[int]) -> None:
    split = split_by_order(keys)
    assert_partition(split, len(keys))
    sides = [[keys[i] for i in side] for side in (split.train, split.validation, split.test)]
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if sides[earlier] and sides[later]:
            assert max(sides[earlier]) < min(sides[later])


def test_by_order_has_its_shares() -> None:
    split = split_by_order(np.arange(1000)[::-1], (0.7, 0.1, 0.2))
    assert split.describe() == "train 700, validation 100, test 200"
    assert split.train[0] == 999
    assert split.test.tolist() == list(range(199, -1, -1))


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=80), st.integers(0, 5))
def test_stratified(labels: list[str], seed: int) -> None:
    split = split_stratified(labels, seed=seed)
    assert_partition(split, len(labels))
    again = split_stratified(labels, seed=seed)
    assert split.train.tolist() == again.train.tolist()
    for label, count in Counter(labels).items():
        in_train = sum(labels[i] == label for i in split.train)
        assert 0.7 * count - 1e-6 <= in_train < 0.7 * count + 1


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 5))
def test_grouped(groups: list[int], seed: int) -> None:
    split = split_grouped(groups, seed=seed)
    assert_partition(split, len(groups))
    assert find_leaks(split, groups) == []
    more = split_grouped([*groups, 99, 100], seed=seed)
    assert set(split.test.tolist()) <= set(more.test.tolist())


def test_grouped_meets_its_shares_on_average() -> None:
    split = split_grouped([f"mall {i}" for i in range(20_000)], (0.6, 0.1, 0.3))
    shares = np.array([len(split.train), len(split.validation), len(split.test)]) / 20_000
    np.testing.assert_allclose(shares, [0.6, 0.1, 0.3], atol=0.01)


def test_leaks_are_found() -> None:
    titles = ["a", "b", "a", None, None, "c", "b"]
    split = Split(np.array([0, 1, 3]), np.array([5]), np.array([2, 4, 6]))
    (leak,) = find_leaks(split, titles)
    assert leak.sides == ("train", "test")
    assert (leak.values, leak.rows, leak.examples) == (2, 2, ("a", "b"))
    assert str(leak) == "2 values of train stand in 2 rows of test as well, e.g. 'a', 'b'"


def test_order_keys() -> None:
    assert order_keys(Products.from_columns(["x", "y"], registered_at=[5, 3])).tolist() == [5, 3]
    assert order_keys(Products.from_columns(["x", "y"], product_id=["10", "9"], registered_at=[5, -1])).tolist() == [
        10,
        9,
    ]
    with pytest.raises(
        InvalidInputError, match="registered_at is missing in 2 of 2 rows and ids are not whole numbers"
    ):
        order_keys(Products.from_columns(["x", "y"], product_id=["a", "b"]))


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.2), (-0.1, 0.6, 0.5), (1.0, 0.1, -0.1)])
def test_wrong_fractions(fractions: tuple[float, ...]) -> None:
    for split in (split_by_order, split_stratified, split_grouped):
        with pytest.raises(InvalidInputError, match="fractions must be three numbers >= 0 that add up to 1"):
            split([1, 2, 3], fractions)


@pytest.mark.parametrize("keys", [[], [1.0, float("nan")], np.zeros((2, 2))])
def test_wrong_keys(keys: Any) -> None:
    with pytest.raises(InvalidInputError, match="keys must"):
        split_by_order(keys)
