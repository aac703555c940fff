"""The accuracy ceiling: the judge's scores against shares counted from the draws themselves."""

from __future__ import annotations

import numpy as np
import pytest

from aitems_engine.simulator.ceiling import Ceiling
from aitems_engine.simulator.malls import Malls
from aitems_engine.simulator.titles import Titles
from aitems_engine.simulator.tree import build_tree, leaf_counts


@pytest.fixture(scope="module")
def parts() -> tuple[Titles, Malls, np.ndarray]:
    rng = np.random.default_rng(2)
    tree = build_tree(30, rng)
    counts = leaf_counts(tree, 60_000, 50.0, rng)
    return Titles(tree, rng), Malls(tree, counts, rng), counts


def test_the_judge_is_calibrated(parts):
    """Its probabilities are those of the draws: of leaves given p, a share p is true."""
    titles, malls, counts = parts
    rng = np.random.default_rng(5)
    leaf = rng.permutation(np.repeat(np.arange(titles.tree.num_leaves, dtype=np.int32), counts))
    slots = titles.draw(leaf, rng.random(len(leaf)), rng)
    mall = malls.draw(leaf, rng)
    judge = Ceiling(titles, malls, counts)
    probability, hit = [], []
    for section in np.unique(slots.section):
        rows = np.flatnonzero(slots.section == section)
        first = int(titles.section_leaves_start[section])
        leaves = np.arange(first, first + int(titles.section_leaves[section]))
        score = judge.title_score(int(section), leaves, slots.take(rows))
        score += judge.mall_score(leaves, mall.mall[rows], mall.path_key[rows])
        p = np.exp(score - score.max(1, keepdims=True))
        probability.append((p / p.sum(1, keepdims=True)).ravel())
        hit.append((leaves[None] == leaf[rows][:, None]).ravel())
    p, y = np.concatenate(probability), np.concatenate(hit)
    for low, high in ((0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95)):
        inside = (p > low) & (p <= high)
        assert inside.sum() > 200
        assert y[inside].mean() == pytest.approx(p[inside].mean(), abs=0.05)


def test_the_ceiling_is_below_one_and_malls_help(parts):
    titles, malls, counts = parts
    rng = np.random.default_rng(6)
    leaf = np.repeat(np.arange(titles.tree.num_leaves, dtype=np.int32), counts)
    judge = Ceiling(titles, malls, counts)
    judge.add(leaf, titles.draw(leaf, rng.random(len(leaf)), rng), malls.draw(leaf, rng))
    accuracy = judge.accuracy()
    assert 0.9 < accuracy["title"] < accuracy["title_and_mall"] < 0.995
