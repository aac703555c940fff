"""Measures of a ranker on impressions: order, probabilities, and the report that compares several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation.binary import bootstrap_auc, bootstrap_grouped_auc, log_loss
from aitems_engine.evaluation.metrics import ReliabilityBins, reliability_bins
from aitems_engine.evaluation.pages import Page
from aitems_engine.evaluation.plots import measures, reliability
from aitems_engine.events.impressions import ImpressionLog
from aitems_engine.ranking import Examples, FeatureSet, Predictions
from aitems_engine.ranking.examples import impressions_query, labels

Interval = tuple[float, float, float]
# a bootstrap sorts the rows once a sample
_SORTED_ROWS_MAX = 20_000_000


@dataclass(frozen=True, eq=False)
class OutputScores:
    """Measures of one probability.

    Attributes
    ----------
    rows, positives : int
        Impressions, and those of them where it happened.
    auc, gauc : tuple of float
        Value and 95 % interval, bootstrap over users; gAUC is AUC within users, weighted by impressions.
    log_loss : float
    ratio : float
        Expected over observed number.
    bins : ReliabilityBins
        15 bins of equal mass; their error is the ECE.
    """

    rows: int
    positives: int
    auc: Interval
    gauc: Interval
    log_loss: float
    ratio: float
    bins: ReliabilityBins

    def values(self) -> dict[str, float]:
        """Return the measures by name."""
        return {
            "auc": self.auc[0],
            "gauc": self.gauc[0],
            "log_loss": self.log_loss,
            "ece": self.bins.error,
            "expected_over_observed": self.ratio,
        }


def examples_since(log: ImpressionLog, features: FeatureSet, since: int, *, window_ms: int) -> Examples:
    """Return the impressions from a time on, with features and counts as of each and labels as of the log's end.

    Parameters
    ----------
    log : ImpressionLog
        Over the catalogue of the features.
    features : FeatureSet
    since : int
        Milliseconds since 1970.
    window_ms : int
        A purchase counts when it came within this time after the click.
    """
    first, last = int(np.searchsorted(log.page_times, since)), len(log.page_times)
    if first == last:
        raise InvalidInputError("no impression is as new as the test of the models: give later events")
    rows = slice(int(log.pages[first]), len(log))
    batch = features.gather(impressions_query(log).requests(first, last))
    users = np.repeat(log.page_users, np.diff(log.pages))[rows].astype(np.int64)
    click, purchase, known = labels(log, rows, window_ms=window_ms)
    return Examples(batch.codes, batch.dense, click, purchase, users, log.times[rows], known)


def evaluate_ranker(predictions: Predictions, examples: Examples) -> dict[str, OutputScores]:
    """Return the measures of the click and, where there are purchases, of the purchase over all impressions.

    Parameters
    ----------
    predictions : Predictions
        One a row of the examples.
    examples : Examples
        For purchases only the `settled` ones count.
    """
    found = {"click": _scores(examples.click, predictions.pctr, examples.group)}
    settled = examples.settled
    if examples.purchase[settled].any() and (predictions.pcvr != 1).any():
        found["purchase"] = _scores(examples.purchase[settled], predictions.pctcvr[settled], examples.group[settled])
    return found


def _scores(labels: npt.NDArray[np.float32], p: npt.NDArray[np.float32], groups: npt.NDArray[np.int64]) -> OutputScores:
    positives = float(labels.sum())
    return OutputScores(
        len(labels),
        int(positives),
        bootstrap_auc(labels, p, groups, samples=int(np.clip(_SORTED_ROWS_MAX // len(p), 20, 200))),
        bootstrap_grouped_auc(labels, p, groups),
        log_loss(labels, p),
        float(p.sum(dtype=np.float64)) / positives if positives else float("inf"),
        reliability_bins(p, labels),
    )


def write_ranker_report(out: Path, found: Mapping[str, Mapping[str, OutputScores]], *, data: str) -> Path:
    """Write report.html, report.md and pictures; return the path of the page.

    Parameters
    ----------
    out : path
        Directory; made where it is missing.
    found : mapping of model name to the result of `evaluate_ranker`
        Over the same impressions.
    data : str
        What was judged by, in words.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = Page("Ranking")
    page.text(
        f"{data} Purchases are judged over all impressions. Intervals: 95 %, bootstrap over users. ECE: 15 bins of "
        "equal mass."
    )
    for output in dict.fromkeys(name for scores in found.values() for name in scores):
        models = {name: scores[output] for name, scores in found.items() if output in scores}
        page.heading(output.capitalize())
        page.table(
            ["model", "impressions", "positive", "AUC", "gAUC", "log loss", "ECE", "expected / observed"],
            [
                [name, s.rows, s.positives, _text(s.auc), _text(s.gauc)]
                + [f"{value:.4f}" for value in (s.log_loss, s.bins.error, s.ratio)]
                for name, s in models.items()
            ],
        )
        intervals = {label: {n: getattr(s, label.lower()) for n, s in models.items()} for label in ("AUC", "gAUC")}
        page.picture(f"{output}_measures.png", measures(intervals), f"{output}: means with 95 % intervals")
        for number, (name, scores) in enumerate(models.items(), start=1):
            picture = reliability(scores.bins, ("probability", f"share of {output}s"), whole=False)
            page.picture(f"{output}_calibration_{number}.png", picture, f"{output}, {name}: observed and expected")
    page.write(out)
    return out / "report.html"


def _text(interval: Interval) -> str:
    return "{:.4f} [{:.4f}, {:.4f}]".format(*interval)
