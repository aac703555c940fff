"""Messages that are not products, and a pattern of the cause each must be put aside with."""

from __future__ import annotations

import json

POISON: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "no value"),
    "empty": (b"", "not valid JSON"),
    "not JSON": (b"hello", "not valid JSON"),
    "truncated": (b'{"product_id": "1", "title": "a', "not valid JSON"),
    "trailing": (b'{"product_id": "1", "title": "a"} x', "not valid JSON"),
    "array": (b"[1, 2]", "product schema"),
    "number": (b"17", "product schema"),
    "null": (b"null", "product schema"),
    "title missing": (b'{"product_id": "1"}', "title"),
    "id missing": (b'{"title": "a"}', "product_id"),
    "title null": (b'{"product_id": "1", "title": null}', r"\$.title"),
    "title a number": (b'{"product_id": "1", "title": 5}', r"\$.title"),
    "title a list": (b'{"product_id": "1", "title": ["a"]}', r"\$.title"),
    "id a float": (b'{"product_id": 1.5, "title": "a"}', r"\$.product_id"),
    "id an object": (b'{"product_id": {}, "title": "a"}', r"\$.product_id"),
    "id huge": (b'{"product_id": 1' + b"0" * 400 + b', "title": "a"}', "beyond 64 bits"),
    "id out of range": (b'{"product_id": 1e999, "title": "a"}', "out of range|product schema"),
    "id long": (b'{"product_id": "' + b"1" * 2000 + b'", "title": "a"}', "product_id has 2000"),
    "mall category a number": (b'{"product_id": "1", "title": "a", "mall_category": 5}', r"\$.mall_category"),
    "empty title": (b'{"product_id": "1", "title": ""}', "title is empty"),
    "blank title": (b'{"product_id": "1", "title": " \\n\\t "}', "title is empty"),
    "NUL byte": (b'{"product_id": "1", "title": "a\0b"}', "not valid JSON"),
    "NUL escape": (b'{"product_id": "1", "title": "a\\u0000b"}', "NUL"),
    "NUL only": (b"\0\0\0\0", "not valid JSON"),
    "half a surrogate pair": (b'{"product_id": "1", "title": "a\\ud800"}', "not valid JSON"),
    "invalid UTF-8": (b'{"product_id": "1", "title": "\xff\xfe"}', "not valid JSON"),
    "UTF-16": ('{"product_id": "1", "title": "a"}'.encode("utf-16"), "not valid JSON"),
    "deep array": (b"[" * 100_000 + b"]" * 100_000, "product schema|nested"),
    "deep field": (
        b'{"product_id": "1", "title": "a", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        "nested",
    ),
    "long title": (json.dumps({"product_id": "1", "title": "a" * 20_000}).encode(), "title has 20000"),
    "10 MB": (json.dumps({"product_id": "1", "title": "a", "x": "y" * 10_000_000}).encode(), "bytes; at most"),
}
