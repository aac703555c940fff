"""The safetensors reader: equal to the reference package on good files, DataError on damaged ones."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from aitems_engine.errors import DataError
from aitems_engine.runtime import read_safetensors

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


def packed(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"

    def read(content):
        path.unlink(missing_ok=True)  # a new inode: an earlier mapping may still be alive
        path.write_bytes(content)
        return read_safetensors(path)

    return read


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda n: n != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0))),
        max_size=4,
    ),
    st.none() | st.just({"format": "pt"}),
)
@settings(deadline=None)
def test_equals_the_reference_package(scratch, tensors, metadata):
    content = save(tensors, metadata)
    found = scratch(content)
    expected = load(content)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == value.tobytes()
        assert found[name].shape == value.shape
        assert not found[name].flags.writeable


def test_a_header_of_any_length_gives_aligned_arrays(scratch):
    for spaces in range(9):
        header = json.dumps({"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode() + b" " * spaces
        found = scratch(packed(header, np.array([1.5, -2.5]).tobytes()))
        assert found["x"].flags.aligned
        assert found["x"].tolist() == [1.5, -2.5]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "0 bytes is too short"),
        (b"\0" * 9, "9 bytes is too short"),
        (struct.pack("<Q", 2**63) + b"{}", "header claims 9223372036854775808 bytes"),
        (struct.pack("<Q", 17 * 2**20) + b" " * 18 * 2**20, "at most 16777216"),
        (struct.pack("<Q", 5) + b"{}  ", "header claims 5 bytes"),
        (packed(b"\xff\xfe"), "not JSON"),
        (packed(b"[" * 100_000), "not JSON"),
        (packed(b"[]"), "must be a JSON object, got list"),
        (packed(b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "a": {}}'), "a name twice"),
        (packed({"x": 3}), "'x' must have dtype, shape and data_offsets, got 3"),
        (packed({"x": {**ENTRY, "more": 1}}, b"\0" * 8), "must have dtype"),
        (packed({"x": {**ENTRY, "dtype": "BF16"}}, b"\0" * 8), "dtype 'BF16'; known are"),
        (packed({"x": {**ENTRY, "dtype": ["F32"]}}, b"\0" * 8), "dtype"),
        (packed({"x": {**ENTRY, "shape": [-2]}}, b"\0" * 8), "shape"),
        (packed({"x": {**ENTRY, "shape": [2.0]}}, b"\0" * 8), "shape"),
        (packed({"x": {**ENTRY, "shape": [True, 2]}}, b"\0" * 8), "shape"),
        (packed({"x": {**ENTRY, "shape": [1] * 9}}, b"\0" * 8), "up to 8 sizes"),
        (packed({"x": {**ENTRY, "shape": [2**62, 2**62]}}, b"\0" * 8), "needs"),
        (packed({"x": {**ENTRY, "shape": [3]}}, b"\0" * 8), "needs 12 bytes"),
        (packed({"x": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8), "needs 8 bytes"),
        (packed({"x": {**ENTRY, "data_offsets": [0, 8, 8]}}, b"\0" * 8), "two sizes"),
        (packed({"x": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12), "must begin at 0"),
        (packed({"x": ENTRY, "y": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12), "'y'.*must begin at 8"),
        (packed({"x": ENTRY}, b"\0" * 7), "end within the 7 bytes"),
        (packed({"x": ENTRY}, b"\0" * 9), "1 bytes after the last tensor"),
    ],
)
def test_damaged_files_are_refused(scratch, content, match):
    with pytest.raises(DataError, match=match):
        scratch(content)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_gets_past_the_checks(scratch, data):
    content = bytearray(save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "remove"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut" and at:
            del content[at:]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(max_size=9))
        elif len(content) > 1:
            del content[at]
    try:
        tensors = scratch(bytes(content))
    except DataError:
        return
    assert sum(t.nbytes for t in tensors.values()) <= len(content)
    for tensor in tensors.values():
        tensor.sum()
