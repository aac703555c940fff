"""Decoding: what is a product, what is poison, and that its cause says so."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stream_kit.poison import POISON

from aitems_engine.errors import InvalidInputError
from aitems_engine.streaming.messages import dead_letter_headers, decode_product

LIMIT = 1 << 20


@pytest.mark.parametrize(("value", "cause"), POISON.values(), ids=POISON.keys())
def test_poison_has_a_cause(value: bytes | None, cause: str) -> None:
    with pytest.raises(InvalidInputError, match=cause):
        decode_product(value, LIMIT)


@given(
    st.text(min_size=1).filter(lambda s: s.strip() and "\0" not in s),
    st.one_of(st.text(max_size=100).filter(lambda s: s.strip()), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.text().filter(lambda s: "\0" not in s)),
    st.dictionaries(
        st.sampled_from(["price", "image", "registered_at", "mall_id", "other"]),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
)
def test_a_product_is_read_as_json_reads_it(title: str, product_id: str | int, mall: str | None, rest: dict) -> None:
    document = {"product_id": product_id, "title": title, "mall_category": mall, **rest}
    product = decode_product(json.dumps(document).encode(), LIMIT)
    assert (product.product_id, product.title, product.mall_category) == (product_id, title, mall)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    with contextlib.suppress(InvalidInputError):
        assert decode_product(value, LIMIT).title == json.loads(value)["title"]


def test_headers_say_where_it_came_from() -> None:
    headers = dead_letter_headers("why", "products", 3, 12345)
    assert headers == [("error", b"why"), ("topic", b"products"), ("partition", b"3"), ("offset", b"12345")]
