"""From a ranker's logits to probabilities that mean what they say: a rising table, one for all and some by segment.

Only applies what `training.ranker_calibration` fitted. Every table rises strictly, so that the order of a segment's
rows, and with it AUC, stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native import batch as native
from aitems_engine.errors import DataError, InvalidInputError

# beyond this a probability is 0 or 1 in float32
LOGIT_MAX = 30.0


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """A piecewise linear map between logits; beyond its ends it goes on with slope 1.

    Attributes
    ----------
    given, calibrated : float64 arrays, shape (knots,)
        Both rise strictly; at least one knot.
    """

    given: npt.NDArray[np.float64]
    calibrated: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        a, b = self.given, self.calibrated
        if (
            a.ndim != 1
            or a.shape != b.shape
            or len(a) == 0
            or not (np.isfinite(a).all() and np.isfinite(b).all())
            or (np.diff(a) <= 0).any()
            or (np.diff(b) <= 0).any()
        ):
            raise DataError(
                "a calibration table must be two vectors of one length, at least 1, of finite, strictly rising logits; "
                f"got {str(a.tolist())[:80]} and {str(b.tolist())[:80]}"
            )

    def __call__(self, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Return calibrated logits."""
        values = np.asarray(logits, np.float64)
        inside = np.clip(values, self.given[0], self.given[-1])
        return np.asarray(np.interp(inside, self.given, self.calibrated) + (values - inside))

    def probabilities(self, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return the sigmoid of calibrated logits, float32 array of shape (n,), in one pass."""
        return native.calibrated_probabilities(logits, self.given, self.calibrated)


def straight(slope: float = 1.0, shift: float = 0.0) -> CalibrationTable:
    """Return the table of ``slope * logit + shift``, as Platt has it."""
    ends = np.array([-LOGIT_MAX, LOGIT_MAX])
    return CalibrationTable(ends, slope * ends + shift)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The tables of one output of a ranker.

    Attributes
    ----------
    default : CalibrationTable
        For all rows that no segment's own table is for.
    by_segment : mapping of int to CalibrationTable
        For example by the code of the placement.
    """

    default: CalibrationTable = field(default_factory=straight)
    by_segment: Mapping[int, CalibrationTable] = field(default_factory=dict)

    def probabilities(
        self, logits: npt.NDArray[np.floating[Any]], segments: npt.NDArray[np.integer[Any]] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return calibrated probabilities.

        Parameters
        ----------
        logits : float array, shape (n,)
        segments : int array, shape (n,), optional
            Segment of each row; one without a table of its own is treated by the one for all.

        Returns
        -------
        float32 array, shape (n,)
            NaN where the logit is NaN.
        """
        found = self.default.probabilities(logits)
        if segments is not None:
            if segments.shape != found.shape:
                raise InvalidInputError(f"there must be one segment for each of {found.shape} logits")
            for segment, table in self.by_segment.items():
                rows = segments == segment
                if rows.any():
                    found[rows] = table.probabilities(logits[rows])
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the tables as plain values, for a bundle."""

        def plain(table: CalibrationTable) -> dict[str, list[float]]:
            return {"given": table.given.tolist(), "calibrated": table.calibrated.tolist()}

        return {
            "default": plain(self.default),
            "by_segment": {str(segment): plain(table) for segment, table in self.by_segment.items()},
        }

    @classmethod
    def from_json(cls, values: Any) -> Calibration:
        """Return what `to_json` gave.

        Raises
        ------
        DataError
            Anything else.
        """

        def table(found: Any) -> CalibrationTable:
            return CalibrationTable(*(np.asarray(found[name], np.float64) for name in ("given", "calibrated")))

        try:
            return cls(
                table(values["default"]),
                {int(segment): table(found) for segment, found in values["by_segment"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"this is no calibration: {error!r}") from error


@dataclass(frozen=True, eq=False)
class RankerCalibration:
    """The calibration of a ranker's outputs.

    Attributes
    ----------
    click, purchase : Calibration
        Of the first logit, and of the second where there is one.
    segment : str
        Name of the code column that tells a row's segment, as `FieldSpec.code_names` has it; empty for none.
    """

    click: Calibration = field(default_factory=Calibration)
    purchase: Calibration = field(default_factory=Calibration)
    segment: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all as plain values, for a bundle."""
        return {"click": self.click.to_json(), "purchase": self.purchase.to_json(), "segment": self.segment}

    @classmethod
    def from_json(cls, values: Any) -> RankerCalibration:
        """Return what `to_json` gave; raises `DataError` for anything else."""
        if not isinstance(values, dict) or values.keys() != {"click", "purchase", "segment"}:
            raise DataError("the calibration of a ranker must have 'click', 'purchase' and 'segment'")
        click, purchase = (Calibration.from_json(values[name]) for name in ("click", "purchase"))
        return cls(click, purchase, str(values["segment"]))


def sigmoid(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    small = np.exp(-np.abs(logits), dtype=np.float64)
    return np.asarray(np.where(logits >= 0, 1 / (1 + small), small / (1 + small)))
