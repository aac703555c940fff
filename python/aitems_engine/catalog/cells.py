"""One cell of a table -> text, identifier or time, or ValueError with what is wrong; `Cells` adds where it stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timezone
from typing import Any

from aitems_engine.catalog.tables import MAX_FIELD_CHARS, TableBatch
from aitems_engine.errors import DataError

# Whole numbers below this are seconds, others milliseconds: 10^11 s is the year 5138, 10^11 ms is March 1973.
SECONDS_BELOW = 100_000_000_000
MAX_TIME_MS = 253_402_300_799_999  # the end of the year 9999


class Cells:
    """One column of a batch with what a message about it needs."""

    def __init__(self, batch: TableBatch, column: str, source: str) -> None:
        self.values = batch.columns[column]
        self._where = (source, batch.unit, batch.rows, column)

    def error(self, row: int, problem: str) -> DataError:
        source, unit, rows, column = self._where
        return DataError(f"{source}, {unit} {rows[row]}, column '{column}': {problem}")

    def convert(self, one: Callable[[Any], Any]) -> list[Any]:
        result = []
        for row, value in enumerate(self.values):
            try:
                result.append(one(value))
            except ValueError as error:
                raise self.error(row, str(error)) from None
        return result


def text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"must be text, got {type(value).__name__} {str(value)[:40]}")
    if len(value) > MAX_FIELD_CHARS:
        raise ValueError(f"{len(value)} characters are more than the limit of {MAX_FIELD_CHARS}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds a lone surrogate, which is not text") from None
    return value


def name(value: Any) -> str | None:
    """Text where empty means unknown."""
    return (text(value) or "").strip() or None


def identifier(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return name(value)


def time_ms(value: Any) -> int:
    if value is None or value == "":
        return -1
    if isinstance(value, str):
        stripped = value.strip()
        if stripped.lstrip("-").isdecimal() and len(stripped) <= 20:
            value = int(stripped)
        else:
            try:
                moment = datetime.fromisoformat(stripped[:-1] + "+00:00" if stripped.endswith(("Z", "z")) else stripped)
            except ValueError:
                raise ValueError(f"'{stripped[:40]}' is neither a whole number nor an ISO 8601 date") from None
            value = int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() * 1000)
            if not 0 <= value <= MAX_TIME_MS:
                raise ValueError(f"'{stripped[:40]}' is not a time between 1970 and 9999")
            return int(value)
    if isinstance(value, date):
        raise ValueError("must be a number or an ISO 8601 date")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number of milliseconds or an ISO 8601 date, got {type(value).__name__}")
    if value == -1:
        return -1
    milliseconds = value * 1000 if value < SECONDS_BELOW else value
    if not 0 <= milliseconds <= MAX_TIME_MS:
        raise ValueError(f"{value} is not a time between 1970 and 9999")
    return milliseconds


def whole_number(value: Any) -> int:
    """A whole number from 0 to 2^31 - 1; empty is 0."""
    if value is None or value == "":
        return 0
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError(f"must be a whole number from 0 to {(1 << 31) - 1}, got {str(value)[:40]}")
    return value
