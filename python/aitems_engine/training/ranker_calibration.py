"""Fits a ranker's calibration on validation rows: Platt or isotonic, by segment where a segment has enough rows.

Platt 1999: a line between logits. Isotonic (Zadrozny and Elkan 2002): the pool-adjacent-violators fit, but over bins of
equal mass that lean towards Platt's line by some rows, joined by straight lines between the pools' centres: never 0 or
1, and never flat, so that no two rows become equal and AUC stays.

Conversions are calibrated over all impressions, not over clicked ones: P(purchase) is the calibrated P(click), the
`ceiling`, times the calibrated P(purchase | click). Clicked rows are a selected lot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError, require_extra
from aitems_engine.ranking import Examples, FieldSpec
from aitems_engine.ranking.calibration import (
    LOGIT_MAX,
    Calibration,
    CalibrationTable,
    RankerCalibration,
    sigmoid,
    straight,
)

FloatVector = npt.NDArray[np.floating[Any]]
METHODS = ("isotonic", "platt", "none")
SEGMENT_ROWS_MIN = 2000
SEGMENT_POSITIVES_MIN = 100
# isotonic: rows of a bin, most bins, and the rows that a bin counts on Platt's line
BIN_ROWS, BINS_MAX, PRIOR_ROWS = 200, 50, 100.0


def fit_calibration(
    logits: FloatVector,
    labels: FloatVector,
    segments: npt.NDArray[np.integer[Any]] | None = None,
    *,
    method: str = "platt",
    ceiling: FloatVector | None = None,
    negatives_kept: float = 1.0,
    segment_rows_min: int = SEGMENT_ROWS_MIN,
) -> Calibration:
    """Return tables under which the logits' probabilities agree with the labels.

    Parameters
    ----------
    logits : float array, shape (n,)
        Of rows that the ranker was not trained on.
    labels : float array, shape (n,)
        0 or 1.
    segments : int array, shape (n,), optional
        A segment gets a table of its own from `segment_rows_min` rows and 100 of each label on.
    method : "platt", "isotonic" or "none"
        Isotonic bends with the data but wants tens of thousands of rows. "none" corrects for sampled negatives only.
    ceiling : float array, shape (n,), optional
        The rows' calibrated probability of what must happen first (a click); the labels tell whether both happened.
    negatives_kept : float in (0, 1]
        Share of the rows with label 0 that were kept when training and validation rows were drawn.

    Raises
    ------
    InvalidInputError
        Lengths, labels or options out of range, or labels of one kind only.
    """
    x, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    c = np.ones(len(x)) if ceiling is None else np.asarray(ceiling, np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.shape != c.shape or not np.isfinite(x).all():
        raise InvalidInputError("logits, labels and ceiling must be vectors of one length, logits finite")
    if method not in METHODS or not 0 < negatives_kept <= 1:
        raise InvalidInputError(
            f"method must be one of {', '.join(METHODS)} and negatives_kept above 0 and at most 1, "
            f"got '{method}' and {negatives_kept}"
        )
    shift = float(np.log(negatives_kept))
    if method == "none":
        return Calibration(straight(1.0, shift))
    if not 0 < y.sum() < len(y):
        raise InvalidInputError(f"calibration needs rows of both labels, got {int(y.sum())} of {len(y)} with label 1")

    def table(rows: npt.NDArray[Any] | slice) -> CalibrationTable:
        found = _line(x[rows], y[rows], c[rows])
        if method == "isotonic":
            found = _isotonic(x[rows], y[rows], c[rows], found)
        return CalibrationTable(found.given, found.calibrated + shift)

    by_segment = {}
    if segments is not None:
        for segment in np.unique(segments).tolist():
            mine = segments == segment
            positives = y[mine].sum()
            if mine.sum() >= segment_rows_min and SEGMENT_POSITIVES_MIN <= positives <= (
                mine.sum() - SEGMENT_POSITIVES_MIN
            ):
                by_segment[segment] = table(mine)
    return Calibration(table(slice(None)), by_segment)


def calibrate_ranker(
    logits: npt.NDArray[np.float32],
    examples: Examples,
    fields: FieldSpec,
    *,
    method: str = "platt",
    segment: str = "",
    negatives_kept: float = 1.0,
) -> RankerCalibration:
    """Return the calibration of a ranker's outputs, conversions by way of the calibrated clicks.

    Parameters
    ----------
    logits : float32 array, shape (n, 1) or (n, 2)
        Of the examples.
    examples : Examples, n rows
        Those the ranker was not trained on; for purchases only the `settled` ones count; without one that logit stays.
    fields : FieldSpec
        Names the code columns.
    method, negatives_kept
        See `fit_calibration`.
    segment : str
        Name of the code column by which to calibrate; empty for none.
    """
    if segment and segment not in fields.code_names:
        raise InvalidInputError(f"segment must be one of {', '.join(fields.code_names)}, got '{segment}'")
    segments = examples.codes[:, fields.code_names.index(segment)] if segment else None
    click, sampled = (
        fit_calibration(logits[:, 0], examples.click, segments, method=method, negatives_kept=share)
        for share in (negatives_kept, 1.0)
    )
    if logits.shape[1] == 1:
        return RankerCalibration(click, segment=segment)
    known = examples.settled
    if not examples.purchase[known].any():
        return RankerCalibration(click, segment=segment)
    purchase = fit_calibration(
        logits[known, 1],
        examples.purchase[known],
        None if segments is None else segments[known],
        method=method,
        # of the rows as drawn: left-out rows without a click tell nothing of what follows one
        ceiling=sampled.probabilities(logits[known, 0], None if segments is None else segments[known]),
    )
    return RankerCalibration(click, purchase, segment)


def _line(x: FloatVector, y: FloatVector, ceiling: FloatVector) -> CalibrationTable:
    """Return the likeliest line of ``ceiling * sigmoid(slope * x + shift)`` with a positive slope."""
    require_extra("train", "scipy")
    from scipy.optimize import minimize

    def loss(line: FloatVector) -> tuple[float, FloatVector]:
        p = sigmoid(line[0] * x + line[1])
        both = np.clip(ceiling * p, 1e-12, 1 - 1e-12)
        slope = (both - y) * (1 - p) / (1 - both)
        value = -(y * np.log(both) + (1 - y) * np.log1p(-both)).mean()
        return float(value), np.array([(slope * x).mean(), slope.mean()])

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 100), (-LOGIT_MAX, LOGIT_MAX)]
    )
    return straight(float(found.x[0]), float(found.x[1]))


def _isotonic(x: FloatVector, y: FloatVector, ceiling: FloatVector, line: CalibrationTable) -> CalibrationTable:
    from scipy.optimize import isotonic_regression

    order = np.argsort(x, kind="stable")
    bins = int(np.clip(len(x) // BIN_ROWS, 1, BINS_MAX))
    starts = np.arange(bins) * len(x) // bins
    count, likely, positive = (
        np.add.reduceat(values[order], starts) for values in (ceiling, ceiling * sigmoid(line(x)), y)
    )
    # the mean of a bin's expected probability on the line, counted as so many rows more
    prior = PRIOR_ROWS * np.minimum(1.0, len(x) / bins / BIN_ROWS)
    rate = (positive + prior * likely / count) / (count + prior)
    centre = np.add.reduceat((ceiling * x)[order], starts) / count
    fitted = isotonic_regression(rate, weights=count)
    pools = fitted.blocks[:-1]
    weight = np.add.reduceat(count, pools)
    given = np.add.reduceat(centre * count, pools) / weight
    share = np.clip(fitted.x[pools], 1e-9, 1 - 1e-9)
    calibrated = np.log(share / (1 - share))
    # equal logits may fill several bins
    new = np.r_[True, (np.diff(given) > 1e-9) & (np.diff(calibrated) > 1e-9)]
    return CalibrationTable(given[new], calibrated[new])
