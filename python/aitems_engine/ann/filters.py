"""Filters of a search: expressions over attribute values, ids and bitmaps, combined with `&`, `|` and `~`.

A filter is plain data and knows no index: the same one serves every index that has its attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import InvalidInputError

Value = str | int | bool
Program = list[tuple[object, ...]]
# how an index turns names into codes: (attribute, values) -> (attribute number, codes of the values it knows)
Encode = Callable[[str, tuple[Value, ...]], tuple[int, list[int]]]
EncodeIds = Callable[[Sequence[object]], NDArray[np.int64]]

# kinds of csrc/ann/filter.hpp
_VALUES, _IDS, _BITMAP, _AND, _OR, _NOT = range(6)
_ITEMS_MAX = 1 << 28


@dataclass(frozen=True, eq=False)
class Filter:
    """Says which items a search may return.

    Made by `eq`, `isin`, `ids` and `bitmap`, and combined: ``Filter.eq("mall", "m17") & ~Filter.ids([5, 9])``.

    Notes
    -----
    An item matches `eq` when the value is one of the item's values; an item without values matches none. A value
    that no item has matches nothing; an attribute that the index does not have is an error at search time.
    """

    kind: int
    attribute: str = ""
    values: tuple[Value, ...] = ()
    held_ids: tuple[object, ...] | NDArray[np.int64] = ()
    bits: NDArray[np.uint8] | None = field(default=None, repr=False)
    operands: tuple[Filter, ...] = ()

    @staticmethod
    def eq(attribute: str, value: Value) -> Filter:
        """Return the filter for items that have `value` among their values of `attribute`."""
        return Filter.isin(attribute, [value])

    @staticmethod
    def isin(attribute: str, values: Iterable[Value]) -> Filter:
        """Return the filter for items that have any of `values` (an empty iterable matches nothing)."""
        if not isinstance(attribute, str):
            raise InvalidInputError(f"attribute must be a name, got {type(attribute).__name__}")
        if isinstance(values, (str, bytes)):
            raise InvalidInputError(
                "values must be several values, got one string; use Filter.eq or put it into a list"
            )
        held = tuple(check_value(v) for v in values)
        return Filter(_VALUES, attribute=attribute, values=held)

    @staticmethod
    def ids(ids: Iterable[int] | Iterable[str] | NDArray[np.int64]) -> Filter:
        """Return the filter for these ids (allow-list; put `~` in front for a deny-list). Unknown ids match nothing."""
        if isinstance(ids, np.ndarray):
            if ids.ndim != 1 or ids.dtype.kind not in "iuU":
                raise InvalidInputError(f"ids must be one-dimensional integers or strings, got {ids.dtype} {ids.shape}")
            held = ids.tolist() if ids.dtype.kind == "U" else ids
        else:
            held = list(ids)
            if held and all(type(i) is int and -(1 << 63) <= i < 1 << 63 for i in held):
                held = np.array(held, np.int64)
        # sorted once, here, however often the filter is used
        return Filter(_IDS, held_ids=np.unique(held.astype(np.int64)) if isinstance(held, np.ndarray) else tuple(held))

    @staticmethod
    def bitmap(allowed: NDArray[np.bool_]) -> Filter:
        """Return the filter for the integer ids i with ``allowed[i]``; ids past the end are not allowed.

        Parameters
        ----------
        allowed : bool array, shape (n,)
        """
        if not isinstance(allowed, np.ndarray) or allowed.dtype != np.bool_ or allowed.ndim != 1:
            raise InvalidInputError("bitmap must be a one-dimensional bool array")
        if len(allowed) > _ITEMS_MAX:
            raise InvalidInputError(f"a bitmap holds at most {_ITEMS_MAX} ids, got {len(allowed)}; use Filter.ids")
        return Filter(_BITMAP, bits=np.ascontiguousarray(allowed).view(np.uint8))

    def __and__(self, other: Filter) -> Filter:
        return Filter(_AND, operands=(self, _filter(other)))

    def __or__(self, other: Filter) -> Filter:
        return Filter(_OR, operands=(self, _filter(other)))

    def __invert__(self) -> Filter:
        return Filter(_NOT, operands=(self,))

    def program(self, encode: Encode, encode_ids: EncodeIds, *, string_ids: bool) -> Program:
        """Return the postfix program of csrc/ann/filter.hpp (made without recursion: a long chain is no danger)."""
        out: Program = []
        pending: list[tuple[Filter, bool]] = [(self, False)]
        while pending:
            node, operands_done = pending.pop()
            if node.kind in (_AND, _OR, _NOT) and not operands_done:
                pending.append((node, True))
                pending.extend((operand, False) for operand in reversed(node.operands))
            elif node.kind == _VALUES:
                attribute, codes = encode(node.attribute, node.values)
                out.append((_VALUES, attribute, sorted(codes)))
            elif node.kind == _IDS:
                if string_ids and isinstance(node.held_ids, np.ndarray):
                    raise InvalidInputError("this index has string ids, got a filter over integer ids")
                held = node.held_ids
                out.append((_IDS, held if isinstance(held, np.ndarray) else np.unique(encode_ids(held))))
            elif node.kind == _BITMAP:
                if string_ids:
                    raise InvalidInputError("this index has string ids; a bitmap needs integer ids")
                out.append((_BITMAP, node.bits))
            else:
                out.append((node.kind,))
        return out


def key_of(program: Program) -> tuple[object, ...]:
    """Return what is equal for programs that do the same, step by step; hashable."""
    return tuple(
        part.tobytes() if isinstance(part, np.ndarray) else tuple(part) if isinstance(part, list) else part
        for step in program
        for part in step
    )


def denied(program: Program) -> NDArray[np.int64] | None:
    """Return the ids of a program that is a deny-list and nothing else."""
    if [step[0] for step in program] != [_IDS, _NOT]:
        return None
    ids = program[0][1]
    assert isinstance(ids, np.ndarray)
    return ids


def anything() -> Program:
    """Return the program that every item passes: a search with it aims at the recall of filtered searches."""
    return [(_IDS, np.empty(0, np.int64)), (_NOT,)]


def check_value(value: object) -> Value:
    """Return an attribute value, or raise `InvalidInputError` if it is not a string, an integer or a bool."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (str, int, bool)):
        raise InvalidInputError(f"attribute values must be str, int or bool, got {type(value).__name__} {value!r}")
    return value


def _filter(other: object) -> Filter:
    if not isinstance(other, Filter):
        raise InvalidInputError(f"a filter can be combined with a filter only, got {type(other).__name__}")
    return other
