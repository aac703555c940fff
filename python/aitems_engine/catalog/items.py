"""The catalogue as recommenders see it: items are positions, attributes are codes, numbers are columns.

Every stage of a recommendation speaks of an item by its position in one `ItemTable`; ids come in with a request and
go out with a response, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.products import Products
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import DataError, InvalidInputError

UNKNOWN = -1
_CODES, _NUMBERS, _REGISTERED = "codes.", "numbers.", "registered_at"


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Columns of equal length, one item a row.

    Attributes
    ----------
    item_ids : list of str
        Distinct; an item's place is its position.
    codes : mapping of attribute to int32 array, shape (num_items,)
        Positions in `names[attribute]`; -1 where unknown.
    names : mapping of attribute to list of str
        What each code stands for; the same attributes as `codes`.
    numbers : mapping of column to float32 array, shape (num_items,)
        For example price and margin; NaN where unknown.
    registered_at : int64 array, shape (num_items,)
        Milliseconds since 1970 (UTC); -1 where unknown.
    """

    item_ids: list[str]
    codes: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    names: Mapping[str, list[str]] = field(default_factory=dict)
    numbers: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    registered_at: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        if not len(self.registered_at):
            object.__setattr__(self, "registered_at", np.full(n, -1, np.int64))
        columns: dict[str, npt.NDArray[Any]] = {**self.codes, **self.numbers, _REGISTERED: self.registered_at}
        for name, values in columns.items():
            if values.shape != (n,):
                raise InvalidInputError(
                    f"column '{name}' must have one value for each of {n} items, got {values.shape}"
                )
        if self.codes.keys() != self.names.keys():
            raise InvalidInputError(f"codes and names must have the same attributes: {[*self.codes]}, {[*self.names]}")
        for name, codes in self.codes.items():
            if n and not (codes.min() >= UNKNOWN and codes.max() < len(self.names[name])):
                raise InvalidInputError(f"codes of '{name}' must be from -1 to {len(self.names[name]) - 1}")

    @classmethod
    def from_columns(
        cls,
        item_ids: Sequence[str],
        attributes: Mapping[str, Sequence[str | None]] | None = None,
        numbers: Mapping[str, npt.ArrayLike] | None = None,
        registered_at: npt.NDArray[np.int64] | None = None,
    ) -> ItemTable:
        """Return the table of attributes given as text (None = unknown); names are numbered by first occurrence."""
        numbered = {name: _numbered(values) for name, values in (attributes or {}).items()}
        table = cls(
            list(item_ids),
            {name: codes for name, (codes, _) in numbered.items()},
            {name: names for name, (_, names) in numbered.items()},
            {name: np.asarray(values, np.float32) for name, values in (numbers or {}).items()},
            np.zeros(0, np.int64) if registered_at is None else np.asarray(registered_at, np.int64),
        )
        if len(table.positions_by_id) != len(item_ids):
            raise InvalidInputError("item ids must be distinct")
        return table

    @classmethod
    def from_products(cls, products: Products, taxonomy: Taxonomy | None = None) -> ItemTable:
        """Return the table of a shop's products.

        Parameters
        ----------
        products : Products
        taxonomy : Taxonomy, optional
            Where `products.category` are its leaves: adds `category_1` (below the root), `category_2`, ... up to the
            level above the leaf. A category that it lacks keeps its own code and has no levels.

        Returns
        -------
        ItemTable
            Attributes `category`, `mall`, and the levels; the number `price`.
        """
        attributes: dict[str, Sequence[str | None]] = {"category": products.category, "mall": products.mall_id}
        if taxonomy is not None:
            lineage = {c: taxonomy.lineage(c) if c in taxonomy else [] for c in set(products.category) - {None} if c}
            for level in range(taxonomy.depth - 1):
                attributes[f"category_{level + 1}"] = [
                    lineage[c][level] if c and level < len(lineage[c]) - 1 else None for c in products.category
                ]
        return cls.from_columns(
            products.product_id, attributes, {"price": products.price.astype(np.float32)}, products.registered_at
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def positions_by_id(self) -> dict[str, int]:
        """Position of each id."""
        return {item: i for i, item in enumerate(self.item_ids)}

    def positions(self, item_ids: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the position of each id, -1 for ids that are not in the catalogue."""
        known = self.positions_by_id
        return np.array([known.get(item, UNKNOWN) for item in item_ids], np.int32)

    def over(self, item_ids: Sequence[str]) -> ItemTable:
        """Return the rows of the given ids, in that order; an id that is not there has unknown values."""
        rows = self.positions(item_ids)
        there = rows >= 0

        def pick(values: npt.NDArray[Any], unknown: Any) -> npt.NDArray[Any]:
            picked = np.full(len(rows), unknown, values.dtype)
            picked[there] = values[rows[there]]
            return picked

        return ItemTable(
            list(item_ids),
            {name: pick(codes, UNKNOWN) for name, codes in self.codes.items()},
            self.names,
            {name: pick(values, np.nan) for name, values in self.numbers.items()},
            pick(self.registered_at, -1),
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns as named arrays, for a bundle; `item_ids` and `names` go beside them."""
        return {
            **{_CODES + name: codes for name, codes in self.codes.items()},
            **{_NUMBERS + name: values for name, values in self.numbers.items()},
            _REGISTERED: self.registered_at,
        }

    @classmethod
    def restore(
        cls, item_ids: Sequence[str], names: Mapping[str, Sequence[str]], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> ItemTable:
        """Return the table that `arrays` came from.

        Raises
        ------
        DataError
            The parts do not fit together.
        """

        def named(prefix: str) -> dict[str, npt.NDArray[Any]]:
            return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}

        try:
            return cls(
                list(item_ids),
                named(_CODES),
                {name: list(values) for name, values in names.items()},
                named(_NUMBERS),
                arrays[_REGISTERED],
            )
        except (InvalidInputError, KeyError, TypeError) as error:
            raise DataError(f"the columns of the items do not fit together: {error}") from error


def _numbered(values: Sequence[str | None]) -> tuple[npt.NDArray[np.int32], list[str]]:
    number: dict[str, int] = {}
    codes = np.fromiter(
        (UNKNOWN if v is None else number.setdefault(v, len(number)) for v in values), np.int32, len(values)
    )
    return codes, list(number)
