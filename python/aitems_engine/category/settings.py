"""`classifier.json`: what a trained classifier must know beside its weights. Checked in full when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from aitems_engine.errors import BundleError

FORMAT_VERSION = 1
MAX_LABELS = 1_000_000
MAX_TOKENS = 4_096


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of the category classifier.

    Attributes
    ----------
    labels : tuple of str
        Leaf ids in the order of the output layer.
    max_title_length, max_mall_length : int
        Tokens; longer inputs are cut.
    gram_min, gram_max, gram_buckets : int
        Character n-grams of the title; `gram_buckets` 0 means that the model has none.
    temperature : float
        Already folded into the weights; kept for the record.
    threshold_default : float
        Confidence below which the classifier abstains, where the top category has no own threshold.
    threshold_by_top : mapping of top category id to float
    training : mapping
        Free record of how it was trained.
    """

    labels: tuple[str, ...]
    max_title_length: int = 32
    max_mall_length: int = 32
    gram_min: int = 2
    gram_max: int = 4
    gram_buckets: int = 0
    temperature: float = 1.0
    threshold_default: float = 0.0
    threshold_by_top: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassifierSettings:
        """Return the settings of a parsed `classifier.json`.

        Raises
        ------
        BundleError
            A missing, unknown or impossible value, or a newer format; names the key.
        """
        version = value.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise BundleError(
                f"classifier.json: format_version must be {FORMAT_VERSION}, got {str(version)[:40]!r}"
                + ("; upgrade aitems-engine" if newer else "")
            )
        known = {
            "format_version", "labels", "max_title_length", "max_mall_length", "gram_min", "gram_max", "gram_buckets",
            "temperature", "thresholds", "training",
        }  # fmt: skip
        unknown = sorted(set(value) - known)
        if unknown:
            raise BundleError(f"classifier.json: unknown key '{unknown[0][:60]}'; known are {', '.join(sorted(known))}")
        labels = value.get("labels")
        if (
            not isinstance(labels, list)
            or not 1 <= len(labels) <= MAX_LABELS
            or not all(isinstance(x, str) for x in labels)
        ):
            raise BundleError(f"classifier.json: 'labels' must be a list of 1 to {MAX_LABELS} leaf ids")
        if len(set(labels)) < len(labels):
            raise BundleError("classifier.json: 'labels' has a leaf id twice")
        thresholds = _object(value, "thresholds", {"default": 0.0})
        gram_buckets = _whole(value, "gram_buckets", 0, 1 << 28, 0)
        gram_min, gram_max = _whole(value, "gram_min", 1, 16, 2), _whole(value, "gram_max", 1, 16, 4)
        if gram_min > gram_max:
            raise BundleError(f"classifier.json: gram_min {gram_min} is larger than gram_max {gram_max}")
        return cls(
            labels=tuple(labels),
            max_title_length=_whole(value, "max_title_length", 1, MAX_TOKENS),
            max_mall_length=_whole(value, "max_mall_length", 1, MAX_TOKENS, 32),
            gram_min=gram_min,
            gram_max=gram_max,
            gram_buckets=gram_buckets,
            temperature=_number(value.get("temperature", 1.0), "temperature", 1e-6, 1e6),
            threshold_default=_number(thresholds.get("default", 0.0), "thresholds.default", 0.0, 1.0),
            threshold_by_top=MappingProxyType(
                {
                    top: _number(x, f"thresholds.by_top['{top[:60]}']", 0.0, 1.0)
                    for top, x in _object(thresholds, "by_top", {}).items()
                }
            ),
            training=MappingProxyType(_object(value, "training", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the value to write as `classifier.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "labels": list(self.labels),
            "max_title_length": self.max_title_length,
            "max_mall_length": self.max_mall_length,
            "gram_min": self.gram_min,
            "gram_max": self.gram_max,
            "gram_buckets": self.gram_buckets,
            "temperature": self.temperature,
            "thresholds": {"default": self.threshold_default, "by_top": dict(self.threshold_by_top)},
            "training": dict(self.training),
        }


def _whole(value: Mapping[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    number = value.get(key, default)
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise BundleError(
            f"classifier.json: '{key}' must be a whole number from {low} to {high}, got {str(number)[:40]!r}"
        )
    return number


def _number(number: object, key: str, low: float, high: float) -> float:
    fits = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not fits or not low <= number <= high:  # type: ignore[operator]
        raise BundleError(
            f"classifier.json: '{key}' must be a number from {low:g} to {high:g}, got {str(number)[:40]!r}"
        )
    return float(number)  # type: ignore[arg-type]


def _object(value: Mapping[str, Any], key: str, default: dict[str, Any]) -> dict[str, Any]:
    found = value.get(key, default)
    if not isinstance(found, dict):
        raise BundleError(f"classifier.json: '{key}' must be an object, got {type(found).__name__}")
    return found
