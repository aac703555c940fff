"""Files of events -> `Interactions`: event tables, RecBole atomic files, and lines of `user item item ...`.

Every value is checked here, once; an error names file, row and column.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aitems_engine.catalog.cells import Cells, identifier, name, time_ms
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import MAX_LINE_BYTES, TableBatch, iter_table
from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.events.interactions import Interactions

EVENT_TYPES = ("impression", "click", "cart", "like", "purchase", "search", "dwell")
# What says that a user wanted an item.
POSITIVE_TYPES = ("click", "cart", "like", "purchase")
EVENT_COLUMNS: dict[str, tuple[str, ...]] = {
    "event_id": ("event_id", "eventid", "log_id"),
    "event_type": ("event_type", "event", "type", "action", "behavior"),
    "user_id": ("user_id", "user", "uid", "member_id", "customer_id", "visitor_id", "household_id"),
    "item_id": ("item_id", "item", "product_id", "goods_id", "iid", "sku"),
    "timestamp": ("timestamp", "time", "ts", "event_time", "unixtime", "datetime", "date"),
}
_BATCH = 65_536
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "event_id": identifier,
    "event_type": name,
    "user_id": identifier,
    "item_id": identifier,
    "timestamp": time_ms,
}


def read_interactions(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    event_types: Collection[str] = POSITIVE_TYPES,
) -> Interactions:
    """Read the histories of a file.

    Parameters
    ----------
    path : path
        `.txt`: a user and its items, oldest first, separated by blanks; a user may come again and goes on.
        `.inter`: RecBole's atomic file. `.parquet`, `.csv`, `.tsv`, `.jsonl` (text also as .gz): events with `user_id`
        and `item_id`, and `timestamp`, `event_type`, `event_id` where there are any.
    columns : mapping of field to column name, optional
        Where a name cannot be guessed.
    event_types : collection of str
        Events of other types are left out, where the file tells types.

    Returns
    -------
    Interactions
        `counts` says how many events were left out, repeated an event_id, or came out of order.

    Raises
    ------
    DataError
        What is wrong, with file, row and column.
    InvalidInputError
        An event type or a suffix that does not exist.
    """
    path = Path(path)
    wrong = sorted(set(event_types) - set(EVENT_TYPES))
    if wrong or not event_types:
        raise InvalidInputError(f"event types are {', '.join(EVENT_TYPES)}, got {', '.join(wrong) or 'none'}")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _read_lines(path)
    batches = _atomic_batches(path) if suffix == ".inter" else iter_table(path, _BATCH, select=_selector(path, columns))
    return _from_batches(batches, path.name, columns, frozenset(event_types))


def _selector(path: Path, columns: Mapping[str, str] | None) -> Callable[[Sequence[str]], set[str]]:
    return lambda names: set(match_columns(names, columns, ("user_id", "item_id"), path.name, EVENT_COLUMNS).values())


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    if path.is_dir():
        raise DataError(f"{path.name}: is a directory, not a file")
    with path.open("rb") as file:
        for number, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(data) > MAX_LINE_BYTES:
                raise DataError(f"{path.name}, line {number}: the line is longer than {MAX_LINE_BYTES} bytes")
            try:
                yield number, data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path.name}, line {number}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})"
                ) from None


def _read_lines(path: Path) -> Interactions:
    users: list[str] = []
    items: list[str] = []
    for number, line in _text_lines(path):
        words = line.split()
        if len(words) == 1:
            raise DataError(f"{path.name}, line {number}: '{words[0][:40]}' has no item; write: user item item ...")
        users.extend(words[:1] * (len(words) - 1))
        items.extend(words[1:])
    if not items:
        raise DataError(f"{path.name}: the file has no interaction")
    return Interactions.from_events(users, items)


def _atomic_batches(path: Path) -> Iterator[TableBatch]:
    """Yield the rows of RecBole's `name:type` tables; times are seconds, as it has them."""
    lines = _text_lines(path)
    header = [cell.rpartition(":")[0] or cell for cell in next(lines, (0, ""))[1].rstrip("\r\n").split("\t")]
    rows: list[list[str]] = []
    numbers: list[int] = []

    def batch() -> TableBatch:
        values = zip(*rows, strict=True) if rows else iter([()] * len(header))
        return TableBatch(dict(zip(header, map(list, values), strict=True)), list(numbers), "line")

    for number, line in lines:
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{path.name}, line {number}: {len(cells)} fields, but the header has {len(header)}: "
                f"{', '.join(header)[:200]}"
            )
        rows.append(cells)
        numbers.append(number)
        if len(rows) == _BATCH:
            yield batch()
            rows.clear()
            numbers.clear()
    yield batch()


def _from_batches(
    batches: Iterator[TableBatch], source: str, columns: Mapping[str, str] | None, kept: frozenset[str]
) -> Interactions:
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    bought: list[bool] = []
    counts = {"rows": 0, "other_types": 0, "repeated_event_ids": 0}
    seen: set[str] = set()
    for batch in batches:
        found = match_columns(list(batch.columns), columns, ("user_id", "item_id"), source, EVENT_COLUMNS)
        cells = {field: Cells(batch, column, source) for field, column in found.items()}
        values = {field: cells[field].convert(_parser(field)) for field in found}
        counts["rows"] += len(batch.rows)
        for row in range(len(batch.rows)):
            kind = values["event_type"][row] if "event_type" in values else None
            if kind is not None:
                if kind.lower() not in EVENT_TYPES:
                    raise cells["event_type"].error(row, f"'{kind[:40]}' is not one of {', '.join(EVENT_TYPES)}")
                if kind.lower() not in kept:
                    counts["other_types"] += 1
                    continue
            for field in ("user_id", "item_id"):
                if values[field][row] is None:
                    raise cells[field].error(row, "is empty")
            event = values["event_id"][row] if "event_id" in values else None
            if event is not None:
                if event in seen:
                    counts["repeated_event_ids"] += 1
                    continue
                seen.add(event)
            users.append(values["user_id"][row])
            items.append(values["item_id"][row])
            times.append(values["timestamp"][row] if "timestamp" in values else -1)
            bought.append(kind is not None and kind.lower() == "purchase")
    if not users:
        raise DataError(
            f"{source}: no interaction left of {counts['rows']} rows; types that count are {', '.join(sorted(kept))}"
        )
    told = np.array(bought) if any(bought) else None
    return Interactions.from_events(users, items, np.array(times, np.int64), counts=counts, bought=told)


def _parser(field: str) -> Callable[[Any], Any]:
    parse = _PARSERS[field]
    if field != "timestamp":
        return parse

    def whole(value: Any) -> Any:
        # RecBole and others write seconds as floats
        if isinstance(value, str) and value.strip().replace(".", "", 1).isdecimal() and "." in value:
            value = float(value)
        return parse(int(value) if isinstance(value, float) and value == value and abs(value) < 1e15 else value)

    return whole
