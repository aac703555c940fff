"""Which features there are, as data: what a shop writes down once, for training and serving alike.

It knows no values: vocabularies, means and counts are fitted by `features.FeatureSet`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar, get_args, get_type_hints

from aitems_engine.catalog.items import ItemTable
from aitems_engine.errors import ConfigError

ITEM_ID = "item_id"  # the attribute that every item has for itself
EVENTS = ("impression", "click", "purchase")
_MAX_FEATURES = 200


@dataclass(frozen=True)
class ItemCode:
    """An attribute of the candidate; `item_id` is the candidate itself.

    A value shown less than `min_count` times in training shares one of `buckets` with others (0 buckets: code 0).
    """

    kind: ClassVar[str] = "item_code"
    attribute: str
    min_count: int = 10
    buckets: int = 0


@dataclass(frozen=True)
class ItemNumber:
    """A number of the candidate, `log1p` of it unless `log` is false; and whether it is missing."""

    kind: ClassVar[str] = "item_number"
    column: str
    log: bool = True


@dataclass(frozen=True)
class ItemAge:
    """Days since the candidate was registered, log1p; and whether that is unknown."""

    kind: ClassVar[str] = "item_age"


@dataclass(frozen=True)
class ItemRate:
    """How often `per` became `of` for the candidate so far, as log of its ratio to the rate of all items.

    Smoothed as if `strength` events more of the common rate had been seen. In training the counts are as of the
    impression; in serving those the `FeatureSet` holds.
    """

    kind: ClassVar[str] = "item_rate"
    of: str = "click"
    per: str = "impression"
    strength: float = 20.0


@dataclass(frozen=True)
class ItemCount:
    """How often `of` happened to the candidate so far, log1p; counts as in `ItemRate`."""

    kind: ClassVar[str] = "item_count"
    of: str = "click"


@dataclass(frozen=True)
class HistoryLast:
    """The attribute of the newest item of the history; needs an `ItemCode` of it, whose codes it shares."""

    kind: ClassVar[str] = "history_last"
    attribute: str


@dataclass(frozen=True)
class HistoryMatch:
    """Events of the history whose item shares the candidate's attribute, halved every `half_life_days`.

    Two columns: log1p of their number, and their share of the events whose attribute is known. An event without a
    time counts in full.
    """

    kind: ClassVar[str] = "history_match"
    attribute: str
    half_life_days: float = 30.0


@dataclass(frozen=True)
class HistoryNumber:
    """log1p of a number of the candidate less the mean of the same over the history: dearer or cheaper than usual."""

    kind: ClassVar[str] = "history_number"
    column: str


@dataclass(frozen=True)
class HistoryRecency:
    """Seconds since the newest event, log1p."""

    kind: ClassVar[str] = "history_recency"


@dataclass(frozen=True)
class HistoryLength:
    """Number of events, log1p; all of them, not only the newest."""

    kind: ClassVar[str] = "history_length"


@dataclass(frozen=True)
class Context:
    """A text of the request, such as the placement or the user's id; counted and hashed as `ItemCode`."""

    kind: ClassVar[str] = "context"
    name: str
    min_count: int = 10
    buckets: int = 0


@dataclass(frozen=True)
class Hour:
    """Hour of the day where the shop is."""

    kind: ClassVar[str] = "hour"


@dataclass(frozen=True)
class Weekday:
    """Day of the week where the shop is."""

    kind: ClassVar[str] = "weekday"


@dataclass(frozen=True)
class Position:
    """Where on the page the item was shown, up to `max`; in serving always `serving`, as nobody knows yet."""

    kind: ClassVar[str] = "position"
    max: int = 20
    serving: int = 1


Feature: TypeAlias = (
    ItemCode
    | ItemNumber
    | ItemAge
    | ItemRate
    | ItemCount
    | HistoryLast
    | HistoryMatch
    | HistoryNumber
    | HistoryRecency
    | HistoryLength
    | Context
    | Hour
    | Weekday
    | Position
)
KINDS: dict[str, type[Feature]] = {c.kind: c for c in get_args(Feature)}
_LEAST = {"min_count": 1, "buckets": 0, "max": 1, "serving": 1, "strength": 0.01, "half_life_days": 0.001}
_MOST = 1 << 24
_F = TypeVar("_F")


@dataclass(frozen=True)
class FeatureConfig:
    """The declared features.

    Attributes
    ----------
    features : tuple of Feature
        Columns come in the order of `FeatureSet.spec`, within a kind as declared here.
    history_max : int
        Only so many newest events of a history are looked at, in training as in serving.
    utc_offset_hours : float
        The shop's clock, for `Hour` and `Weekday`.

    Raises
    ------
    ConfigError
        A value out of range, a feature twice, or one that needs another; names the feature.
    """

    features: tuple[Feature, ...]
    history_max: int = 100
    utc_offset_hours: float = 9.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.features) <= _MAX_FEATURES:
            raise ConfigError(f"1 to {_MAX_FEATURES} features must be declared, got {len(self.features)}")
        if not 1 <= self.history_max <= _MOST:
            raise ConfigError(f"history_max must be from 1 to {_MOST}, got {self.history_max}")
        if not -24 <= self.utc_offset_hours <= 24:
            raise ConfigError(f"utc_offset_hours must be from -24 to 24, got {self.utc_offset_hours}")
        seen: set[str] = set()
        for feature in self.features:
            _check(feature)
            name = name_of(feature)
            if name in seen:
                raise ConfigError(f"feature '{name}' is declared twice")
            seen.add(name)
        coded = {f.attribute for f in self.of(ItemCode)}
        for last in self.of(HistoryLast):
            if last.attribute not in coded:
                raise ConfigError(f"'{name_of(last)}' needs an item_code of '{last.attribute}', whose codes it shares")

    @classmethod
    def default(cls, items: ItemTable, contexts: tuple[str, ...] = ("placement",)) -> FeatureConfig:
        """Return features for the attributes and numbers that the catalogue has."""
        attributes, numbers = sorted(items.codes), sorted(items.numbers)
        return cls(
            (
                ItemCode(ITEM_ID, min_count=20),
                *(ItemCode(a) for a in attributes),
                *(ItemNumber(n) for n in numbers),
                ItemAge(),
                ItemRate(),
                ItemRate("purchase", "click"),
                ItemCount("impression"),
                ItemCount("click"),
                *(HistoryLast(a) for a in attributes),
                HistoryMatch(ITEM_ID),
                *(HistoryMatch(a) for a in attributes),
                *(HistoryNumber(n) for n in numbers),
                HistoryRecency(),
                HistoryLength(),
                *(Context(c) for c in contexts),
                Hour(),
                Weekday(),
                Position(),
            )
        )

    def of(self, kind: type[_F]) -> list[_F]:
        """Return the features of one kind, as declared."""
        return [f for f in self.features if isinstance(f, kind)]

    @property
    def coded(self) -> list[ItemCode | Context]:
        """The features that have a vocabulary."""
        return [*self.of(ItemCode), *self.of(Context)]

    def to_json(self) -> dict[str, Any]:
        """Return the declaration as JSON values."""
        return {
            "history_max": self.history_max,
            "utc_offset_hours": self.utc_offset_hours,
            "features": [{"kind": f.kind, **dataclasses.asdict(f)} for f in self.features],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FeatureConfig:
        """Return the declaration that `to_json` wrote or a person did; absent values have their defaults.

        Raises
        ------
        ConfigError
            An unknown kind or key, or a value of another type; names the place.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("features"), list):
            raise ConfigError("features must be declared as {'features': [{'kind': ..., ...}, ...], ...}")
        features = [_feature(entry, i) for i, entry in enumerate(value["features"])]
        rest = {key: v for key, v in value.items() if key != "features"}
        _check_types("the declaration of features", cls, rest)
        return cls(tuple(features), **rest)


def name_of(feature: Feature) -> str:
    """Return the name of a feature: its kind and what it is of."""
    values = dataclasses.asdict(feature)
    of = [str(values[key]) for key in ("attribute", "column", "name", "of", "per") if key in values]
    return ".".join([feature.kind, *of])


def _feature(entry: Any, number: int) -> Feature:
    where = f"feature {number}"
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where}: kind must be one of {', '.join(KINDS)}, got {str(kind)[:40]!r}")
    values = {key: v for key, v in entry.items() if key != "kind"}
    _check_types(f"{where} ({kind})", KINDS[kind], values)
    try:
        return KINDS[kind](**values)
    except TypeError as error:
        raise ConfigError(f"{where} ({kind}): {str(error).split('() ')[-1]}") from None


def _check_types(where: str, of: type[Any], values: Mapping[str, Any]) -> None:
    hints = {f.name: get_type_hints(of)[f.name] for f in dataclasses.fields(of) if f.name != "features"}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: '{str(key)[:40]}' is not one of {', '.join(hints) or 'no'} settings")
        wanted = hints[key]
        fits = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise ConfigError(f"{where}: '{key}' must be {wanted.__name__}, got {str(value)[:40]!r}")


def _check(feature: Feature) -> None:
    for key, value in dataclasses.asdict(feature).items():
        if key in _LEAST and not (math.isfinite(value) and _LEAST[key] <= value <= _MOST):
            raise ConfigError(f"'{name_of(feature)}': {key} must be from {_LEAST[key]} to {_MOST}, got {value}")
    if isinstance(feature, Position) and feature.serving > feature.max:
        raise ConfigError(f"'position': serving must be from 1 to max ({feature.max}), got {feature.serving}")
    if isinstance(feature, (ItemRate, ItemCount)) and feature.of not in EVENTS:
        raise ConfigError(f"'{name_of(feature)}': of must be one of {', '.join(EVENTS)}, got {feature.of[:40]!r}")
    if isinstance(feature, ItemRate) and (feature.per not in EVENTS or feature.per == feature.of):
        raise ConfigError(f"'{name_of(feature)}': per must be another of {', '.join(EVENTS)}, got {feature.per[:40]!r}")
