"""Ids of users: int64 as they are, or strings, which get integer keys in the order in which they are first seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import InvalidInputError

_KEY_MAX = np.iinfo(np.int64).max


def integer_ids(ids: object) -> NDArray[np.int64]:
    """Return `ids` as int64, or raise `InvalidInputError` for what is not an integer or does not fit.

    Notes
    -----
    Negative ids are refused by the native core, because -1 marks a missing result.
    """
    array = np.asarray(ids)
    if array.ndim != 1:
        raise InvalidInputError(f"ids must be one-dimensional, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"ids must be integers (or strings, for the whole index), got {array.dtype}")
    if array.dtype.kind == "u" and int(array.max()) > _KEY_MAX:
        raise InvalidInputError(f"ids must fit into int64, got {int(array.max())}")
    return np.ascontiguousarray(array, np.int64)


def are_strings(ids: object) -> bool:
    """Return whether `ids` are strings (judged by the first)."""
    if isinstance(ids, np.ndarray):
        return ids.dtype.kind == "U" or (ids.dtype.kind == "O" and ids.size > 0 and isinstance(ids.flat[0], str))
    return isinstance(ids, Sequence) and len(ids) > 0 and isinstance(ids[0], str)


class StringIds:
    """Strings and their integer keys. Only grows; a key is never used again. Safe under the GIL beside one writer."""

    def __init__(self, strings: Sequence[str] = ()) -> None:
        self.strings: list[str] = list(strings)
        self._keys = {s: i for i, s in enumerate(self.strings)}

    def keys(self, ids: object, *, add: bool = False) -> NDArray[np.int64]:
        """Return the keys of `ids`; unknown ones are added, or left out."""
        found = []
        for s in np.asarray(ids, dtype=object).reshape(-1):
            if not isinstance(s, str):
                raise InvalidInputError(f"this index has string ids, got {type(s).__name__} {s!r}")
            key = self._keys.get(s)
            if key is None:
                if not add:
                    continue
                key = len(self.strings)
                self.strings.append(s)
                self._keys[s] = key
            found.append(key)
        return np.array(found, np.int64)

    def names(self, keys: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the strings of `keys` in the same shape; None where a key is -1."""
        out = np.empty(keys.shape, object)
        flat = out.reshape(-1)
        for i, key in enumerate(keys.reshape(-1).tolist()):
            flat[i] = self.strings[key] if key >= 0 else None
        return out
