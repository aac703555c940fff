"""Measures of rankers on impressions and the page that compares them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aitems_engine.evaluation.binary import auc, grouped_auc, log_loss
from aitems_engine.evaluation.rankers import evaluate_ranker, write_ranker_report
from aitems_engine.ranking import Examples, Predictions


def drawn(n=4000, seed=0):
    """Return impressions and the probabilities they came from."""
    rng = np.random.default_rng(seed)
    pctr, pcvr = rng.uniform(0.02, 0.3, n), rng.uniform(0.05, 0.5, n)
    click = rng.random(n) < pctr
    purchase = click & (rng.random(n) < pcvr)
    examples = Examples(
        np.zeros((n, 1), np.int32),
        np.zeros((n, 0), np.float32),
        click.astype(np.float32),
        purchase.astype(np.float32),
        rng.integers(0, 200, n),
        np.arange(n),
        np.ones(n, bool),
    )
    return examples, Predictions(pctr.astype(np.float32), pcvr.astype(np.float32))


def test_measures_are_those_of_the_rows():
    examples, predictions = drawn()
    found = evaluate_ranker(predictions, examples)
    for name, labels, p in (
        ("click", examples.click, predictions.pctr),
        ("purchase", examples.purchase, predictions.pctcvr),
    ):
        scores = found[name]
        assert (scores.rows, scores.positives) == (4000, int(labels.sum()))
        assert scores.auc[0] == pytest.approx(auc(labels, p))
        assert scores.auc[1] < scores.auc[0] < scores.auc[2]
        assert scores.gauc[0] == pytest.approx(grouped_auc(labels, p, examples.group))
        assert scores.log_loss == pytest.approx(log_loss(labels, p))
        assert scores.ratio == pytest.approx(p.sum() / labels.sum(), rel=1e-5)
        assert scores.values()["ece"] == scores.bins.error < 0.03


def test_purchases_that_may_still_come_do_not_count():
    examples, predictions = drawn()
    known = np.ones(4000, bool)
    known[3000] = False
    found = evaluate_ranker(predictions, replace(examples, purchase_known=known))
    assert found["purchase"].rows == 3000
    assert found["click"].rows == 4000


def test_a_ranker_of_clicks_is_judged_by_clicks_alone():
    examples, predictions = drawn()
    clicks = Predictions(predictions.pctr, np.ones(4000, np.float32))
    assert set(evaluate_ranker(clicks, examples)) == {"click"}


def test_the_page_compares_models(tmp_path):
    examples, predictions = drawn()
    blind = Predictions(np.full(4000, 0.16, np.float32), np.ones(4000, np.float32))
    found = {"knowing": evaluate_ranker(predictions, examples), "blind": evaluate_ranker(blind, examples)}
    assert found["blind"]["click"].auc == (0.5, 0.5, 0.5)
    page = write_ranker_report(tmp_path / "report", found, data="Simulated.")
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png") == 5
    assert "Purchase" in text
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| blind | 4000 |" in markdown
    assert "0.5000 \\[0.5000, 0.5000]" in markdown
