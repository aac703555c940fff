"""Products of a shop as columns, and the files they come from.

`read_products` takes a whole file, `iter_products` one batch at a time with memory for that batch only. Column names
are guessed (columns.py) or mapped; every value is checked here, once, and an error names file, row and column.
Unknown is None for text, NaN for a price, -1 for a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.cells import Cells, identifier, name, text, time_ms
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import TableBatch, iter_table
from aitems_engine.errors import DataError, InvalidInputError

MAX_PRICE = 1e15

_PRICE = re.compile(
    r"(?:[₩$€£¥₹￦]|KRW|USD|EUR)?\s*([0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?\s*(?:원|KRW|USD|EUR|[€])?"
)


@dataclass(frozen=True, eq=False)
class Products:
    """Columns of equal length, one product a row.

    Attributes
    ----------
    product_id : list of str
        Unique within a file; where the file has none, the row number from 1.
    title : list of str
        Empty where the shop gave none.
    mall_id, mall_category, category, image : list of str or None
        `mall_category` is a path with " > " between levels; `category` the id of a leaf, where labelled.
    price : float64 array
        NaN where unknown.
    registered_at : int64 array
        Milliseconds since 1970 (UTC); -1 where unknown.
    """

    product_id: list[str]
    title: list[str]
    mall_id: list[str | None]
    mall_category: list[str | None]
    category: list[str | None]
    price: npt.NDArray[np.float64]
    image: list[str | None]
    registered_at: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        sizes = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(sizes.values())) > 1:
            raise InvalidInputError(f"columns must have one length, got {sizes}")

    @classmethod
    def from_columns(cls, title: Sequence[str], **columns: Any) -> Products:
        """Return products of the given columns; the others are unknown, and ids are row numbers from 1."""
        n = len(title)
        nothing: list[str | None] = [None] * n
        return cls(
            product_id=list(columns.pop("product_id", map(str, range(1, n + 1)))),
            title=list(title),
            mall_id=list(columns.pop("mall_id", nothing)),
            mall_category=list(columns.pop("mall_category", nothing)),
            category=list(columns.pop("category", nothing)),
            price=np.asarray(columns.pop("price", np.full(n, np.nan)), dtype=np.float64),
            image=list(columns.pop("image", nothing)),
            registered_at=np.asarray(columns.pop("registered_at", np.full(n, -1)), dtype=np.int64),
            **columns,
        )

    def __len__(self) -> int:
        return len(self.product_id)

    def take(self, rows: npt.NDArray[np.integer[Any]] | Sequence[int]) -> Products:
        """Return the products at the given positions, in that order."""
        index = np.asarray(rows, dtype=np.int64)

        def pick(values: Any) -> Any:
            return values[index] if isinstance(values, np.ndarray) else [values[i] for i in index.tolist()]

        return Products(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    @staticmethod
    def concatenate(parts: Sequence[Products]) -> Products:
        """Return the products of all parts, in order."""

        def join(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            if parts and isinstance(columns[0], np.ndarray):
                return np.concatenate(columns)
            return [value for column in columns for value in column]

        return Products(**{f.name: join(f.name) for f in fields(Products)}) if parts else Products.from_columns([])


def read_products(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    require: Sequence[str] = ("title",),
    duplicate_ids: str = "refuse",
    csv_escape: str | None = None,
) -> Products:
    """Read all products of a CSV, TSV, JSONL (also .gz) or Parquet file.

    Parameters
    ----------
    path : path
        Parquet needs `pyarrow` (extra `train`); the others need nothing.
    columns : mapping of field to column name, optional
        Where a name cannot be guessed, e.g. ``{"category": "sub_category"}``.
    require : sequence of field names
        A file without one of them, or a row where it is empty, is refused; `title` may be empty in a row.
    duplicate_ids : {"refuse", "first", "keep"}
        What to do with rows whose product_id stood before: error, leave them out, or keep them all.
    csv_escape : str, optional
        Character that escapes a quotation mark in CSV (some tools write a backslash); by default it is doubled.

    Raises
    ------
    DataError
        What is wrong, with file, row and column: see docs/catalog.md.
    """
    if duplicate_ids not in ("refuse", "first", "keep"):
        raise InvalidInputError(f"duplicate_ids must be 'refuse', 'first' or 'keep', got '{duplicate_ids}'")
    batches = iter_products(path, columns=columns, require=require, csv_escape=csv_escape)
    products = Products.concatenate(list(batches))
    if duplicate_ids == "keep" or len(set(products.product_id)) == len(products):
        return products
    first_row: dict[str, int] = {}
    repeated = [i for i, product_id in enumerate(products.product_id) if first_row.setdefault(product_id, i) != i]
    if duplicate_ids == "first":
        return products.take(list(first_row.values()))
    again = repeated[0]
    product_id = products.product_id[again]
    raise DataError(
        f"{Path(path).name}, column 'product_id': '{product_id[:80]}' stands in product {first_row[product_id] + 1} "
        f"and again in product {again + 1} ({len(repeated)} such rows in all); ids must be unique. "
        "duplicate_ids='first' (--duplicate-ids first) leaves the later ones out, 'keep' keeps them"
    )


def iter_products(
    path: str | Path,
    *,
    batch_size: int = 8192,
    columns: Mapping[str, str] | None = None,
    require: Sequence[str] = ("title",),
    csv_escape: str | None = None,
) -> Iterator[Products]:
    """Yield the products of a file in batches; arguments and errors as in `read_products`.

    Notes
    -----
    Memory is bounded by the batch, so duplicate ids are not looked for. A file without a row is an error.
    """
    if batch_size < 1:
        raise InvalidInputError(f"batch_size must be at least 1, got {batch_size}")
    path = Path(path)
    start = 0

    def match(names: Sequence[str]) -> dict[str, str]:
        return match_columns(names, columns, require, path.name)

    def select(names: Sequence[str]) -> set[str]:
        return set(match(names).values())

    for batch in iter_table(path, batch_size, select=select, csv_escape=csv_escape):
        if not batch.rows and start:
            continue
        found = match(list(batch.columns))
        if not batch.rows:
            raise DataError(f"{path.name}: the file has no product")
        yield _to_products(batch, found, require, path.name, start)
        start += len(batch.rows)
    if start == 0:
        raise DataError(f"{path.name}: the file has no product")


def _to_products(batch: TableBatch, found: dict[str, str], require: Sequence[str], source: str, start: int) -> Products:
    n = len(batch.rows)
    columns: dict[str, Any] = {}
    for field, column in found.items():
        cells = Cells(batch, column, source)
        values = cells.convert(_PARSERS[field])
        if field in ("product_id", *(f for f in require if f != "title")):
            for row, value in enumerate(values):
                if value is None or value == -1 or value != value:
                    raise cells.error(row, "is empty")
        columns[field] = [v or "" for v in values] if field == "title" else values
    columns.setdefault("product_id", [str(i) for i in range(start + 1, start + n + 1)])
    return Products.from_columns(columns.pop("title", [""] * n), **columns)


def _price(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return math.nan
        match = _PRICE.fullmatch(text) if len(text) <= 64 else None
        if match is None:
            raise ValueError(f"'{text[:40]}' is not a price; leave it empty where it is unknown")
        value = float(match[1].replace(",", "") + (match[2] or "") + (match[3] or ""))
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number, got {type(value).__name__}")
    if not 0 <= value <= MAX_PRICE:  # false for NaN as well
        raise ValueError(f"{value} is not a price between 0 and {MAX_PRICE:g}; leave it empty where it is unknown")
    return float(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "product_id": identifier,
    "title": text,
    "mall_id": identifier,
    "mall_category": name,
    "category": identifier,
    "price": _price,
    "image": name,
    "registered_at": time_ms,
}


def write_products(path: str | Path, products: Products) -> None:
    """Write products to CSV, TSV, JSONL or Parquet (by suffix); an existing file is replaced only when all is written.

    Raises
    ------
    InvalidInputError
        Another suffix.
    DataError
        A value that the format cannot hold (a tab in TSV).
    """
    from aitems_engine.catalog.table_writer import write_table

    names = [f.name for f in fields(products)]
    columns: dict[str, Any] = {name: getattr(products, name) for name in names}
    columns["price"] = [None if math.isnan(p) else p for p in products.price.tolist()]
    columns["registered_at"] = [None if t < 0 else t for t in products.registered_at.tolist()]
    write_table(Path(path), columns)
