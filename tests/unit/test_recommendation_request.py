"""Requests from outside: what is refused, what survives JSON, what a cursor carries."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.errors import InvalidInputError
from aitems_engine.recommendation.request import (
    MAX_SHOWN,
    HistoryEvent,
    Request,
    decode_cursor,
    encode_cursor,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"k": True}, "k must be"),
        ({"k": 10**9}, "k must be"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 7}, "user_id"),
        ({"history": "i1"}, "history"),
        ({"history": [3]}, "history"),
        ({"history": [HistoryEvent("i", 2**60)]}, "timestamp of an event"),
        ({"history": [HistoryEvent("i", 1.5)]}, "timestamp of an event"),
        ({"history": [HistoryEvent("i", 1, "dwell", float("nan"))]}, "value of an event"),
        ({"history": [HistoryEvent("i", 1, "dwell", "3")]}, "value of an event"),
        ({"exclude": [1]}, "exclude"),
        ({"exclude": "i1"}, "exclude"),
        ({"context": {"q": float("nan")}}, "context 'q'"),
        ({"context": {"q": [1]}}, "context 'q'"),
        ({"context": [1]}, "context"),
        ({"timestamp": -1}, "timestamp"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": float("nan")}, "deadline_ms"),
        ({"placement": ""}, "placement"),
        ({"cursor": "!!"}, "cursor is damaged"),
    ],
)
def test_what_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Request(**values)


@pytest.mark.parametrize(
    "values",
    [[], {"histroy": []}, {"history": {"a": 1}}, {"history": [{"id": "x"}]}, {"history": [None]}, {"exclude": "abc"}],
)
def test_json_that_is_no_request(values: object) -> None:
    with pytest.raises(InvalidInputError):
        Request.from_dict(values)


ids = st.text(min_size=1, max_size=12)


@given(
    st.builds(
        Request,
        user_id=st.none() | ids,
        history=st.lists(
            ids | st.builds(HistoryEvent, ids, st.integers(-1, 10**13), st.sampled_from(["click", "cart"]))
        ),
        context=st.dictionaries(ids, ids | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False)),
        k=st.integers(1, 1000),
        exclude=st.lists(ids),
        timestamp=st.none() | st.integers(0, 10**13),
    )
)
def test_json_and_back(request_: Request) -> None:
    again = Request.from_dict(json.loads(json.dumps(request_.to_dict())))
    assert again.to_dict() == request_.to_dict()
    assert list(again.history) == list(request_.history)


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=30), max_size=200))
def test_cursor_carries_items(items: list[str]) -> None:
    cursor = encode_cursor(items)
    assert cursor is not None
    assert decode_cursor(cursor) == items


def test_cursor_has_an_end() -> None:
    assert encode_cursor(map(str, range(MAX_SHOWN + 1))) is None


@given(st.binary(max_size=60))
def test_hostile_cursors(data: bytes) -> None:
    for cursor in (data.decode("latin-1"), base64.urlsafe_b64encode(data).decode()):
        with pytest.raises(InvalidInputError, match="cursor"):
            decode_cursor(cursor)


@pytest.mark.parametrize("value", [{"a": 1}, [1], ["x"] * (MAX_SHOWN + 1), "x", [["x"]]])
def test_cursors_of_something_else(value: object) -> None:
    with pytest.raises(InvalidInputError, match="cursor"):
        decode_cursor(base64.urlsafe_b64encode(zlib.compress(json.dumps(value).encode())).decode())


def test_a_cursor_does_not_unpack_without_end() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" + b" " * 50_000_000 + b"]")).decode()
    with pytest.raises(InvalidInputError, match="cursor"):
        decode_cursor(bomb)
