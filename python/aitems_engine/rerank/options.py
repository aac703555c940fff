"""Options of rules: what may stand in a configuration, checked when it is loaded; errors name the path in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aitems_engine.errors import ConfigError

REQUIRED: Any = object()


@dataclass(frozen=True)
class Option:
    """One option: `says` completes "must be ...", `fits` decides, `default` stands where it is left out."""

    says: str
    fits: Callable[[Any], bool]
    default: Any = REQUIRED


def number(low: float, high: float = math.inf, default: Any = REQUIRED, *, nullable: bool = False) -> Option:
    top = f"to {high:g}" if math.isfinite(high) else "upwards"
    return Option(
        f"a number from {low:g} {top}" + (" or null" if nullable else ""),
        lambda x: (nullable and x is None) or (_is_number(x) and low <= x <= high),
        default,
    )


def whole(low: int, high: int, default: Any = REQUIRED, *, nullable: bool = False) -> Option:
    return Option(
        f"a whole number from {low} to {high}" + (" or null" if nullable else ""),
        lambda x: (nullable and x is None) or (isinstance(x, int) and not isinstance(x, bool) and low <= x <= high),
        default,
    )


def text() -> Option:
    return Option("a text that is not empty", lambda x: isinstance(x, str) and bool(x))


def texts() -> Option:
    return Option("a list of texts", lambda x: _is_list(x) and bool(x) and all(isinstance(v, str) for v in x))


def positions() -> Option:
    return Option(
        "a list of different positions, from 1 upwards",
        lambda x: (
            _is_list(x)
            and bool(x)
            and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 10_000 for v in x)
            and len(set(x)) == len(x)
        ),
    )


def numbers(low: float, says: str, fits: Callable[[Sequence[float]], bool], default: Any = REQUIRED) -> Option:
    return Option(says, lambda x: _is_list(x) and all(_is_number(v) and v >= low for v in x) and fits(x), default)


def read_options(value: object, options: Mapping[str, Option], path: str) -> dict[str, Any]:
    """Return the value of each option.

    Raises
    ------
    ConfigError
        Not an object, an unknown or missing key, or a value that does not fit; names the path and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} must be an object, got {type(value).__name__}")
    for key in value:
        if key not in options:
            raise ConfigError(f"{path}.{str(key)[:60]} is unknown; allowed are {', '.join(options)}")
    found = {}
    for key, option in options.items():
        given = value.get(key, option.default)
        if given is REQUIRED:
            raise ConfigError(f"{path}.{key} is missing; it must be {option.says}")
        if key in value and not option.fits(given):
            raise ConfigError(f"{path}.{key} must be {option.says}, got {str(given)[:60]!r}")
        found[key] = tuple(given) if isinstance(given, list) else given
    return found


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def _is_list(x: object) -> bool:
    return isinstance(x, (list, tuple))
