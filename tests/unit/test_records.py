"""The native record encoder against its slow twin, `json`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine._records import encode_records

pytestmark = pytest.mark.native

LABELS = [b'{"leaf_id":"a","path":"A","probability":', '{"leaf_id":"b","path":"가 > 나","probability":'.encode()]
NAMES = [("a", "A"), ("b", "가 > 나")]


def twin(
    ids: list[Any], indices: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32], causes: list[str | None]
) -> list[dict[str, Any]]:
    return [
        {
            "product_id": product_id,
            "categories": [
                {"leaf_id": NAMES[i][0], "path": NAMES[i][1], "probability": round(float(p), 6)}
                for i, p in zip(row, values, strict=True)
            ],
            "abstained": cause is not None,
            "cause": cause,
            "bundle": "digest",
        }
        for product_id, row, values, cause in zip(ids, indices, probabilities, causes, strict=True)
    ]


def encoded(
    ids: list[Any], indices: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32], causes: list[str | None]
) -> list[bytes]:
    abstained = np.array([c is not None for c in causes], dtype=np.uint8)
    return encode_records(ids, indices, probabilities, abstained, causes, LABELS, b'"digest"')


# all of Unicode, lone surrogates and control characters among it
texts = st.text(st.characters(exclude_categories=()))
rows = st.tuples(
    st.one_of(texts, st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1, width=32)), min_size=2, max_size=2),
    st.one_of(st.none(), texts),
)


@given(st.lists(rows, max_size=5))
def test_equals_json(table: list[Any]) -> None:
    ids, causes = [r[0] for r in table], [r[2] for r in table]
    indices = np.array([[i for i, _ in r[1]] for r in table], dtype=np.int32).reshape(-1, 2)
    probabilities = np.array([[p for _, p in r[1]] for r in table], dtype=np.float32).reshape(-1, 2)
    ours = [json.loads(record) for record in encoded(ids, indices, probabilities, causes)]
    assert ours == twin(ids, indices, probabilities, causes)


def test_written_by_hand() -> None:
    record = encoded(["p"], np.array([[1, 0]], np.int32), np.array([[0.75, 1e-9]], np.float32), [None])
    assert record == [
        (
            '{"product_id":"p","categories":[{"leaf_id":"b","path":"가 > 나","probability":0.75},'
            '{"leaf_id":"a","path":"A","probability":0.0}],"abstained":false,"cause":null,"bundle":"digest"}'
        ).encode()
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"product_ids": []}, ValueError, "all columns must have 1 rows, got 0 product_ids"),
        ({"label_indices": np.array([[2]], np.int32)}, IndexError, "label 2 of row 0 is not one of the 2 labels"),
        ({"label_indices": np.array([[-1]], np.int32)}, IndexError, "label -1"),
        ({"probabilities": np.zeros((1, 2), np.float32)}, ValueError, "must have 1 columns"),
        ({"product_ids": [1.5]}, TypeError, "expected str, int or None, got float"),
    ],
)
def test_bad_columns_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    columns: dict[str, Any] = {
        "product_ids": ["p"],
        "label_indices": np.zeros((1, 1), np.int32),
        "probabilities": np.ones((1, 1), np.float32),
        "abstained": np.zeros(1, np.uint8),
        "causes": [None],
        "labels": LABELS,
        "bundle": b'"digest"',
    }
    with pytest.raises(error, match=message):
        encode_records(**(columns | change))
