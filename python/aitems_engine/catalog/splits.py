"""Rows -> training, validation and test: by order (time or id), stratified, or grouped; the same every time.

For claims use `split_by_order`: a random split lets a model see the future and flatters it (docs/category.md). A
split is checked by `find_leaks`: the same title on both sides is the usual way a result becomes too good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.products import Products
from aitems_engine.errors import InvalidInputError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of each side, int64: ascending, or in the order of the keys after `split_by_order`."""

    train: Rows
    validation: Rows
    test: Rows

    def describe(self) -> str:
        """Return the sizes as one line."""
        return f"train {len(self.train)}, validation {len(self.validation)}, test {len(self.test)}"


def split_by_order(keys: Sequence[Any] | npt.NDArray[Any], fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Split:
    """Return the oldest rows for training and the newest for testing.

    Parameters
    ----------
    keys : sequence of numbers or str, one a row
        Times or ids that grow with time; see `order_keys`.
    fractions : three numbers >= 0 that add up to 1
        Of training, validation and test.

    Raises
    ------
    InvalidInputError
        Wrong fractions, NaN among the keys, or no row.

    Notes
    -----
    Rows of one key stay on one side (the earlier one), because a later twin of a training row is a leak.
    """
    values = np.asarray(keys)
    if values.ndim != 1 or len(values) == 0:
        raise InvalidInputError(f"keys must be a vector with at least one row, got shape {values.shape}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InvalidInputError("keys must not have NaN: rows without a time cannot be put in order")
    order = np.argsort(values, kind="stable").astype(np.int64)
    ranked = values[order]
    bounds = []
    for share in np.cumsum(_checked_fractions(fractions))[:2]:
        cut = round(float(share) * len(values))
        while 0 < cut < len(values) and ranked[cut - 1] == ranked[cut]:
            cut += 1
        bounds.append(cut)
    return Split(order[: bounds[0]], order[bounds[0] : max(bounds)], order[max(bounds) :])


def order_keys(products: Products) -> npt.NDArray[Any]:
    """Return what tells the age of each product: `registered_at` where every row has one, otherwise whole-number ids.

    Raises
    ------
    InvalidInputError
        Neither is there for all rows.
    """
    if len(products) and (products.registered_at >= 0).all():
        return products.registered_at
    try:
        return np.array([int(i) for i in products.product_id], dtype=np.int64)
    except (ValueError, OverflowError):
        raise InvalidInputError(
            "cannot put the products in order: registered_at is missing in "
            f"{int((products.registered_at < 0).sum())} of {len(products)} rows and ids are not whole numbers; "
            "use a stratified split, and say so with every figure"
        ) from None


def split_stratified(
    labels: Sequence[Hashable], fractions: Sequence[float] = (0.7, 0.1, 0.2), *, seed: int = 0
) -> Split:
    """Return a random split in which every label has its share of each side.

    Parameters
    ----------
    labels : sequence, one a row
        Any hashable values.
    fractions : three numbers >= 0 that add up to 1
        Of training, validation and test.
    seed : int
        Another seed, another split.

    Notes
    -----
    Labels with few rows fill training first, then test, then validation: a label of one row is never only in the test.
    """
    train_share, validation_share, _ = _checked_fractions(fractions)
    if len(labels) == 0:
        raise InvalidInputError("there is no row to split")
    rows_of: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    generator = np.random.default_rng(seed)
    sides: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
    for rows in rows_of.values():
        shuffled = generator.permutation(np.array(rows, dtype=np.int64))
        # up for training, down for validation: what is left goes to the test
        in_train = min(len(rows), int(np.ceil(train_share * len(rows) - 1e-9)))
        in_validation = min(len(rows) - in_train, int(np.floor(validation_share * len(rows) + 1e-9)))
        for side, part in zip(sides, np.split(shuffled, [in_train, in_train + in_validation]), strict=True):
            side.append(part)
    return Split(*(np.sort(np.concatenate(side)) for side in sides))


def split_grouped(groups: Sequence[Hashable], fractions: Sequence[float] = (0.7, 0.1, 0.2), *, seed: int = 0) -> Split:
    """Return a split in which all rows of a group (a mall, a brand, a title) are on one side.

    Parameters
    ----------
    groups : sequence, one a row
        Compared by their text.
    fractions : three numbers >= 0 that add up to 1
        Of training, validation and test; met on average over groups, not exactly.
    seed : int
        Another seed, another split.

    Notes
    -----
    The side is a hash of seed and group, so a group stays on its side when rows are added later.
    """
    bounds = np.cumsum(_checked_fractions(fractions))[:2] * 2.0**64
    if len(groups) == 0:
        raise InvalidInputError("there is no row to split")
    side_of: dict[Hashable, int] = {}
    for group in groups:
        if group not in side_of:
            digest = hashlib.blake2b(f"{seed}:{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
            side_of[group] = int(np.searchsorted(bounds, float(int.from_bytes(digest, "big")), side="right"))
    sides = np.array([side_of[group] for group in groups])
    return Split(*(np.flatnonzero(sides == side).astype(np.int64) for side in range(3)))


@dataclass(frozen=True)
class Leak:
    """Values that stand on two sides."""

    sides: tuple[str, str]
    values: int
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(repr(e[:60]) for e in self.examples)
        first, second = self.sides
        return f"{self.values} values of {first} stand in {self.rows} rows of {second} as well, e.g. {shown}"


def find_leaks(split: Split, values: Sequence[Hashable]) -> list[Leak]:
    """Return which values (titles, ids) stand on two sides; empty when the split is clean.

    Parameters
    ----------
    split : Split
        Row numbers into `values`.
    values : sequence, one a row
        What must not be shared; None is never shared.
    """
    named = {"train": split.train, "validation": split.validation, "test": split.test}
    held = {name: {values[i] for i in rows.tolist()} - {None} for name, rows in named.items()}
    leaks = []
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = held[first] & held[second]
        if shared:
            rows = sum(values[i] in shared for i in named[second].tolist())
            examples = tuple(sorted(map(str, shared))[:3])
            leaks.append(Leak((first, second), len(shared), rows, examples))
    return leaks


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    if len(fractions) != 3 or not all(0 <= f <= 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise InvalidInputError(f"fractions must be three numbers >= 0 that add up to 1, got {tuple(fractions)}")
    train, validation, test = (float(f) for f in fractions)
    return train, validation, test
