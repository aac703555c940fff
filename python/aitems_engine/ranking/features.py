"""Fitted features: vocabularies, means and counts, and the one gather that training and serving share.

A declaration (declaration.py) says what there is; `fit` learns the tables from impressions; `gather` turns histories
and candidates into a `FeatureBatch` in one native call (csrc/batch). It does not know files or labels.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aitems_engine._native import batch as native
from aitems_engine.bundle import canonical_json
from aitems_engine.catalog.items import ItemTable
from aitems_engine.errors import ConfigError, DataError, InvalidInputError
from aitems_engine.ranking.batches import FeatureBatch, FieldSpec
from aitems_engine.ranking.declaration import (
    EVENTS,
    ITEM_ID,
    Context,
    FeatureConfig,
    HistoryLast,
    HistoryLength,
    HistoryMatch,
    HistoryNumber,
    HistoryRecency,
    Hour,
    ItemAge,
    ItemCode,
    ItemCount,
    ItemNumber,
    ItemRate,
    Position,
    Weekday,
    name_of,
)

Counts = npt.NDArray[np.int64]
_DAY_MS = 86_400_000
# a column that hardly varied in training tells nothing there and would explode elsewhere
_LEAST_DEVIATION = 1e-3
# enough for means and deviations
_FIT_ROWS = 500_000


class Histories(Protocol):
    """Packed histories such as `events.Interactions`; items may be -1 for unknown ones."""

    @property
    def splits(self) -> npt.NDArray[np.int64]:
        """Bounds of each history."""
        ...

    @property
    def items(self) -> npt.NDArray[np.int32]:
        """Positions in the catalogue, oldest first."""
        ...

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """Milliseconds since 1970, -1 unknown."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureQuery:
    """Requests with their candidates, packed.

    Attributes
    ----------
    events, event_times : int32 and int64 arrays, shape (num_events,)
        Items of the histories, oldest first, -1 for unknown ones; milliseconds since 1970, -1 unknown.
    begins, ends : int64 arrays, shape (num_requests,)
        The history of request r is ``events[begins[r]:ends[r]]``; histories may overlap.
    now : int64 array, shape (num_requests,)
        Milliseconds since 1970, -1 unknown.
    candidates : int32 array, shape (n,)
        Positions in the catalogue, -1 for unknown items.
    splits : int64 array, shape (num_requests + 1,)
        The candidates of request r are ``candidates[splits[r]:splits[r + 1]]``.
    context : mapping of name to texts, one a request
        None where unknown; names that no feature uses are ignored.
    positions : int32 array, shape (n,), optional
        Training only: where each was shown, from 1; 0 unknown.
    counts : int64 array, shape (n, 3), optional
        Training only: impressions, clicks and purchases of each candidate before the request.
    """

    events: npt.NDArray[np.int32]
    event_times: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    now: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int64]
    context: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    positions: npt.NDArray[np.int32] | None = None
    counts: Counts | None = None

    @classmethod
    def of(
        cls,
        histories: Histories,
        candidates: npt.NDArray[np.int32],
        splits: npt.NDArray[np.int64],
        now: npt.NDArray[np.int64],
        context: Mapping[str, Sequence[str | None]] | None = None,
    ) -> FeatureQuery:
        """Return what serving asks for: one history, time, context and stretch of candidates a request."""
        bounds = histories.splits
        return cls(histories.items, histories.times, bounds[:-1], bounds[1:], now, candidates, splits, context or {})

    def requests(self, begin: int, end: int) -> FeatureQuery:
        """Return the requests from `begin` to `end` alone."""
        rows = slice(int(self.splits[begin]), int(self.splits[end]))
        return FeatureQuery(
            self.events,
            self.event_times,
            self.begins[begin:end],
            self.ends[begin:end],
            self.now[begin:end],
            self.candidates[rows],
            self.splits[begin : end + 1] - self.splits[begin],
            {name: values[begin:end] for name, values in self.context.items()},
            None if self.positions is None else self.positions[rows],
            None if self.counts is None else self.counts[rows],
        )


class FeatureSet:
    """Features with everything they need to be computed. Immutable; safe for calls from many threads.

    Parameters
    ----------
    config : FeatureConfig
    items : ItemTable
        May be newer than the one it was fitted on: attributes are looked up by name.
    vocabularies : mapping of feature name to list of str
        The value of code 1, 2, ...; hash buckets follow.
    center, scale : float32 arrays, shape (D,), or empty
        Dense column x becomes ``(x - center) * scale``, cut off at +-10, and 0 where x is unknown. Empty: x itself.
    counts : int64 array, shape (num_items, 3)
        Impressions, clicks and purchases of each item, for serving.
    totals : tuple of int
        The same of all items in training: what the rates of `ItemRate` are compared with.

    Raises
    ------
    ConfigError
        A feature of an attribute or number that the catalogue does not have.
    InvalidInputError
        Tables that do not fit the declaration or the catalogue.
    """

    def __init__(
        self,
        config: FeatureConfig,
        items: ItemTable,
        vocabularies: Mapping[str, Sequence[str]],
        center: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        counts: Counts,
        totals: tuple[int, int, int],
    ) -> None:
        _check_catalogue(config, items)
        self.config, self.items = config, items
        self.vocabularies = {name: list(values) for name, values in vocabularies.items()}
        self.center, self.scale = np.asarray(center, np.float32), np.asarray(scale, np.float32)
        self.counts, self.totals = np.asarray(counts, np.int64), totals
        if self.counts.shape != (len(items), len(EVENTS)) or self.counts.min(initial=0) < 0:
            raise InvalidInputError(
                f"counts must be 0 or more for each of {len(items)} items and {', '.join(EVENTS)}, "
                f"got shape {self.counts.shape}"
            )
        coded = {name_of(f) for f in config.coded}
        if coded != set(self.vocabularies):
            raise InvalidInputError(f"vocabularies are needed of {sorted(coded)}, got {sorted(self.vocabularies)}")
        self._contexts = [
            (f.name, {v: i + 1 for i, v in enumerate(self.vocabularies[name_of(f)])}, f.buckets)
            for f in config.of(Context)
        ]
        self._table = self._native_table()

    @classmethod
    def fit(cls, config: FeatureConfig, items: ItemTable, shown: FeatureQuery, counts: Counts) -> FeatureSet:
        """Return the features with tables learnt from impressions.

        Parameters
        ----------
        config : FeatureConfig
        items : ItemTable
        shown : FeatureQuery
            The impressions to learn from, with `counts` as of each.
        counts : int64 array, shape (num_items, 3)
            Those at the end of the impressions, for serving.
        """
        if shown.counts is None:
            raise InvalidInputError("the impressions need the counts as of each, or the features would know the future")
        _check_catalogue(config, items)
        vocabularies = _vocabularies(config, items, shown)
        nothing = np.zeros(0, np.float32)
        totals = tuple(int(v) for v in counts.sum(axis=0))
        raw = cls(config, items, vocabularies, nothing, nothing, counts, (totals[0], totals[1], totals[2]))
        dense = raw.gather(_spread(shown, _FIT_ROWS)).dense.astype(np.float64)
        known = np.isfinite(dense)
        number = np.maximum(known.sum(axis=0), 1)
        center = np.where(known, dense, 0).sum(axis=0) / number
        deviation = np.sqrt((np.where(known, dense - center, 0) ** 2).sum(axis=0) / number)
        flags = np.array([name.endswith("missing") for name in raw.spec.dense_names], bool)
        varies = deviation >= _LEAST_DEVIATION
        scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
        center, scale = np.where(flags, 0, center), np.where(flags, 1, scale)
        return cls(config, items, vocabularies, center.astype(np.float32), scale.astype(np.float32), counts, raw.totals)

    def with_counts(self, counts: Counts) -> FeatureSet:
        """Return the same features with other counts of the items, for serving at another time."""
        return FeatureSet(self.config, self.items, self.vocabularies, self.center, self.scale, counts, self.totals)

    @cached_property
    def spec(self) -> FieldSpec:
        """Cardinalities and names of the columns of `gather`."""
        config = self.config
        sizes = {name_of(f): 1 + len(self.vocabularies[name_of(f)]) + f.buckets for f in config.coded}
        codes = {name_of(f): sizes[name_of(f)] for f in config.of(ItemCode)}
        codes |= {name_of(f): sizes[name_of(ItemCode(f.attribute))] for f in config.of(HistoryLast)}
        codes |= {name_of(f): sizes[name_of(f)] for f in config.of(Context)}
        codes |= {name_of(f): 25 for f in config.of(Hour)} | {name_of(f): 8 for f in config.of(Weekday)}
        codes |= {name_of(f): f.max + 1 for f in config.of(Position)}
        dense = [f"{name_of(f)}{end}" for f in config.of(ItemNumber) for end in ("", ".missing")]
        dense += [name_of(f) for f in config.of(ItemRate)] + [name_of(f) for f in config.of(ItemCount)]
        dense += [f"{name_of(f)}{end}" for f in config.of(ItemAge) for end in ("", ".missing")]
        dense += [f"{name_of(f)}{end}" for f in config.of(HistoryMatch) for end in ("", ".share")]
        dense += [name_of(f) for f in config.of(HistoryNumber)]
        dense += [name_of(f) for f in config.of(HistoryRecency)] + [name_of(f) for f in config.of(HistoryLength)]
        of_request = len(codes) - len(config.of(ItemCode))
        return FieldSpec(tuple(codes.values()), len(dense), tuple(codes), tuple(dense), of_request)

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names that `FeatureQuery.context` should have."""
        return tuple(f.name for f in self.config.of(Context))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what a trained network depends on: everything but the counts and the items."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    @property
    def bytes(self) -> int:
        """Memory of the items' rows."""
        return self._table.bytes

    def gather(self, query: FeatureQuery, *, out: FeatureBatch | None = None, threads: int = 1) -> FeatureBatch:
        """Return the features of each candidate.

        Parameters
        ----------
        query : FeatureQuery
        out : FeatureBatch, optional
            Its arrays are filled in place of new ones; of exactly as many rows.
        threads : int
            0 = all cores; requests are shared out, so one request runs in one thread.

        Raises
        ------
        InvalidInputError
            Wrong dtype or shape, or a position beyond the catalogue.

        Notes
        -----
        Unknown items, attributes and texts have code 0; a value that is not known is 0 after standardising, its mean.
        """
        n = len(query.candidates)
        if out is None:
            spec = self.spec
            out = FeatureBatch(np.empty((n, len(spec.cardinalities)), np.int32), np.empty((n, spec.dense), np.float32))
        try:
            self._table.gather(
                query.events,
                query.event_times,
                query.begins,
                query.ends,
                query.now,
                self._context_codes(query),
                query.candidates,
                query.splits,
                out.codes,
                out.dense,
                None if query.counts is None else self._statistics(query.counts),
                query.positions,
                threads,
            )
        except TypeError as error:
            raise InvalidInputError(
                f"columns must be C-contiguous, of the documented dtypes, got {_dtypes(query)}"
            ) from error
        # positions are of the rows
        return replace(out, splits=query.splits if query.positions is None else None)

    def to_json(self) -> dict[str, Any]:
        """Return everything but counts and items as JSON values."""
        return {
            "declaration": self.config.to_json(),
            "vocabularies": self.vocabularies,
            "center": [float(v) for v in self.center],
            "scale": [float(v) for v in self.scale],
            "totals": list(self.totals),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], items: ItemTable, counts: Counts) -> FeatureSet:
        """Return the features that `to_json` wrote.

        Raises
        ------
        DataError
            Values that are not what `to_json` writes.
        """
        try:
            config = FeatureConfig.from_json(value["declaration"])
            center, scale = (np.array(value[key], np.float32) for key in ("center", "scale"))
            first, second, third = (int(v) for v in value["totals"])
            return cls(config, items, value["vocabularies"], center, scale, counts, (first, second, third))
        except (ConfigError, InvalidInputError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the features do not fit together: {error}") from error

    def _context_codes(self, query: FeatureQuery) -> npt.NDArray[np.int32]:
        count = len(query.now)
        codes = np.zeros((count, len(self._contexts)), np.int32)
        for column, (name, vocabulary, buckets) in enumerate(self._contexts):
            values = query.context.get(name)
            if values is None:
                continue
            if len(values) != count:
                raise InvalidInputError(f"context '{name}' must have one text a request ({count}), got {len(values)}")
            for row, value in enumerate(values):
                if isinstance(value, str):
                    codes[row, column] = vocabulary.get(value) or _bucket(value, len(vocabulary), buckets)
        return codes

    def _statistics(self, counts: Counts) -> npt.NDArray[np.float32]:
        """Return the statistics, float32 (n, S), of counts (n, 3)."""
        config, at = self.config, {event: i for i, event in enumerate(EVENTS)}
        columns = []
        for f in config.of(ItemRate):
            # one event more, so that a shop without clicks has a rate
            common = (self.totals[at[f.of]] + 1) / (self.totals[at[f.per]] + 1)
            rate = (counts[:, at[f.of]] + f.strength * common) / (counts[:, at[f.per]] + f.strength)
            columns.append(np.log(rate / common))
        columns += [np.log1p(counts[:, at[f.of]]) for f in config.of(ItemCount)]
        rows: npt.NDArray[np.float32] = np.array(columns, np.float32).reshape(len(columns), len(counts)).T.copy()
        return rows

    def _native_table(self) -> native.FeatureTable:
        config, items = self.config, self.items
        statics: list[npt.NDArray[np.float32]] = []
        for number in config.of(ItemNumber):
            values = _number(items, number.column, number.log)
            statics += [values, np.isnan(values).astype(np.float32)]
        statistics = self._statistics(np.append(self.counts, np.zeros((1, len(EVENTS)), np.int64), axis=0))
        attributes = [f.attribute for f in config.of(ItemCode)]
        position = next(iter(config.of(Position)), Position(0))
        return native.FeatureTable(
            codes=[self._item_codes(f) for f in config.of(ItemCode)],
            matches=[_attribute(items, f.attribute) for f in config.of(HistoryMatch)],
            statics=statics,
            statistics=[np.ascontiguousarray(column) for column in statistics.T],
            numbers=[_number(items, f.column, True) for f in config.of(HistoryNumber)],
            registered_at=np.append(items.registered_at, -1),
            half_lives_ms=[f.half_life_days * _DAY_MS for f in config.of(HistoryMatch)],
            last_codes=[attributes.index(f.attribute) for f in config.of(HistoryLast)],
            contexts=len(self._contexts),
            hour=bool(config.of(Hour)),
            weekday=bool(config.of(Weekday)),
            utc_offset_ms=round(config.utc_offset_hours * 3_600_000),
            position_max=position.max,
            position_serving=position.serving,
            age=bool(config.of(ItemAge)),
            recency=bool(config.of(HistoryRecency)),
            length=bool(config.of(HistoryLength)),
            history_max=config.history_max,
            center=self.center.tolist(),
            scale=self.scale.tolist(),
        )

    def _item_codes(self, feature: ItemCode) -> npt.NDArray[np.int32]:
        vocabulary = {v: i + 1 for i, v in enumerate(self.vocabularies[name_of(feature)])}
        names = _names(self.items, feature.attribute)
        code_of = [vocabulary.get(v) or _bucket(v, len(vocabulary), feature.buckets) for v in names]
        # unknown is -1, which picks the last
        return np.array([*code_of, 0], np.int32)[_attribute(self.items, feature.attribute)]


def _check_catalogue(config: FeatureConfig, items: ItemTable) -> None:
    attributes: list[ItemCode | HistoryMatch] = [*config.of(ItemCode), *config.of(HistoryMatch)]
    for f in attributes:
        if f.attribute != ITEM_ID and f.attribute not in items.codes:
            raise ConfigError(f"'{name_of(f)}': the catalogue has the attributes {', '.join(items.codes) or 'none'}")
    numbers: list[ItemNumber | HistoryNumber] = [*config.of(ItemNumber), *config.of(HistoryNumber)]
    for n in numbers:
        if n.column not in items.numbers:
            raise ConfigError(f"'{name_of(n)}': the catalogue has the numbers {', '.join(items.numbers) or 'none'}")


def _bucket(value: str, vocabulary: int, buckets: int) -> int:
    return 1 + vocabulary + zlib.crc32(value.encode("utf-8", "surrogatepass")) % buckets if buckets else 0


def _names(items: ItemTable, attribute: str) -> list[str]:
    return items.item_ids if attribute == ITEM_ID else items.names[attribute]


def _attribute(items: ItemTable, attribute: str) -> npt.NDArray[np.int32]:
    codes = np.arange(len(items), dtype=np.int32) if attribute == ITEM_ID else items.codes[attribute]
    return np.append(codes, np.int32(-1))


def _number(items: ItemTable, column: str, log: bool) -> npt.NDArray[np.float32]:
    """Return the column with the unknown item's row; NaN where unknown, infinite, or negative under the log."""
    values = np.append(items.numbers[column], np.float32(np.nan)).astype(np.float64)
    values[~np.isfinite(values) | (log & (values < 0))] = np.nan
    return (np.log1p(values) if log else values).astype(np.float32)


def _vocabularies(config: FeatureConfig, items: ItemTable, shown: FeatureQuery) -> dict[str, list[str]]:
    found = {}
    times_shown = np.bincount(shown.candidates + 1, minlength=len(items) + 1)[1:]
    for feature in config.of(ItemCode):
        names = _names(items, feature.attribute)
        codes = _attribute(items, feature.attribute)[:-1]
        count = np.bincount(codes + 1, times_shown, minlength=len(names) + 1)[1:]
        found[name_of(feature)] = [names[i] for i in np.flatnonzero(count >= feature.min_count).tolist()]
    rows = np.diff(shown.splits).tolist()
    for context in config.of(Context):
        counter: Counter[str] = Counter()
        for value, number in zip(shown.context.get(context.name, [None] * len(rows)), rows, strict=True):
            if value is not None:
                counter[value] += number
        found[name_of(context)] = sorted(v for v, number in counter.items() if number >= context.min_count)
    return found


def _spread(shown: FeatureQuery, rows: int) -> FeatureQuery:
    """Return about so many rows, of requests evenly spread."""
    requests = len(shown.now)
    step = max(1, -(-len(shown.candidates) // rows))
    if step == 1:
        return shown
    chosen = np.arange(0, requests, step)
    lengths = np.diff(shown.splits)[chosen]
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.arange(splits[-1]) + np.repeat(shown.splits[chosen] - splits[:-1], lengths)
    return FeatureQuery(
        shown.events,
        shown.event_times,
        shown.begins[chosen],
        shown.ends[chosen],
        shown.now[chosen],
        shown.candidates[index],
        splits,
        {name: [values[i] for i in chosen.tolist()] for name, values in shown.context.items()},
        None if shown.positions is None else shown.positions[index],
        None if shown.counts is None else shown.counts[index],
    )


def _dtypes(query: FeatureQuery) -> str:
    columns = ("events", "event_times", "begins", "ends", "now", "candidates", "splits", "positions", "counts")
    return ", ".join(f"{name} {getattr(getattr(query, name), 'dtype', None)}" for name in columns)
