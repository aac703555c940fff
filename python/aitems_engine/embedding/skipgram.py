"""Word vectors that start an embedding table: skip-gram with negative sampling (Mikolov et al., NeurIPS 2013).

Knows token numbers, not text. The work is done in csrc/embedding; here arguments are checked once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aitems_engine._native import embedding as native
from aitems_engine.errors import InvalidInputError


def train_skipgram(
    ids_flat: NDArray[np.integer],
    row_splits: NDArray[np.integer],
    vocab_size: int,
    *,
    dim: int = 128,
    window: int = 5,
    negatives: int = 5,
    epochs: int = 3,
    sample: float = 1e-4,
    learning_rate: float = 0.025,
    threads: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    isa: str = "",
) -> NDArray[np.float32]:
    """Return vectors in which tokens that stand near the same tokens lie near each other.

    Parameters
    ----------
    ids_flat : integer array, shape (num_tokens,)
        Token ids of all rows, one row after the other; 0 to `vocab_size` - 1.
    row_splits : integer array, shape (num_rows + 1,)
        Row r is ``ids_flat[row_splits[r]:row_splits[r + 1]]``; starts with 0, ends with `num_tokens`. Windows do not
        cross rows.
    vocab_size : int
        Number of rows of the result.
    dim, window, negatives, epochs : int >= 1
        Length of a vector; tokens to each side (drawn from 1 to `window` at each position); noise tokens a pair
        (from unigram^0.75); passes over the corpus.
    sample : float
        Tokens more frequent than this share are thinned out (0 = keep all).
    learning_rate : float
        At the start; falls linearly to a ten-thousandth of it.
    threads : int
        0 = all cores. With 1 the result depends on the input and `seed` only, also across ISA levels; more threads
        share the vectors without locks, so runs differ slightly.
    seed : int, 0 to 2**64 - 1
    progress : callable(words_done, words_total), optional
        Called about a hundred times on the calling thread; an exception in it stops the training and is raised here.
    isa : str
        Force an ISA level ("" = the active one).

    Returns
    -------
    float32 array, shape (vocab_size, dim)
        A token that never occurs keeps its random start (uniform within 0.5 / `dim` of 0).

    Raises
    ------
    InvalidInputError
        A wrong dtype, shape or range; the message says which.

    Notes
    -----
    The GIL is released. Memory: 8 * `vocab_size` * `dim` bytes beside the result.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([0, 1, 0, 1, 2, 3, 2, 3], dtype=np.int32)
    >>> train_skipgram(rows, np.array([0, 4, 8]), 4, dim=8, threads=1).shape
    (4, 8)
    """
    ids = integers("ids_flat", ids_flat, np.int32)
    splits = integers("row_splits", row_splits, np.int64)
    if not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    sizes = {"vocab_size": vocab_size, "dim": dim, "window": window, "negatives": negatives, "epochs": epochs}
    for name, value in sizes.items():
        if not 1 <= value < 2**31:
            raise InvalidInputError(f"{name} must be at least 1, got {value}")
    return native.train_skipgram(
        ids,
        splits,
        vocab_size,
        dim,
        window,
        negatives,
        epochs,
        float(sample),
        float(learning_rate),
        threads,
        seed,
        isa,
        progress,
    )


def integers(name: str, values: NDArray[np.integer], dtype: type[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Return a contiguous 1-D array of `dtype`; values that do not fit are an error, never wrapped."""
    array = np.asarray(values)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise InvalidInputError(f"{name} must be a 1-D integer array, got {array.dtype} with shape {array.shape}")
    if array.dtype != dtype and array.size and np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise InvalidInputError(f"{name} must fit into {limits.dtype}, got values from {low} to {high}")
    return np.ascontiguousarray(array, dtype=dtype)
