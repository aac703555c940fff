"""Rows of CSV, TSV, JSONL (each also as .gz) and Parquet files in batches, with where they stand for messages.

Memory is bounded by the batch: lines are read one at a time and have a limit, files are never read whole. Bytes that
are not UTF-8 are refused, not replaced: a title that lost its letters would be classified without a word. It knows
nothing of products.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from aitems_engine.errors import DataError, InvalidInputError, require_extra

MAX_LINE_BYTES = 4 << 20
# also the limit of the csv module, which counts a quoted field over several lines
MAX_FIELD_CHARS = 131_072
MAX_COLUMNS = 4_096
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class TableBatch:
    """Some rows of a table. `rows` are line numbers of a text file, or 1-based row numbers of Parquet (see `unit`)."""

    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]
    unit: str


def table_format(path: Path) -> tuple[str, bool]:
    """Return the format (a suffix of `SUFFIXES`) and whether the file is gzipped.

    Raises
    ------
    InvalidInputError
        Another suffix.
    """
    suffixes = [s.lower() for s in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    suffix = (suffixes[:-1] if zipped else suffixes)[-1:] or [""]
    if suffix[0] not in SUFFIXES or (zipped and suffix[0] == ".parquet"):
        raise InvalidInputError(
            f"{path.name}: must end with {', '.join(SUFFIXES)} (text formats may add .gz), "
            f"got '{''.join(path.suffixes) or 'no suffix'}'"
        )
    return (".jsonl" if suffix[0] == ".ndjson" else suffix[0]), zipped


def iter_table(
    path: Path,
    batch_size: int,
    *,
    select: Callable[[Sequence[str]], Collection[str]] | None = None,
    csv_escape: str | None = None,
) -> Iterator[TableBatch]:
    """Yield the rows of a file in batches of at most `batch_size`; a last batch without rows still has the columns.

    Parameters
    ----------
    path : path
        The suffix tells the format.
    batch_size : int
        Rows.
    select : callable, optional
        Gets the column names and returns those to read: Parquet then leaves the others on disk.
    csv_escape : str, optional
        One character that takes the special meaning from the next in CSV.

    Raises
    ------
    DataError
        Damaged, truncated, not UTF-8, ragged or of the wrong JSON types; names the row.
    """
    kind, zipped = table_format(path)
    if csv_escape is not None and len(csv_escape) != 1:
        raise InvalidInputError(f"csv_escape must be one character, got '{csv_escape}'")
    if path.is_dir():
        raise DataError(f"{path.name}: is a directory, not a file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty")
    if kind == ".parquet":
        yield from _iter_parquet(path, batch_size, select)
        return
    opener: Any = gzip.open if zipped else open
    with opener(path, "rb") as file:
        lines = _Lines(file, path.name)
        if kind == ".jsonl":
            yield from _iter_jsonl(lines, batch_size)
        else:
            yield from _iter_separated(lines, batch_size, tab=kind == ".tsv", escape=csv_escape)


class _Lines:
    """Iterator over decoded lines that knows the number of the line it gave last."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self.source = source
        self.number = 0
        self._file = file

    def __iter__(self) -> _Lines:
        return self

    def fail(self, problem: str, line: int | None = None) -> NoReturn:
        raise DataError(f"{self.source}, line {line or self.number}: {problem}")

    def __next__(self) -> str:
        try:
            data = self._file.readline(MAX_LINE_BYTES + 1)
        except EOFError:
            self.fail("the gzip file ends too early: it is truncated", self.number + 1)
        except (gzip.BadGzipFile, zlib.error) as error:
            self.fail(f"the gzip file is damaged: {error}", self.number + 1)
        if not data:
            raise StopIteration
        self.number += 1
        if len(data) > MAX_LINE_BYTES:
            self.fail(f"the line is longer than {MAX_LINE_BYTES} bytes")
        try:
            return data.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            hint = ""
            try:
                data.decode("cp949")
                hint = "; it may be cp949: convert with `iconv -f cp949 -t utf-8`"
            except UnicodeDecodeError:
                pass
            self.fail(f"not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}){hint}")


def _iter_separated(lines: _Lines, batch_size: int, *, tab: bool, escape: str | None) -> Iterator[TableBatch]:
    # TSV has no quoting (IANA text/tab-separated-values): a quotation mark is an inch sign
    options: dict[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tab else {"delimiter": ",", "escapechar": escape}
    )
    reader = csv.reader(lines, strict=True, **options)

    hint = "; is a quotation mark left open, or escaped by a backslash (csv_escape, --csv-escape)?"

    def rows() -> Iterator[list[str]]:
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                lines.fail(f"{error}" + ("" if tab else hint))
            if cells is None:
                return
            if cells:
                yield cells

    source = rows()
    header = [h.strip() for h in next(source, [])]
    if not header:
        lines.fail("no header line", 1)
    if len(header) > MAX_COLUMNS:
        lines.fail(f"{len(header)} columns are more than the limit of {MAX_COLUMNS}")
    if len(set(header)) < len(header):
        lines.fail(f"column '{next(h for h in header if header.count(h) > 1)[:60]}' appears more than once", 1)
    batch: list[list[str]] = []
    numbers: list[int] = []
    for cells in source:
        if len(cells) != len(header):
            lines.fail(f"{len(cells)} fields, but the header has {len(header)}: {', '.join(header)[:200]}")
        batch.append(cells)
        numbers.append(lines.number)
        if len(batch) == batch_size:
            yield TableBatch(dict(zip(header, zip(*batch, strict=True), strict=True)), numbers, "line")
            batch, numbers = [], []
    # without rows the header still tells what is missing
    columns: dict[str, Sequence[str]] = dict.fromkeys(header, ())
    yield TableBatch(dict(zip(header, zip(*batch, strict=True), strict=True)) if batch else columns, numbers, "line")


def _iter_jsonl(lines: _Lines, batch_size: int) -> Iterator[TableBatch]:
    batch: list[dict[str, Any]] = []
    numbers: list[int] = []
    for line in lines:
        if not line.strip():
            continue
        batch.append(_json_object(line, lines))
        numbers.append(lines.number)
        if len(batch) == batch_size:
            yield _json_batch(batch, numbers)
            batch, numbers = [], []
    yield _json_batch(batch, numbers)


def _json_object(line: str, lines: _Lines) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON value")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [k for k, _ in pairs]
            raise ValueError(f"key '{next(k for k in keys if keys.count(k) > 1)[:60]}' appears twice")
        return result

    try:
        value = json.loads(line, parse_constant=refuse, object_pairs_hook=once)
    except RecursionError:
        lines.fail("the JSON is nested too deeply")
    except ValueError as error:
        lines.fail(f"not a JSON object: {error}")
    if not isinstance(value, dict):
        lines.fail(f"must be a JSON object, got {type(value).__name__}")
    if len(value) > MAX_COLUMNS:
        lines.fail(f"{len(value)} keys are more than the limit of {MAX_COLUMNS}")
    return value


def _json_batch(batch: list[dict[str, Any]], numbers: list[int]) -> TableBatch:
    names = dict.fromkeys(name for value in batch for name in value)
    return TableBatch({name: [value.get(name) for value in batch] for name in names}, numbers, "line")


def _iter_parquet(
    path: Path, batch_size: int, select: Callable[[Sequence[str]], Collection[str]] | None
) -> Iterator[TableBatch]:
    require_extra("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with closing(pq.ParquetFile(path)) as file:
            names = file.schema_arrow.names
            duplicate = next((n for n in names if names.count(n) > 1), None)
            if duplicate is not None:
                raise DataError(f"{path.name}: column '{duplicate}' appears more than once")
            if len(names) > MAX_COLUMNS:
                raise DataError(f"{path.name}: {len(names)} columns are more than the limit of {MAX_COLUMNS}")
            if select is not None:
                chosen = select(names)
                names = [n for n in names if n in chosen]
            for batch in file.iter_batches(batch_size=batch_size, columns=names):
                rows = range(row + 1, row + 1 + batch.num_rows)
                yield TableBatch(
                    {n: _arrow_values(c, n, path.name, rows) for n, c in zip(names, batch.columns, strict=True)},
                    rows,
                    "row",
                )
                row += batch.num_rows
            if row == 0:
                yield TableBatch(dict.fromkeys(names, ()), (), "row")
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0][:200]
        raise DataError(f"{path.name}, after row {row}: damaged or truncated Parquet: {reason}") from None


def _arrow_values(column: Any, name: str, source: str, rows: Sequence[int]) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for row, value in zip(rows, column, strict=True):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise DataError(f"{source}, row {row}, column '{name}': not UTF-8 ({error.reason})") from None
        raise
