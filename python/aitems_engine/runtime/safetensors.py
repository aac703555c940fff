"""A small checked reader of safetensors files, memory-mapped, so that the core needs no package for it.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian header size, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the data. All that the header says is checked before any data is used.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import DataError, require_extra

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
HEADER_BYTES_MAX = 16 * 1024 * 1024
DIMENSIONS_MAX = 8


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a safetensors file by name, as read-only views of the mapped file.

    Parameters
    ----------
    path : str or path
        File to map.

    Returns
    -------
    dict of str to array
        In the order of the data. The file stays mapped as long as one of them lives.

    Raises
    ------
    DataError
        The file is cut short, its header is not what the format says, or tensors overlap or leave gaps.

    Examples
    --------
    >>> tensors = read_safetensors("bundle/model.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    size = path.stat().st_size
    if size < 10:
        raise DataError(f"{path}: {size} bytes is too short for a safetensors file")
    mapped = np.memmap(path, np.uint8, mode="r")
    header_size = int.from_bytes(mapped[:8].tobytes(), "little")
    if header_size > min(HEADER_BYTES_MAX, size - 8):
        raise DataError(
            f"{path}: the header claims {header_size} bytes; the file has {size - 8} after its length field "
            f"and at most {HEADER_BYTES_MAX} are accepted"
        )
    header = _header(path, mapped[8 : 8 + header_size].tobytes())
    data = mapped[8 + header_size :]
    spans = sorted(((*_entry(path, name, entry), name) for name, entry in header.items()), key=lambda s: (s[0], s[1]))
    tensors: dict[str, npt.NDArray[Any]] = {}
    end = 0
    for begin, stop, dtype, shape, name in spans:
        if begin != end or stop > len(data):
            raise DataError(
                f"{path}: tensor '{name}' lies at bytes {begin} to {stop}; it must begin at {end}, "
                f"where the last one ends, and end within the {len(data)} bytes of data"
            )
        # A copy only where the file does not align the tensor (its header may have any length).
        tensors[name] = _view(data[begin:stop], dtype, shape)
        end = stop
    if end != len(data):
        raise DataError(f"{path}: {len(data) - end} bytes after the last tensor belong to none")
    return tensors


def safetensors_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the bytes of a safetensors file with the given tensors; needs the package of that name."""
    require_extra("train", "safetensors")
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(value) for name, value in arrays.items()}))


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise DataError(f"{path}: the header holds a name twice")
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise DataError(f"{path}: the header must be a JSON object, got {type(header).__name__}")
    header.pop("__metadata__", None)
    return header


def _entry(path: Path, name: str, entry: Any) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise DataError(f"{path}: tensor '{name}' must have dtype, shape and data_offsets, got {str(entry)[:200]}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise DataError(f"{path}: tensor '{name}' has dtype {str(dtype)[:50]!r}; known are {', '.join(_DTYPES)}")
    if not _sizes(shape) or len(shape) > DIMENSIONS_MAX:
        raise DataError(
            f"{path}: tensor '{name}' has shape {str(shape)[:200]}; up to {DIMENSIONS_MAX} sizes >= 0 are allowed"
        )
    if not _sizes(offsets) or len(offsets) != 2:
        raise DataError(f"{path}: tensor '{name}' has data_offsets {str(offsets)[:200]}; two sizes >= 0 are needed")
    bytes_needed = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != bytes_needed:
        raise DataError(
            f"{path}: tensor '{name}' of shape {tuple(shape)} and dtype {dtype} needs {bytes_needed} bytes, "
            f"its data_offsets are {offsets[0]} to {offsets[1]}"
        )
    return offsets[0], offsets[1], _DTYPES[dtype], tuple(shape)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _view(raw: npt.NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if raw.__array_interface__["data"][0] % dtype.itemsize:
        raw = raw.copy()
    view = np.asarray(raw).view(dtype).reshape(shape)
    view.flags.writeable = False
    return view
