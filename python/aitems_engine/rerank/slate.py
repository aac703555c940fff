"""What a re-rank chain is given and what it returns, for one request.

Rows are candidates of this request; `items` says which item of the catalogue a row is. The same item may have two rows,
one organic and one as an ad: a page shows it once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Slate:
    """Candidates of one request; a column that is None is not known, and rules that need it are skipped and flagged.

    Attributes
    ----------
    items : int32 array, shape (n,)
        Positions in the catalogue.
    scores : float64 array, shape (n,)
        The objective, higher is better; equal ones: the lower row first. A row with NaN or infinity is not shown.
    pctr, pcvr, price : float32 array, shape (n,)
        Predicted click, purchase after a click, price; NaN = unknown, counts as nothing in the ledger.
    codes : mapping of attribute to int32 array, shape (n,)
        -1 = unknown; unknown ones are under no cap.
    catalogue : mapping of attribute to int32 array, shape (num_items,)
        In place of `codes`: those of all items, of which rules look up what they need.
    age_days : float32 array, shape (n,)
        NaN = unknown.
    impressions : int64 array, shape (n,)
        How often the item has been shown.
    is_ad : bool array, shape (n,)
        Shown only where the chain has the rule `ads`.
    bid : float32 array, shape (n,)
        What the advertiser pays for a click; NaN = none.
    vectors : float32 array, shape (n, dim), or of any length with `vector_rows`
    vector_rows : int32 array, shape (n,)
        Row of `vectors` of each candidate: so the vectors of a catalogue need not be copied.
    has_vector : bool array, shape (n,)
        None = all; a vector of zeros counts as missing, too. Not beside `vector_rows`.
    seen, bought, in_stock : bool array, shape (n,)

    Raises
    ------
    InvalidInputError
        Another shape or dtype; names the column.
    """

    items: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    pctr: Floats | None = None
    pcvr: Floats | None = None
    price: Floats | None = None
    codes: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    catalogue: Mapping[str, npt.NDArray[np.int32]] | None = None
    age_days: Floats | None = None
    impressions: npt.NDArray[np.int64] | None = None
    is_ad: Flags | None = None
    bid: Floats | None = None
    vectors: Floats | None = None
    vector_rows: npt.NDArray[np.int32] | None = None
    has_vector: Flags | None = None
    seen: Flags | None = None
    bought: Flags | None = None
    in_stock: Flags | None = None

    def __post_init__(self) -> None:
        n = len(self.items)
        for name, dtype in _COLUMNS.items():
            values: npt.NDArray[Any] | None = getattr(self, name)
            if values is not None:
                _check(name, values, dtype, n)
        vectors, rows = self.vectors, self.vector_rows
        if vectors is not None and (
            vectors.ndim != 2 or vectors.dtype != np.float32 or (rows is None and len(vectors) != n)
        ):
            raise InvalidInputError(f"vectors must be float32 of shape ({n}, dim), got {vectors.dtype} {vectors.shape}")
        if rows is not None and (vectors is None or self.has_vector is not None):
            raise InvalidInputError("vector_rows go with vectors, and not with has_vector: a vector of zeros is none")

    def __len__(self) -> int:
        return len(self.items)

    def part(self, rows: slice) -> Slate:
        """Return the candidates of a stretch, as views; what was checked is not checked again."""
        part = object.__new__(Slate)
        own = {name: None if (values := getattr(self, name)) is None else values[rows] for name in _COLUMNS}
        codes = {name: values[rows] for name, values in self.codes.items()}
        vectors = self.vectors if self.vector_rows is not None or self.vectors is None else self.vectors[rows]
        part.__dict__.update(own, codes=codes, catalogue=self.catalogue, vectors=vectors)
        return part

    def has(self, attribute: str) -> bool:
        """Return whether the attribute is known."""
        return attribute in (self.codes if self.catalogue is None else self.catalogue)

    def attribute(self, name: str) -> npt.NDArray[np.int32]:
        """Return the codes of an attribute, checked."""
        codes = self.codes[name] if self.catalogue is None else self.catalogue[name][self.items]
        _check(f"codes['{name}']", codes, np.dtype(np.int32), len(self))
        return codes

    def codes_to_look_up(self, name: str) -> tuple[npt.NDArray[np.int32], bool]:
        """Return the codes of an attribute by item and True, or by row and False."""
        return (self.attribute(name), False) if self.catalogue is None else (self.catalogue[name], True)


_COLUMNS: dict[str, np.dtype[Any]] = {
    "items": np.dtype(np.int32),
    "vector_rows": np.dtype(np.int32),
    "scores": np.dtype(np.float64),
    **dict.fromkeys(("pctr", "pcvr", "price", "age_days", "bid"), np.dtype(np.float32)),
    "impressions": np.dtype(np.int64),
    **dict.fromkeys(("is_ad", "has_vector", "seen", "bought", "in_stock"), np.dtype(np.bool_)),
}


def _check(name: str, values: npt.NDArray[Any], dtype: np.dtype[Any], n: int) -> None:
    if values.dtype != dtype or values.shape != (n,):
        raise InvalidInputError(f"{name} must be {dtype} of shape ({n},), got {values.dtype} {values.shape}")


@dataclass(frozen=True, eq=False)
class RuleContext:
    """What rules know of the request beside its candidates.

    Attributes
    ----------
    k : int >= 1
    seed : int
        All chance comes from it: the same slate, context and configuration give the same page.
    history_codes : mapping of attribute to int32 array, shape (num_events,)
        Of the user's history, oldest first, for `calibrated`.
    previous_items, excluded_items : int32 array
        Catalogue positions of earlier pages, and of what this request does not want; never shown.
    previous_codes : mapping of attribute to int32 array
        Of the items of earlier pages in the order they were shown, for `spacing`.
    goal_probability : float or None
        That the user knows what they want (`UserModeModel`); None = not known, the dial stands in the middle.
    cold_share : float or None
        What a `FreshnessController` asks of this page; None = the share of the configuration.
    """

    k: int
    seed: int = 0
    history_codes: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    previous_items: npt.NDArray[np.int32] | None = None
    previous_codes: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    excluded_items: npt.NDArray[np.int32] | None = None
    goal_probability: float | None = None
    cold_share: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 10_000:
            raise InvalidInputError(f"k must be from 1 to 10000, got {self.k}")
        for name in ("goal_probability", "cold_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidInputError(f"{name} must be from 0 to 1 or None, got {value}")


class LedgerEntry(NamedTuple):
    """What one rule did to the page, and what that costs by the predictions.

    Attributes
    ----------
    rule : str
    filtered : int
        Candidates the rule took out.
    dropped, moved : int
        Rows that left the page with this rule, and rows that stayed on it at another position.
    delta_clicks, delta_revenue : float
        Change of the page's predicted clicks and revenue, weighted by position.
    note : str
    """

    rule: str
    filtered: int
    dropped: int
    moved: int
    delta_clicks: float
    delta_revenue: float
    note: str


class Step(NamedTuple):
    """The page after a rule."""

    rule: str
    filtered: int
    rows: Rows
    clicks: float
    revenue: float
    note: str


@dataclass(frozen=True, eq=False)
class Reranked:
    """A page.

    Attributes
    ----------
    order : int64 array, shape (m,)
        Rows of the slate; m < k only with a `short_reason`.
    is_ad : bool array, shape (m,)
        Whether the row was placed as an ad and must be labelled as one.
    propensities : float32 array, shape (m,)
        Probability of this row at this position given the rows before it; 1 where nothing was left to chance.
    flags : tuple of str
        For example "freshness_infeasible", "relaxed cap:mall", "dpp skipped: no vectors".
    relaxed : mapping of rule to int
        Positions for which a rule was given up.
    cold_share : float
        Share of the positions' weights with cold items (0 without the rule `freshness`).
    organic_loss : float
        Share of the organic items' value that the ads cost.
    short_reason : str or None
    """

    order: Rows
    is_ad: Flags
    propensities: Floats
    _again: Callable[[], tuple[Step, ...]] = field(repr=False)
    flags: tuple[str, ...]
    relaxed: Mapping[str, int]
    cold_share: float
    organic_loss: float
    short_reason: str | None

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The page before any rule, then after each; made when it is first asked for, of the same candidates."""
        return self._again()

    @cached_property
    def ledger(self) -> list[LedgerEntry]:
        """One entry a rule; the deltas add up to the difference between the first and the last page."""
        entries = []
        for before, after in pairwise(self.steps):
            was, now = before.rows.tolist(), after.rows.tolist()
            known = set(was)
            elsewhere = (row for row, other in zip_longest(now, was) if row != other)
            entries.append(
                LedgerEntry(
                    after.rule,
                    after.filtered,
                    len(known.difference(now)),
                    sum(row in known for row in elsewhere),
                    after.clicks - before.clicks,
                    after.revenue - before.revenue,
                    after.note,
                )
            )
        return entries
