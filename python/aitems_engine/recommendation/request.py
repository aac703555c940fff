"""What the shop asks: `Request`. Checked once, when it is made, so that nothing after it can fail on its values."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from aitems_engine.errors import InvalidInputError

MAX_K = 1000
MAX_HISTORY = 1_000_000
MAX_EXCLUDED = 100_000
MAX_TEXT = 1000
MAX_TIME_MS = 253_402_300_799_999  # the end of the year 9999
# items of earlier pages that a cursor can carry
MAX_SHOWN = 5000
MAX_CURSOR_CHARS = 1 << 18


@dataclass(frozen=True)
class HistoryEvent:
    """One thing a user did.

    Attributes
    ----------
    item_id : str
        One that the catalogue lacks is left out and counted.
    timestamp : int
        Milliseconds since 1970 (UTC); -1 where unknown.
    event_type : str
        "purchase" marks the item as bought; the others count alike.
    value : float, optional
        Of a "dwell" the seconds; no other has a meaning yet.
    """

    item_id: str
    timestamp: int = -1
    event_type: str = "click"
    value: float | None = None


@dataclass(frozen=True)
class Request:
    """One page of recommendations, wanted.

    Attributes
    ----------
    user_id : str, optional
        Where `history` is empty, the history that the bundle knows of this user is taken.
    history : sequence of item ids or HistoryEvent
        Oldest first.
    context : mapping of str to text or number
        What features and rules may use: "query", "device", ...
    placement : str
        Recipe in the bundle: which retrievers, which rules.
    k : int, 1 to 1000
    exclude : sequence of item ids
        Never shown.
    cursor : str, optional
        `Response.next_cursor` of the page before; its items are not shown again.
    timestamp : int, optional
        Now, in milliseconds since 1970 (UTC); the clock where it is not given.
    request_id : str, optional
        Names the request in the trace, and seeds what is random; a random one where it is not given.
    deadline_ms : float, optional
        Where it is given, stages that take longer are replaced by their fallback; else the placement's.

    Raises
    ------
    InvalidInputError
        A wrong type or range; names the field.
    """

    user_id: str | None = None
    history: Sequence[str | HistoryEvent] = ()
    context: Mapping[str, str | float] = field(default_factory=dict)
    placement: str = "home"
    k: int = 20
    exclude: Sequence[str] = ()
    cursor: str | None = None
    timestamp: int | None = None
    request_id: str | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "request_id", "cursor"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name), MAX_CURSOR_CHARS if name == "cursor" else MAX_TEXT)
        if self.cursor is not None:
            decode_cursor(self.cursor)
        _text("placement", self.placement, MAX_TEXT)
        _whole("k", self.k, 1, MAX_K)
        if self.timestamp is not None:
            _whole("timestamp", self.timestamp, 0, MAX_TIME_MS)
        if self.deadline_ms is not None and not (_number(self.deadline_ms) and 0 < self.deadline_ms < 1e9):
            raise InvalidInputError(f"deadline_ms must be a number above 0, got {str(self.deadline_ms)[:40]}")
        if isinstance(self.history, str) or len(self.history) > MAX_HISTORY:
            raise InvalidInputError(f"history must be a list of at most {MAX_HISTORY} item ids or events")
        for event in self.history:
            if type(event) is not str:
                _event(event)
        if isinstance(self.exclude, str) or len(self.exclude) > MAX_EXCLUDED:
            raise InvalidInputError(f"exclude must be a list of at most {MAX_EXCLUDED} item ids")
        if not all(type(item) is str for item in self.exclude):
            raise InvalidInputError("exclude must hold item ids, which are text")
        if not isinstance(self.context, Mapping) or len(self.context) > MAX_TEXT:
            raise InvalidInputError(f"context must be a mapping of at most {MAX_TEXT} names, got {self.context!r:.80}")
        for name, value in self.context.items():
            if not isinstance(name, str) or not (isinstance(value, str) or _number(value)):
                raise InvalidInputError(f"context '{str(name)[:40]}' must be text or a number, got {value!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """Return the request as JSON values, without what is not given."""
        result = {f.name: getattr(self, f.name) for f in fields(self)}
        result["history"] = [e if isinstance(e, str) else asdict(e) for e in self.history]
        result["exclude"], result["context"] = list(self.exclude), dict(self.context)
        return {name: value for name, value in result.items() if value not in (None, [], {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Return the request that JSON values describe.

        Raises
        ------
        InvalidInputError
            An unknown field or a value that cannot be used.
        """
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"a request must be a JSON object, got {type(values).__name__}")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            known = ", ".join(f.name for f in fields(cls))
            raise InvalidInputError(f"a request has no field '{str(unknown[0])[:40]}'; it has {known}")
        history = values.get("history", ())
        if not isinstance(history, (list, tuple)):
            raise InvalidInputError(f"history must be a list, got {type(history).__name__}")
        try:
            events = [e if isinstance(e, str) else HistoryEvent(**e) for e in history]
        except TypeError:
            raise InvalidInputError(
                "history must hold item ids or objects with item_id, timestamp, event_type and value"
            ) from None
        if not isinstance(values.get("exclude", []), (list, tuple)):
            raise InvalidInputError(f"exclude must be a list, got {type(values['exclude']).__name__}")
        return cls(**{**values, "history": events})


def encode_cursor(shown: Iterable[str]) -> str | None:
    """Return the cursor that carries the items shown so far; None where they are too many for a further page."""
    items = list(shown)
    if len(items) > MAX_SHOWN:
        return None
    packed = zlib.compress(json.dumps(items).encode(), 1)
    cursor = base64.urlsafe_b64encode(packed).decode()
    return cursor if len(cursor) <= MAX_CURSOR_CHARS else None


def decode_cursor(cursor: str) -> list[str]:
    """Return the items that a cursor carries.

    Raises
    ------
    InvalidInputError
        It is not one of `encode_cursor`.
    """
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(cursor, altchars=b"-_", validate=True), 16 * MAX_CURSOR_CHARS)
        if not inflate.eof:
            raise ValueError
        items = json.loads(data)
    except (ValueError, zlib.error, RecursionError):
        raise InvalidInputError("cursor is damaged; use Response.next_cursor of the page before as it is") from None
    if not isinstance(items, list) or len(items) > MAX_SHOWN or not all(isinstance(i, str) for i in items):
        raise InvalidInputError("cursor is damaged; use Response.next_cursor of the page before as it is")
    return items


def _event(event: Any) -> None:
    if not isinstance(event, HistoryEvent) or type(event.item_id) is not str or type(event.event_type) is not str:
        raise InvalidInputError(f"history must hold item ids or HistoryEvent, got {event!r:.80}")
    _whole("timestamp of an event", event.timestamp, -1, MAX_TIME_MS)
    if event.value is not None and not _number(event.value):
        raise InvalidInputError(f"value of an event must be a number or None, got {event.value!r:.80}")


def _text(name: str, value: Any, longest: int) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise InvalidInputError(f"{name} must be text of 1 to {longest} characters, got {value!r:.80}")


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInputError(f"{name} must be a whole number from {low} to {high}, got {value!r:.80}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
