"""User mode: how probable it is that the user knows what they want, and what that changes.

Somebody with an exact query and filters wants that item at a good price, not variety; somebody who strolls wants the
opposite. A logistic model gives the probability, a dial turns it into factors of the rules' strengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import ConfigError, InvalidInputError
from aitems_engine.rerank.draft import Draft
from aitems_engine.rerank.options import Option, number

SIGNALS = ("query_specificity", "filters", "depth", "dwell_s")


@dataclass(frozen=True)
class UserModeModel:
    """P(goal-oriented) = logistic(bias + weights . x).

    x are `query_specificity` (0 = no query .. 1 = names one product; for example 1 - entropy of the query's categories
    over its largest), log(1 + filters set), log(1 + pages deep), log(1 + mean dwell on item pages in seconds).

    Examples
    --------
    >>> model = UserModeModel(bias=-2.0, weights=(3.0, 1.0, 0.2, 0.1))
    >>> round(model.probability({"query_specificity": 0.9, "filters": 2, "depth": 1, "dwell_s": 20}), 3)
    0.904
    """

    bias: float
    weights: tuple[float, float, float, float]

    def probability(self, signals: Mapping[str, float]) -> float:
        """Return the probability for one session; a missing or unusable signal counts as 0."""
        row = np.array([[signals.get(name, 0.0) for name in SIGNALS]], np.float64)
        return float(self.probabilities(row)[0])

    def probabilities(self, signals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the probability of each row of `signals`, shape (n, 4) in the order of `SIGNALS`."""
        z = self.bias + _features(signals) @ np.array(self.weights)
        probability: npt.NDArray[np.float64] = 1 / (1 + np.exp(-z.clip(-30, 30)))
        return probability

    @classmethod
    def fit(cls, signals: npt.NDArray[np.float64], goal: npt.NDArray[np.bool_], *, l2: float = 1.0) -> UserModeModel:
        """Return the model of sessions whose mode is known, by Newton's method.

        Parameters
        ----------
        signals : float64 array, shape (n, 4)
            In the order of `SIGNALS`.
        goal : bool array, shape (n,)
        l2 : float > 0
            Penalty on the weights (not on the bias).

        Raises
        ------
        InvalidInputError
            Wrong shapes, or sessions of one mode only.
        """
        if signals.shape != (len(goal), len(SIGNALS)) or not l2 > 0:
            raise InvalidInputError(
                f"signals must be ({len(goal)}, {len(SIGNALS)}) and l2 > 0, got {signals.shape}, {l2}"
            )
        if goal.all() or not goal.any():
            raise InvalidInputError("sessions of both modes are needed, got one")
        x = np.column_stack([np.ones(len(goal)), _features(signals)])
        penalty = np.diag([1e-9, *[l2] * len(SIGNALS)])
        w = np.zeros(x.shape[1])
        for _ in range(50):
            p = 1 / (1 + np.exp(-(x @ w).clip(-30, 30)))
            step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, x.T @ (goal - p) - penalty @ w)
            w += step
            if np.abs(step).max() < 1e-10:
                break
        return cls(float(w[0]), (float(w[1]), float(w[2]), float(w[3]), float(w[4])))

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> UserModeModel:
        """Return the model of a parsed JSON object.

        Raises
        ------
        ConfigError
            It is not one of `to_json`.
        """
        found = value if isinstance(value, Mapping) else {}
        weights = found.get("weights")
        numbers = [found.get("bias"), *(weights if isinstance(weights, (list, tuple)) else ())]
        usable = all(type(x) in (int, float) and abs(x) < float("inf") for x in numbers)
        if set(found) != {"bias", "weights"} or not usable or len(numbers) != 1 + len(SIGNALS):
            raise ConfigError(f"a user mode model is {{'bias': number, 'weights': [4 numbers]}}, got {str(value)[:80]}")
        return cls(float(numbers[0]), (*map(float, numbers[1:]),))  # type: ignore[arg-type]


def _features(signals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    usable = np.where(np.isfinite(signals), signals, 0.0).clip(0.0, None)
    usable[:, 1:] = np.log1p(usable[:, 1:])
    return usable


@dataclass(frozen=True)
class Price:
    """Prefer lower prices: score * exp(-weight * z), z the log price in standard deviations of this slate, within +-3.

    The user-mode dial `price` multiplies the weight; an unknown price counts as the mean.
    """

    weight: float
    kind: ClassVar[str] = "price"
    options: ClassVar[dict[str, Option]] = {"weight": number(0, 10)}
    needs: ClassVar[tuple[str, ...]] = ("price",)
    relaxable: ClassVar[bool] = False

    def apply(self, draft: Draft, level: int) -> str | None:
        weight = self.weight * draft.dials["price"]
        price = draft.slate.price
        assert price is not None
        known = price > 0
        count = np.count_nonzero(known)
        if weight == 0 or not count:
            return None
        logs = np.log(np.where(known, price, np.float32(1)))
        mean = float(logs.sum()) / count
        variance = float(logs @ logs) / count - mean * mean
        if not variance > 1e-9:
            return None
        z = np.where(known, (logs - mean) / variance**0.5, 0).clip(-3, 3)
        # below zero, too, a lower price makes a score greater
        draft.scores = draft.scores + np.abs(draft.scores) * np.expm1(-weight * z)
        draft.organic = draft.organic[np.argsort(-draft.scores[draft.organic], kind="stable")]
        return f"weight {weight:.2f}"
