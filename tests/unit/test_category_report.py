"""The report: figures from known predictions, pages that hold what they should and cannot be broken by titles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_bundle import LABELS, TAXONOMY_CSV

from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError
from aitems_engine.evaluation.predictions import CategoryPredictions, ranked_labels
from aitems_engine.evaluation.report import measure, write_category_report

TREE = Taxonomy.from_csv(TAXONOMY_CSV)


def predictions(rows: int = 400, seed: int = 0) -> CategoryPredictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, rows)
    logits = rng.normal(size=(rows, 6)) + 2.5 * np.eye(6)[truth]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    abstained = p.max(axis=1) < 0.5
    parents = np.where(abstained, TREE.positions([TREE.top(LABELS[i]) for i in p.argmax(axis=1)]), -1)
    return CategoryPredictions.from_probabilities(
        truth, p, label_nodes=TREE.positions(LABELS), abstained=abstained, parent_nodes=parents
    )


def test_figures_of_known_predictions() -> None:
    p = np.eye(6, dtype=np.float32)[[0, 1, 2, 3]] * 0.9 + 0.1 / 6
    truth = np.array([0, 0, 2, -1])
    got = measure(
        CategoryPredictions.from_probabilities(
            truth,
            p,
            label_nodes=TREE.positions(LABELS),
            truth_nodes=TREE.positions(["apple", "apple", "chips", "cable"]),
            abstained=np.array([False, True, False, True]),
            parent_nodes=TREE.positions(["fruit"] * 2 + ["food"] * 2),
        ),
        TREE,
        LABELS,
    )
    assert got["accuracy"] == 0.5
    assert got["rows_of_unknown_leaf"] == 1
    assert got["coverage"] == 0.5
    assert got["accuracy_answered"] == 1.0
    assert got["hedged_coverage"] == 1.0
    # apple at "fruit" holds, cable at "food" does not
    assert got["hedged_precision"] == 0.75
    # shared ancestors 3 + 2 + 3 + 0 of 12
    assert got["hierarchical_f1"] == pytest.approx(8 / 12)
    own = np.array([0.9 + 0.1 / 6, 0.1 / 6, 0.9 + 0.1 / 6, 0])
    assert got["nll"] == pytest.approx(np.mean(-np.log(np.maximum(own, 1e-12))), rel=1e-5)
    squares = (p.astype(float) ** 2).sum(axis=1)
    assert got["brier"] == pytest.approx(np.mean(squares - 2 * own + 1), rel=1e-5)
    # classes present: apple, pear, chips, cookie and the unknown leaf
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0 + 1 + 0 + 0) / 5)


def test_pages(tmp_path: Path) -> None:
    p = predictions()
    titles = [f"<script>alert({i})</script> | 나이키 `code` [x](y) *b* \n\\" for i in range(len(p))]
    report = write_category_report(
        tmp_path / "report",
        p,
        taxonomy=TREE,
        labels=LABELS,
        title="Tiny <model>",
        learning_curve=[
            {"epoch": 1, "train_loss": 2.0, "validation_accuracy": 0.4},
            {"epoch": 2, "train_loss": 1.0, "validation_accuracy": 0.6},
        ],
        titles=titles,
        facts={"seed": 3, "bundle": "0" * 64},
    )
    page = report.html.read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "Tiny &lt;model&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="http', page)
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*\]\((\w+\.png)\)", markdown)
    assert pictures == ["learning_curve.png", "reliability.png", "coverage.png", "confusion.png"]
    for name in pictures:
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")
    # every line of a table has as many cells as its header
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().split("\n")}
        assert len(cells) == 1
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert figures == dict(report.metrics)
    assert f"accuracy {figures['accuracy']:.4f}" in report.headline()
    assert "식품 > Fruit > Apple" in page.replace("&gt;", ">")


def test_no_picture_lacks_a_glyph(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    labels = ["사과", "배", "과자"]
    rng = np.random.default_rng(0)
    p = CategoryPredictions.from_probabilities(
        rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60), label_nodes=np.arange(3)
    )
    write_category_report(tmp_path, p, taxonomy=Taxonomy.flat(labels), labels=labels, titles=["나이키"] * 60)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_small_and_perfect_samples(tmp_path: Path) -> None:
    for rows in (1, 2):
        p = CategoryPredictions.from_probabilities(
            np.zeros(rows, int), np.eye(6)[[0] * rows], label_nodes=TREE.positions(LABELS)
        )
        report = write_category_report(tmp_path / str(rows), p, taxonomy=TREE, labels=LABELS, titles=["x"] * rows)
        assert report.metrics["accuracy"] == report.metrics["macro_f1"] == 1.0
        assert report.metrics["ece"] == 0.0


def test_wrong_inputs() -> None:
    with pytest.raises(InvalidInputError, match=r"probabilities must have shape \(2, 6\), got \(2, 5\)"):
        CategoryPredictions.from_probabilities(np.zeros(2), np.zeros((2, 5)), label_nodes=TREE.positions(LABELS))
    with pytest.raises(InvalidInputError, match="truth has -1, so truth_nodes must be given"):
        CategoryPredictions.from_probabilities(np.array([-1]), np.zeros((1, 6)), label_nodes=TREE.positions(LABELS))


def test_ranking_ties_take_the_lower_label_first() -> None:
    p = np.array([[0.2, 0.3, 0.3, 0.2]])
    assert ranked_labels(p, 4).tolist() == [[1, 2, 0, 3]]
    assert ranked_labels(p, 9).shape == (1, 4)
    assert ranked_labels(p, 1).tolist() == [[1]]
