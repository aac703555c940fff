"""What another policy would have earned, from what the present one showed: IPS, SNIPS and DR, with intervals.

A row is one thing shown: the reward it brought, the probability with which the logging policy showed it, and the
probability with which the judged policy would have. Sources: Horvitz and Thompson 1952 (IPS); Swaminathan and Joachims,
NeurIPS 2015 (SNIPS); Dudik, Langford and Li, ICML 2011 (DR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.cells import Cells
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import iter_table
from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.evaluation.pages import Page
from aitems_engine.evaluation.plots import measures

Vector = npt.NDArray[np.float64]
COLUMNS = {
    "reward": ("reward", "clicked", "click", "value"),
    "propensity": ("propensity", "logging_propensity", "probability"),
    "target_propensity": ("target_propensity", "target_probability", "new_propensity"),
    "predicted": ("predicted", "predicted_reward"),
    "predicted_target": ("predicted_target", "expected_reward"),
}
_BATCH = 65_536
_Z95 = 1.959963984540054
# a mean weight so many standard errors away from 1 says that the log lacks what the policy shows
_SUPPORT_ERRORS = 4.0


@dataclass(frozen=True)
class PolicyEstimate:
    """Estimated mean reward of a row under the judged policy.

    Attributes
    ----------
    value, low, high : float
        Mean with its 95 % interval (normal approximation; SNIPS by the delta method).
    effective_rows : float
        (sum of weights)^2 / sum of squared weights: how many rows of the judged policy's own the log is worth.
    clipped : float
        Share of the rows whose weight was cut.
    mean_weight : float
        Near 1 where the logging policy could show all that the judged one would.
    """

    value: float
    low: float
    high: float
    effective_rows: float
    clipped: float
    mean_weight: float


def estimate_policy(
    reward: npt.ArrayLike,
    propensity: npt.ArrayLike,
    target_propensity: npt.ArrayLike,
    *,
    predicted: npt.ArrayLike | None = None,
    predicted_target: npt.ArrayLike | None = None,
    max_weight: float = np.inf,
) -> dict[str, PolicyEstimate]:
    """Return the estimates "logged" (the present policy's own mean), "ips", "snips" and, with predictions, "dr".

    Parameters
    ----------
    reward : array, shape (n,)
        Finite.
    propensity : array, shape (n,)
        With which the row was shown; above 0, at most 1.
    target_propensity : array, shape (n,)
        With which the judged policy would have shown it; 0 to 1.
    predicted : array, shape (n,), optional
        A model's reward of what was shown.
    predicted_target : array, shape (n,), optional
        The model's expected reward under the judged policy in the same situation.
    max_weight : float > 0
        Larger weights are cut, which trades variance for bias.

    Raises
    ------
    InvalidInputError
        Other lengths, values out of range (names the row), one prediction without the other, or no row that the judged
        policy would show.
    """
    given = {"reward": reward, "propensity": propensity, "target_propensity": target_propensity}
    if (predicted is None) != (predicted_target is None):
        raise InvalidInputError("DR needs both predicted and predicted_target, or neither for IPS and SNIPS alone")
    if predicted is not None and predicted_target is not None:
        given |= {"predicted": predicted, "predicted_target": predicted_target}
    columns = {name: np.asarray(values, np.float64) for name, values in given.items()}
    r, p, q = (columns[name] for name in ("reward", "propensity", "target_propensity"))
    n = len(r) if r.ndim == 1 else 0
    if not n or any(column.shape != (n,) for column in columns.values()):
        raise InvalidInputError(
            f"columns must be of one length above 0, got { ({k: v.shape for k, v in columns.items()}) }"
        )
    for name, column in columns.items():
        _check(name, column, np.isfinite(column), "a finite number")
    _check("propensity", p, (p > 0) & (p <= 1), "above 0 and at most 1: what could not be shown says nothing")
    _check("target_propensity", q, (q >= 0) & (q <= 1), "from 0 to 1")
    if not max_weight > 0:
        raise InvalidInputError(f"max_weight must be above 0, got {max_weight}")
    raw = q / p
    if not raw.any():
        raise InvalidInputError("the judged policy would show nothing of what was logged; nothing can be estimated")
    w = np.minimum(raw, max_weight)
    facts = (float(w.sum() ** 2 / (w**2).sum()), float((raw > max_weight).mean()), float(w.mean()))

    def interval(value: float, influence: Vector) -> PolicyEstimate:
        error = _Z95 * float(influence.std(ddof=1)) / np.sqrt(n) if n > 1 else np.inf
        return PolicyEstimate(value, value - error, value + error, *facts)

    snips = float((w * r).sum() / w.sum())
    found = {
        "logged": PolicyEstimate(*_mean(r), float(n), 0.0, 1.0),
        "ips": interval(float((w * r).mean()), w * r),
        "snips": interval(snips, w * (r - snips) / w.mean()),
    }
    if "predicted" in columns:
        rows = columns["predicted_target"] + w * (r - columns["predicted"])
        found["dr"] = interval(float(rows.mean()), rows)
    return found


def support_problem(propensity: npt.ArrayLike, target_propensity: npt.ArrayLike) -> str:
    """Return what speaks against the log's support for the judged policy; empty where nothing does.

    The weights of rows drawn by the logging policy average 1 if it could show all that the other would.
    """
    w = np.asarray(target_propensity, np.float64) / np.asarray(propensity, np.float64)
    error = float(w.std(ddof=1)) / np.sqrt(len(w)) if len(w) > 1 else np.inf
    if abs(float(w.mean()) - 1) <= _SUPPORT_ERRORS * error + 1e-9:
        return ""
    return (
        f"the mean weight is {w.mean():.3f} where 1 is expected (standard error {error:.3f}): the log lacks what the "
        "judged policy shows, or the propensities are not those of the draw"
    )


def read_policy_log(path: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Vector]:
    """Return the columns of a table as `estimate_policy` takes them.

    Raises
    ------
    DataError
        A column is missing or a value is no number; names file, row and column.
    """
    path = Path(path)
    table: dict[str, list[float]] = {}
    for batch in iter_table(path, _BATCH):
        found = match_columns(list(batch.columns), columns, tuple(COLUMNS)[:3], path.name, COLUMNS)
        for name, column in found.items():
            table.setdefault(name, []).extend(Cells(batch, column, path.name).convert(_number))
    if not table or not table["reward"]:
        raise DataError(f"{path.name}: no rows")
    return {name: np.array(values, np.float64) for name, values in table.items()}


def write_policy_report(out: Path, found: Mapping[str, PolicyEstimate], *, data: str, problem: str) -> Path:
    """Write report.html, report.md and the picture; return the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    page = Page("Policy, from a log")
    page.text(f"{data} Mean reward of a row with 95 % intervals; 'logged' is what the present policy earned.")
    if problem:
        page.text(f"Careful: {problem}.")
    page.table(
        ["estimate", "value", "interval", "effective rows", "clipped", "mean weight"],
        [
            [
                name,
                f"{e.value:.5f}",
                f"[{e.low:.5f}, {e.high:.5f}]",
                f"{e.effective_rows:.0f}",
                f"{e.clipped:.2%}",
                f"{e.mean_weight:.3f}",
            ]
            for name, e in found.items()
        ],
    )
    picture = measures({"mean reward": {name: (e.value, e.low, e.high) for name, e in found.items()}})
    page.picture("estimates.png", picture, "estimates with 95 % intervals")
    page.write(out)
    return out / "report.html"


def _mean(values: Vector) -> tuple[float, float, float]:
    mean = float(values.mean())
    error = _Z95 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return mean, mean - error, mean + error


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be a number, got {str(value)[:40]}")
    return float(value)


def _check(name: str, values: Vector, good: npt.NDArray[np.bool_], wanted: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise InvalidInputError(f"{name} must be {wanted}, got {values[row]} in row {row}")
