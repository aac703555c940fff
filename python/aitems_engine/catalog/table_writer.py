"""Tables to CSV, TSV, JSONL (each also as .gz) and Parquet, batch by batch; the file appears when it is complete.

A table is columns of equal length; values are text, numbers, booleans, None, and (not in CSV and TSV) lists and dicts
of these.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from aitems_engine.catalog.tables import table_format
from aitems_engine.errors import DataError, require_extra


class TableWriter:
    """Context manager with `write(columns)`; leaving it with an exception leaves the old file as it was.

    Parameters
    ----------
    path : path
        The suffix chooses the format.
    schema : pyarrow.Schema, optional
        For Parquet only; otherwise taken from the first batch, which must then show every type.
    """

    def __init__(self, path: str | Path, schema: Any = None) -> None:
        self.path = Path(path)
        self._format, self._zipped = table_format(self.path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._schema = schema
        self._parquet: Any = None
        self._text: io.TextIOWrapper | None = None
        self._csv: Any = None
        self._csv_quoting: Any = None
        self.rows = 0

    def __enter__(self) -> TableWriter:
        if self._format == ".parquet":
            require_extra("train", "pyarrow")
        else:
            raw: Any = gzip.open(self._temporary, "wb", 3) if self._zipped else self._temporary.open("wb")
            self._text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        return self

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append rows, given as columns; the names must be the same in every call."""
        rows = len(next(iter(columns.values()), ()))
        if self._format == ".parquet":
            self._write_parquet(columns)
        elif self._format == ".jsonl":
            assert self._text is not None
            names = list(columns)
            for values in zip(*columns.values(), strict=True):
                self._text.write(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False, allow_nan=False))
                self._text.write("\n")
        else:
            self._write_separated(columns)
        self.rows += rows

    def write_json(self, rows: Sequence[bytes]) -> None:
        """Append rows that are JSON already, in UTF-8; for JSONL only."""
        assert self._text is not None
        self._text.write(b"\n".join([*rows, b""]).decode())
        self.rows += len(rows)

    def _write_separated(self, columns: Mapping[str, Sequence[Any]]) -> None:
        assert self._text is not None
        if self._csv is None:
            options: dict[str, Any] = {"lineterminator": "\n"}
            if self._format == ".tsv":
                options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            self._csv = csv.writer(self._text, **options)
            # csv.writer leaves a lone carriage return unquoted, which no reader takes
            self._csv_quoting = csv.writer(self._text, lineterminator="\n", quoting=csv.QUOTE_ALL)
            self._csv.writerow(columns)
        for row, values in enumerate(zip(*columns.values(), strict=True), start=self.rows + 1):
            try:
                cells = ["" if v is None else v for v in values]
                lone = self._format == ".csv" and any(isinstance(c, str) and "\r" in c for c in cells)
                (self._csv_quoting if lone else self._csv).writerow(cells)
            except csv.Error:
                raise DataError(
                    f"{self.path.name}, row {row}: TSV cannot hold a tab or line break; write CSV"
                ) from None

    def _write_parquet(self, columns: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({k: _arrow_ready(v) for k, v in columns.items()}, schema=self._schema)
        if self._parquet is None:
            self._schema = table.schema
            self._parquet = pq.ParquetWriter(self._temporary, self._schema)
        self._parquet.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._parquet is not None:
                self._parquet.close()
            if self._text is not None:
                self._text.close()
            if kind is None and self._temporary.exists():
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _arrow_ready(values: Sequence[Any]) -> Any:
    return values if hasattr(values, "dtype") else list(values)


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write one table in one go; see `TableWriter`."""
    with TableWriter(path, _schema_of(path)) as writer:
        writer.write(columns)


def _schema_of(path: Path) -> Any:
    """Return the Arrow schema of product files, so that an all-empty column still has its type."""
    if path.suffix.lower() != ".parquet":
        return None
    require_extra("train", "pyarrow")
    import pyarrow as pa

    types = {"price": pa.float64(), "registered_at": pa.timestamp("ms")}
    names = ("product_id", "title", "mall_id", "mall_category", "category", "price", "image", "registered_at")
    return pa.schema([(name, types.get(name, pa.string())) for name in names])
