"""Reads vectors from files: NumPy `.npy`, `.fvecs`, and a list column of a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import DataError, require_extra


def read_vectors(path: str | Path, column: str = "vector") -> NDArray[np.float32]:
    """Return the vectors of a file as float32 (n, dim); half precision is widened, other dtypes are an error.

    Parameters
    ----------
    path : file ending in .npy, .fvecs or .parquet
    column : str
        Of a Parquet file: a column of lists of numbers, all of one length.
    """
    path = Path(path)
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}: no .npy file of numbers ({error})") from error
    elif path.suffix == ".fvecs":
        array = _fvecs(path)
    elif path.suffix == ".parquet":
        array = _list_column(path, column)
    else:
        raise DataError(f"{path}: vectors are read from .npy, .fvecs and .parquet files")
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32):
        raise DataError(f"{path}: expected float32 or float16 of shape (n, dim), got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array, np.float32)


def read_columns(path: str | Path, names: list[str]) -> dict[str, list[Any]]:
    """Return columns of a Parquet file as lists."""
    require_extra("train", "pyarrow")
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    missing = sorted(set(names) - set(file.schema_arrow.names))
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; it has: {', '.join(file.schema_arrow.names)}")
    table = file.read(columns=names)
    return {name: table.column(name).to_pylist() for name in names}


def _fvecs(path: Path) -> NDArray[np.float32]:
    raw = np.fromfile(path, np.int32)
    if raw.size == 0:
        raise DataError(f"{path}: an empty file")
    dim = int(raw[0])
    if not 0 < dim <= 1 << 16 or raw.size % (dim + 1) != 0:
        raise DataError(f"{path}: no whole rows of {dim} values; is it an .fvecs file?")
    rows = raw.reshape(-1, dim + 1)
    if (rows[:, 0] != dim).any():
        raise DataError(f"{path}: row {int((rows[:, 0] != dim).argmax())} has another dimension than {dim}")
    return rows[:, 1:].view(np.float32)


def _list_column(path: Path, column: str) -> NDArray[Any]:
    require_extra("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise DataError(f"{path}: no column {column}; it has: {', '.join(file.schema_arrow.names)}")
    values = file.read(columns=[column]).column(column).combine_chunks()
    if not (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        raise DataError(f"{path}: column {column} holds {values.type}, expected lists of float")
    if values.null_count:
        raise DataError(f"{path}: column {column} misses {values.null_count} vectors")
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if len(values) == 0 or flat.size % len(values) != 0:
        raise DataError(f"{path}: column {column} holds vectors of different length, or none")
    if not pa.types.is_fixed_size_list(values.type):
        lengths = np.diff(values.offsets.to_numpy())
        if (lengths != lengths[0]).any():
            raise DataError(
                f"{path}: row {int((lengths != lengths[0]).argmax())} has another dimension than {lengths[0]}"
            )
    rows: NDArray[Any] = flat.reshape(len(values), -1)
    return rows.astype(np.float32) if rows.dtype == np.float64 else rows
