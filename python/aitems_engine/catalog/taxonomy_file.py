"""Files of category trees -> plain records. Knows formats and column names, not what makes a tree valid."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aitems_engine.errors import TaxonomyError

MAX_FILE_BYTES = 256 << 20
MAX_NODES = 5_000_000
ID_COLUMNS = ("category_id", "id", "node_id", "카테고리id", "카테고리번호")
PARENT_COLUMNS = ("parent_id", "parent", "parent_category_id", "상위카테고리id", "상위카테고리")
NAME_COLUMNS = ("name", "category_name", "title", "카테고리명", "이름")


@dataclass(frozen=True)
class NodeRecord:
    """One row of a taxonomy file. `row` is the line of a text file or the position in a list, for messages."""

    row: int
    category_id: str
    parent_id: str
    name: str
    path: str | None
    is_leaf: bool | None


def read_records(path: Path) -> list[NodeRecord]:
    """Read the records of a CSV, TSV or JSON file.

    Raises
    ------
    TaxonomyError
        Unknown suffix, too big, not UTF-8, damaged, or without the columns.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json"):
        raise TaxonomyError(f"{path.name}: a taxonomy is a .csv, .tsv or .json file, got '{suffix or 'no suffix'}'")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TaxonomyError(f"{path.name}: {path.stat().st_size} bytes are more than the limit of {MAX_FILE_BYTES}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaxonomyError(f"{path.name}, row {line}: not UTF-8 (byte 0x{data[error.start]:02x})") from None
    if not text.strip():
        raise TaxonomyError(f"{path.name}: the file is empty")
    if suffix == ".json":
        return records_of_json(text, path.name)
    return records_of_csv(text, path.name, "," if suffix == ".csv" else "\t")


def records_of_csv(text: str, source: str, delimiter: str) -> list[NodeRecord]:
    """Return the records of CSV or TSV text with a header."""
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **options)
    records: list[NodeRecord] = []
    try:
        header = [h.strip().lower() for h in next(reader)]
        find = _column_finder(header, source)
        id_at, parent_at = find(ID_COLUMNS, True), find(PARENT_COLUMNS, True)
        path_at, leaf_at = find(("path",), False), find(("is_leaf", "leaf"), False)
        name_at = find(NAME_COLUMNS, path_at < 0)
        for cells in reader:
            if not cells:
                continue
            row = reader.line_num
            if len(cells) != len(header):
                raise TaxonomyError(f"{source}, row {row}: {len(cells)} fields, but the header has {len(header)}")
            node_path = cells[path_at].strip() if path_at >= 0 else None
            name = cells[name_at].strip() if name_at >= 0 else (node_path or "").rsplit(" > ", 1)[-1].strip()
            leaf = _flag(cells[leaf_at], source, row) if leaf_at >= 0 else None
            records.append(NodeRecord(row, cells[id_at].strip(), cells[parent_at].strip(), name, node_path, leaf))
            if len(records) > MAX_NODES:
                raise TaxonomyError(f"{source}, row {row}: more than {MAX_NODES} categories")
    except csv.Error as error:
        raise TaxonomyError(f"{source}, row {reader.line_num}: {error}") from None
    except StopIteration:
        raise TaxonomyError(f"{source}: the file is empty") from None
    return records


def _column_finder(header: list[str], source: str) -> Any:
    def find(names: tuple[str, ...], required: bool) -> int:
        for name in names:
            if name in header:
                return header.index(name)
        if required:
            raise TaxonomyError(f"{source}: no column '{names[0]}'; found: {', '.join(header)}")
        return -1

    return find


def _flag(cell: object, source: str, row: int) -> bool | None:
    text = str(cell).strip().lower()
    if text in ("1", "true", "y", "yes"):
        return True
    if text in ("0", "false", "n", "no"):
        return False
    if text in ("", "none"):
        return None
    raise TaxonomyError(f"{source}, row {row}, column 'is_leaf': must be 0 or 1, got '{text[:40]}'")


def records_of_json(text: str, source: str) -> list[NodeRecord]:
    """Return the records of a JSON list: flat objects with `parent_id`, or nested objects with `children`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaxonomyError(f"{source}: not JSON: {error}; write deep trees as a flat list with parent_id") from None
    if isinstance(data, dict):
        data = data.get("categories", [data])
    if not isinstance(data, list):
        raise TaxonomyError(f"{source}: must be a list of categories, got {type(data).__name__}")
    records: list[NodeRecord] = []
    for value, parent_id in _walk(data, source):
        row = len(records) + 1
        category_id = _text(value, ID_COLUMNS, source, row)
        parent = _text(value, PARENT_COLUMNS, source, row) or parent_id
        node_path = _text(value, ("path",), source, row) or None
        name = _text(value, NAME_COLUMNS, source, row) or (node_path or "").rsplit(" > ", 1)[-1].strip()
        leaf = _flag(value["is_leaf"], source, row) if "is_leaf" in value else None
        records.append(NodeRecord(row, category_id, parent, name, node_path, leaf))
        if len(records) > MAX_NODES:
            raise TaxonomyError(f"{source}, row {row}: more than {MAX_NODES} categories")
    return records


def _walk(data: list[Any], source: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (object, id of the object it is nested in) in document order, without recursion."""
    stack: list[tuple[Any, str]] = [(value, "") for value in reversed(data)]
    count = 0
    while stack:
        value, parent_id = stack.pop()
        count += 1
        if not isinstance(value, dict):
            raise TaxonomyError(f"{source}, row {count}: must be an object, got {type(value).__name__}")
        yield value, parent_id
        children = value.get("children") or []
        if not isinstance(children, list):
            raise TaxonomyError(f"{source}, row {count}: 'children' must be a list, got {type(children).__name__}")
        if children:
            own_id = _text(value, ID_COLUMNS, source, count)
            stack.extend((child, own_id) for child in reversed(children))


def _text(value: dict[str, Any], names: tuple[str, ...], source: str, row: int) -> str:
    for name in names:
        cell = value.get(name)
        if cell is None:
            continue
        if isinstance(cell, bool) or not isinstance(cell, (str, int)):
            raise TaxonomyError(f"{source}, row {row}, '{name}': must be text, got {type(cell).__name__}")
        text = str(cell).strip()
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TaxonomyError(f"{source}, row {row}, '{name}': holds a lone surrogate") from None
        return text
    return ""
