"""What features, networks and objective hand to one another: packed rows, one a candidate or an impression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError

CodeMatrix = npt.NDArray[np.int32]
FloatMatrix = npt.NDArray[np.float32]
FloatVector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FieldSpec:
    """The shape of a `FeatureBatch`, all that a network has to know of the features.

    Attributes
    ----------
    cardinalities : tuple of int
        Codes of field f are from 0 to ``cardinalities[f] - 1``; 0 is missing or out of vocabulary.
    dense : int
        Number of dense columns.
    code_names, dense_names : tuple of str
        What the columns mean, for reports; empty where nobody said.
    request_codes : int
        So many last fields are of the request, in serving: one code for all its candidates.
    """

    cardinalities: tuple[int, ...]
    dense: int
    code_names: tuple[str, ...] = ()
    dense_names: tuple[str, ...] = ()
    request_codes: int = 0


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Features of n rows.

    Attributes
    ----------
    codes : int32 array, shape (n, F), C-contiguous
        0 = missing or out of vocabulary.
    dense : float32 array, shape (n, D), C-contiguous
        Standardised; never NaN or infinite.
    splits : int64 array, shape (num_requests + 1,), optional
        Rows from ``splits[r]`` to ``splits[r + 1]`` are of one request and share its codes; None: each row has its own.
    """

    codes: CodeMatrix
    dense: FloatMatrix
    splits: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Calibrated probabilities of n rows.

    Attributes
    ----------
    pctr : float32 array, shape (n,)
        Of a click, given that the item is shown.
    pcvr : float32 array, shape (n,)
        Of a purchase, given a click; 1 where the model knows clicks only.
    """

    pctr: FloatVector
    pcvr: FloatVector

    def __len__(self) -> int:
        return len(self.pctr)

    @property
    def pctcvr(self) -> FloatVector:
        """Probability of a click that leads to a purchase; never above `pctr`."""
        return self.pctr * self.pcvr

    def rows(self, begin: int, end: int) -> Predictions:
        """Return the rows from `begin` to `end`."""
        return Predictions(self.pctr[begin:end], self.pcvr[begin:end])


@dataclass(frozen=True, eq=False)
class Examples:
    """Impressions to learn from or to judge by, in the order of time.

    Attributes
    ----------
    codes, dense : arrays, shapes (n, F) and (n, D)
        As in `FeatureBatch`.
    click, purchase : float32 array, shape (n,)
        0 or 1; a purchase is one that came of the click, within the window.
    group : int64 array, shape (n,)
        Whose impression it was, for metrics by user.
    time : int64 array, shape (n,)
        Milliseconds since 1970 (UTC).
    purchase_known : bool array, shape (n,)
        False where there was a click and no purchase yet, and the window was still open when the labels were taken.
    """

    codes: CodeMatrix
    dense: FloatMatrix
    click: FloatVector
    purchase: FloatVector
    group: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    purchase_known: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.codes)
        columns = (self.dense, self.click, self.purchase, self.group, self.time, self.purchase_known)
        if any(len(column) != n for column in columns):
            raise InvalidInputError(f"all columns must have {n} rows as the codes, got {[len(c) for c in columns]}")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def batch(self) -> FeatureBatch:
        """The features alone."""
        return FeatureBatch(self.codes, self.dense)

    @property
    def settled(self) -> npt.NDArray[np.bool_]:
        """Rows whose purchases may be learnt or judged: all older than the first that is not known.

        Leaving out the unknown rows alone would leave out clicks that were not followed by a purchase, and only those.
        """
        unknown = self.time[~self.purchase_known]
        return self.time < unknown.min() if len(unknown) else np.ones(len(self), bool)

    def take(self, rows: npt.NDArray[Any] | slice) -> Examples:
        """Return the given rows (positions, flags or a slice)."""
        return Examples(
            np.ascontiguousarray(self.codes[rows]),
            np.ascontiguousarray(self.dense[rows]),
            self.click[rows],
            self.purchase[rows],
            self.group[rows],
            self.time[rows],
            self.purchase_known[rows],
        )
