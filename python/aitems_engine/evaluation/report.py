"""The report of a category classifier: report.md, report.html (one file, pictures inside), metrics.json, pictures.

Numbers come from metrics.py, pictures from plots.py. Category names stand in tables, never in pictures: a font
without Hangul would show boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation import metrics
from aitems_engine.evaluation.pages import Page
from aitems_engine.evaluation.predictions import CategoryPredictions

WORST_LEAVES = 15
MOST_FREQUENT = 15
# a leaf with fewer rows says nothing about itself
WORST_LEAF_MIN_ROWS = 5


@dataclass(frozen=True)
class CategoryReport:
    """Where the report lies and its headline figures."""

    directory: Path
    metrics: Mapping[str, float]

    @property
    def html(self) -> Path:
        """Path of the HTML page."""
        return self.directory / "report.html"

    def headline(self) -> str:
        """Return the main figures as one line."""
        m = self.metrics
        return (
            f"{int(m['rows'])} products: accuracy {m['accuracy']:.4f}, macro-F1 {m['macro_f1']:.4f}, "
            f"top-{int(m['top_k'])} {m['top_k_accuracy']:.4f}, ECE {m['ece']:.4f}, "
            f"answered {m['coverage']:.1%} at accuracy {m['accuracy_answered']:.4f}"
        )


def measure(predictions: CategoryPredictions, taxonomy: Taxonomy, labels: Sequence[str]) -> dict[str, float]:
    """Return every figure of the report as name -> number; `_MEANING` says what each is."""
    p = predictions
    if len(p) == 0:
        raise InvalidInputError("there is no row to measure")
    best = p.ranked[:, 0]
    correct = best == p.truth
    label_nodes = taxonomy.positions(labels)
    # a true leaf that is no label is a class of its own that nothing can hit
    truth = np.where(p.truth >= 0, p.truth, len(labels))
    answered = ~p.abstained
    hedged_nodes = np.where(p.abstained, p.parent_nodes, label_nodes[best])
    given = hedged_nodes >= 0
    depths = taxonomy.depths()
    right = np.zeros(len(p), dtype=np.bool_)
    right[given] = taxonomy.common_depth(hedged_nodes[given], p.truth_nodes[given]) == depths[hedged_nodes[given]] + 1
    hierarchical = metrics.hierarchical_scores(taxonomy, p.truth_nodes, label_nodes[best])
    curve = metrics.coverage_curve(p.confidence, correct)
    return {
        "rows": float(len(p)),
        "leaves": float(len(labels)),
        "leaves_in_truth": float(len(np.unique(p.truth_nodes))),
        "rows_of_unknown_leaf": float((p.truth < 0).sum()),
        "accuracy": float(correct.mean()),
        "macro_f1": metrics.macro_f1(truth, best, len(labels) + 1),
        "top_k": float(p.ranked.shape[1]),
        "top_k_accuracy": metrics.top_k_accuracy(p.truth, p.ranked),
        "nll": float(np.mean(-np.log(np.maximum(p.truth_probability.astype(np.float64), 1e-12)))),
        "brier": float(np.mean(p.square_sum.astype(np.float64) - 2.0 * p.truth_probability + 1.0)),
        "ece": metrics.expected_calibration_error(p.confidence, correct),
        "hierarchical_precision": hierarchical.precision,
        "hierarchical_recall": hierarchical.recall,
        "hierarchical_f1": hierarchical.f1,
        "coverage": float(answered.mean()),
        "accuracy_answered": float(correct[answered].mean()) if answered.any() else 0.0,
        "accuracy_abstained": float(correct[~answered].mean()) if (~answered).any() else 0.0,
        "hedged_coverage": float(given.mean()),
        "hedged_precision": float(right[given].mean()) if given.any() else 0.0,
        "coverage_area": curve.area,
        "accuracy_at_coverage_90": curve.accuracy_at(0.9),
        "coverage_at_accuracy_95": curve.coverage_at(0.95),
    }


def write_category_report(
    out_dir: str | Path,
    predictions: CategoryPredictions,
    *,
    taxonomy: Taxonomy,
    labels: Sequence[str],
    title: str = "Category classifier",
    learning_curve: Sequence[Mapping[str, float]] | None = None,
    titles: Sequence[str] | None = None,
    facts: Mapping[str, object] | None = None,
) -> CategoryReport:
    """Write report.md, report.html, metrics.json and pictures into `out_dir` and return the figures.

    Parameters
    ----------
    out_dir : path
        Made where it is missing; files of an older report are replaced.
    predictions : CategoryPredictions
    taxonomy : Taxonomy
    labels : sequence of leaf ids, in the order of the model's output
    title : str
        Heading.
    learning_curve : sequence of mappings, optional
        One an epoch: `epoch` and any of `train_loss`, `validation_loss`, `validation_accuracy`, `validation_macro_f1`.
    titles : sequence of str, optional
        Product titles, one a row of `predictions`: for examples of confident mistakes.
    facts : mapping, optional
        What else stands at the top: bundle digest, data, seed, command.

    Raises
    ------
    MissingExtraError
        matplotlib is missing (extra `train`).
    """
    from aitems_engine.evaluation import plots

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    figures = measure(predictions, taxonomy, labels)
    page = Page(title)
    if facts:
        page.table(["", ""], [[k, v] for k, v in facts.items()])
    page.heading("Headline")
    page.table(["measure", "value", "what it is"], _headline_rows(figures))
    correct = predictions.ranked[:, 0] == predictions.truth
    if learning_curve:
        page.heading("Learning curve")
        page.picture(
            "learning_curve.png", plots.learning_curve(learning_curve), "loss and validation measures by epoch"
        )
    page.heading("Calibration")
    bins = metrics.reliability_bins(predictions.confidence, correct)
    page.picture("reliability.png", plots.reliability(bins), f"15 bins of equal mass, ECE {bins.error:.4f}")
    page.heading("Accuracy against coverage")
    curve = metrics.coverage_curve(predictions.confidence, correct)
    point = (figures["coverage"], figures["accuracy_answered"]) if predictions.abstained.any() else None
    page.picture("coverage.png", plots.coverage(curve, point), "leaving out the least confident rows")
    _worst_leaves(page, predictions, taxonomy, labels)
    _confusions(page, predictions, taxonomy, labels)
    if titles is not None:
        _confident_mistakes(page, predictions, taxonomy, labels, titles)
    page.write(out)
    (out / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return CategoryReport(out, figures)


_MEANING = {
    "accuracy": "share of products whose best leaf is the true one",
    "macro_f1": "mean F1 over leaves: a rare leaf counts as much as a frequent one",
    "top_k_accuracy": "true leaf among the best {top_k:.0f}",
    "nll": "mean -log probability of the true leaf",
    "brier": "mean squared distance to the truth, 0 to 2",
    "ece": "mean gap between confidence and accuracy, 15 bins of equal mass",
    "hierarchical_f1": "F1 over leaf and ancestors: near misses count in part",
    "coverage": "share of products answered (not abstained)",
    "accuracy_answered": "accuracy of those",
    "accuracy_abstained": "accuracy that the best leaf would have had on the rest",
    "hedged_coverage": "share answered at the leaf or at a sure parent",
    "hedged_precision": "share of those answers that hold",
    "accuracy_at_coverage_90": "accuracy when the least confident 10 % are left out",
    "coverage_at_accuracy_95": "share that can be answered at 95 % accuracy",
    "rows_of_unknown_leaf": "products whose true leaf the model does not know (counted wrong)",
}


def _headline_rows(figures: Mapping[str, float]) -> list[list[object]]:
    rows: list[list[object]] = [
        ["products", f"{figures['rows']:.0f}", f"{figures['leaves_in_truth']:.0f} leaves in the truth"]
    ]
    for name, meaning in _MEANING.items():
        value = figures[name]
        shown = f"{value:.0f}" if name.startswith("rows") else f"{value:.4f}"
        rows.append([name, shown, meaning.format(**figures)])
    return rows


def _worst_leaves(page: Page, p: CategoryPredictions, taxonomy: Taxonomy, labels: Sequence[str]) -> None:
    known = p.truth >= 0
    if not known.any():
        return
    scores = metrics.class_scores(p.truth[known], p.ranked[known, 0], len(labels))
    eligible = np.flatnonzero(scores.support >= WORST_LEAF_MIN_ROWS)
    if len(eligible) == 0:
        eligible = np.flatnonzero(scores.support)
    worst = eligible[np.lexsort((eligible, scores.f1[eligible]))][:WORST_LEAVES]
    page.heading("Worst leaves")
    rows = []
    for number, leaf in enumerate(worst.tolist(), start=1):
        taken = p.ranked[known & (p.truth == leaf), 0]
        others, counts = np.unique(taken[taken != leaf], return_counts=True)
        instead = [
            f"{taxonomy.path(labels[int(others[i])])} ({counts[i]})" for i in np.argsort(-counts, kind="stable")[:2]
        ]
        rows.append(
            [
                number,
                labels[leaf],
                taxonomy.path(labels[leaf]),
                int(scores.support[leaf]),
                f"{scores.precision[leaf]:.3f}",
                f"{scores.recall[leaf]:.3f}",
                f"{scores.f1[leaf]:.3f}",
                "; ".join(instead),
            ]
        )
    page.table(["no.", "leaf", "path", "rows", "precision", "recall", "F1", "mostly taken for"], rows)


def _confusions(page: Page, p: CategoryPredictions, taxonomy: Taxonomy, labels: Sequence[str]) -> None:
    """Add the most frequent confusions, and the matrix of the leaves that take part in them."""
    from aitems_engine.evaluation import plots

    best = p.ranked[:, 0]
    wrong = (p.truth >= 0) & (best != p.truth)
    if not wrong.any():
        return
    pairs, counts = np.unique(np.column_stack([p.truth[wrong], best[wrong]]), axis=0, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
    number: dict[int, int] = {}
    for leaf in pairs[frequent].ravel().tolist():
        if len(number) < MOST_FREQUENT:
            number.setdefault(leaf, len(number) + 1)
    page.heading("Most frequent confusions")
    page.table(
        ["rows", "no.", "true leaf", "path", "no.", "answer", "path"],
        [
            [
                int(counts[i]),
                *(
                    cell
                    for leaf in pairs[i].tolist()
                    for cell in (number.get(leaf, ""), labels[leaf], taxonomy.path(labels[leaf]))
                ),
            ]
            for i in frequent.tolist()
        ],
    )
    leaves = np.array(list(number))
    matrix = np.array([[np.sum((p.truth == a) & (best == b)) for b in leaves] for a in leaves])
    rest = np.array([np.sum((p.truth == a) & ~np.isin(best, leaves)) for a in leaves])
    page.picture(
        "confusion.png",
        plots.confusion(np.column_stack([matrix, rest])),
        "rows of each true leaf by answer, numbered as in the table; last column: any other leaf",
    )


def _confident_mistakes(
    page: Page, p: CategoryPredictions, taxonomy: Taxonomy, labels: Sequence[str], titles: Sequence[str]
) -> None:
    wrong = np.flatnonzero(p.ranked[:, 0] != p.truth)
    chosen = wrong[np.argsort(-p.confidence[wrong], kind="stable")][:20]
    if len(chosen) == 0:
        return
    page.heading("Most confident mistakes")
    page.table(
        ["title", "true leaf", "answer", "confidence"],
        [
            [
                titles[i][:120],
                taxonomy.path(taxonomy.node_ids[p.truth_nodes[i]]),
                taxonomy.path(labels[p.ranked[i, 0]]),
                f"{p.confidence[i]:.3f}",
            ]
            for i in chosen.tolist()
        ],
    )
