"""Attribute values of the items of an index: names and values <-> the codes of the native postings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aitems_engine.ann.filters import Value, check_value
from aitems_engine.errors import InvalidInputError

# starts (n + 1), values, number of values known: csrc/ann/segment.hpp, AttributeColumn
Columns = list[tuple[list[int], list[int], int]]


class Attributes:
    """Names of the attributes, and of each the codes of its values. Values only grow."""

    def __init__(self, names: Sequence[str] = (), values: Sequence[Sequence[Value]] = ()) -> None:
        self.names = list(names)
        self._codes: list[dict[tuple[type, Value], int]] = [{} for _ in self.names]
        for codes, held in zip(self._codes, values, strict=True):
            for value in held:
                codes[(type(value), value)] = len(codes)  # 1, True and "1" are three values

    @property
    def values(self) -> list[list[Value]]:
        """Values by attribute, in the order of their codes."""
        return [[value for _, value in codes] for codes in self._codes]

    def encode(self, attribute: str, values: tuple[Value, ...]) -> tuple[int, list[int]]:
        """Return the attribute's number and the codes of those values that some item has had."""
        if attribute not in self.names:
            known = ", ".join(self.names) or "none"
            raise InvalidInputError(f"this index has no attribute '{attribute}'; it has: {known}")
        number = self.names.index(attribute)
        codes = self._codes[number]
        return number, [codes[(type(v), v)] for v in values if (type(v), v) in codes]

    def columns(self, given: Mapping[str, Sequence[object]], count: int) -> Columns:
        """Return the native columns of `count` items, adding new values.

        Parameters
        ----------
        given : {attribute: one entry an item}
            An entry is a value, None (no value), or a list, tuple or set of values.
        """
        if set(given) != set(self.names):
            raise InvalidInputError(f"attributes must be {sorted(self.names)}, got {sorted(given)}")
        columns: Columns = []
        for name, codes in zip(self.names, self._codes, strict=True):
            entries = given[name]
            if isinstance(entries, (str, bytes)) or len(entries) != count:
                raise InvalidInputError(f"attribute '{name}' must have one entry an item ({count}), got {len(entries)}")
            starts, values = [0], []
            for entry in entries:
                several = entry if isinstance(entry, (list, tuple, set, frozenset, np.ndarray)) else [entry]
                held = [check_value(v) for v in several if v is not None]
                values += sorted({codes.setdefault((type(v), v), len(codes)) for v in held})
                starts.append(len(values))
            columns.append((starts, values, len(codes)))
        return columns
