"""Exact search and the scan of lists against the slow twin on every ISA level; the forms against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import ann as reference

from aitems_engine._native import ann as native
from aitems_engine._native import isa
from aitems_engine.ann import AnnIndex
from aitems_engine.ann.index import METRICS
from aitems_engine.ann.tuning import recall

pytestmark = pytest.mark.native
LEVELS = isa.runnable()
AUTO, SINGLE, GROUPED = range(3)


def make(vectors, metric="ip", lists=0, ids=None, rerank=0):
    ids = np.arange(len(vectors), dtype=np.int64) if ids is None else ids
    return native.Index.build(vectors, ids, [], METRICS.index(metric), rerank, lists, 5, 0, 1)


def clustered(rng, count, dim, skew=0.5):
    """Vectors around centres, with norms that differ: what recommenders make."""
    centres = rng.normal(size=(max(1, count // 40), dim))
    rows = centres[rng.integers(len(centres), size=count)] + 0.6 * rng.normal(size=(count, dim))
    return (rows * np.exp(skew * rng.normal(size=(count, 1)))).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 4, 15, 16, 17, 64, 100])
def test_exact_equals_the_twin_to_the_bit_on_every_level(metric, dim):
    rng = np.random.default_rng(dim)
    vectors, queries = rng.normal(size=(83, dim)).astype(np.float32), rng.normal(size=(5, dim)).astype(np.float32)
    vectors[7] = vectors[60]  # a tie
    vectors[9] = 0
    ids = rng.permutation(1000)[:83].astype(np.int64)
    ids[3] = 2**31 + 5
    ids[4] = 2**62
    expected = reference.search(vectors, ids.tolist(), queries, 12, metric)
    index = make(vectors, metric, ids=ids)
    for level in LEVELS:
        found_ids, scores, how = index.search(queries, 12, None, 0, 0, 1, AUTO, level)
        assert how == "exact"
        np.testing.assert_array_equal(found_ids, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_exact_equals_the_twin_on_small_integers_with_many_ties(data):
    count, dim = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 20))
    seed, k = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 50))
    metric = data.draw(st.sampled_from(METRICS))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, size=(count, dim)).astype(np.float32)
    queries = rng.integers(-1, 2, size=(3, dim)).astype(np.float32)
    ids = rng.permutation(100)[:count].astype(np.int64)
    expected = reference.search(vectors, ids.tolist(), queries, k, metric)
    found_ids, scores, _ = make(vectors, metric, ids=ids).search(queries, k, None, 0, 0, 1, AUTO, "")
    np.testing.assert_array_equal(found_ids, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_lists_with_all_probes_and_candidates_are_exact(data):
    """Every list probed and every item scored again: what remains is bookkeeping, and that must be exact."""
    count, dim = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 40))
    lists, k = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 100))
    metric, seed = data.draw(st.sampled_from(METRICS)), data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(count, dim)).astype(np.float32)
    queries = rng.normal(size=(4, dim)).astype(np.float32)
    ids = rng.permutation(200)[:count].astype(np.int64)
    expected = reference.search(vectors, ids.tolist(), queries, k, metric)
    index = make(vectors, metric, lists, ids)
    for form in (SINGLE, GROUPED):
        found_ids, scores, how = index.search(queries, k, None, lists, count, 1, form, "")
        assert how == "lists"
        np.testing.assert_array_equal(found_ids, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "lists"), [(5, 3), (20, 7), (64, 16), (96, 1), (130, 20)])
def test_forms_levels_and_threads_agree(metric, dim, lists):
    rng = np.random.default_rng(dim)
    vectors, queries = clustered(rng, 1500, dim), clustered(rng, 41, dim)
    vectors[100:140] = vectors[99]  # equal codes, so that candidates tie at the cut
    index = make(vectors, metric, lists)
    expected = index.search(queries, 10, None, 3, 14, 1, SINGLE, "baseline")
    for level in LEVELS:
        for form in (SINGLE, GROUPED):
            for threads in (1, 3):
                found = index.search(queries, 10, None, 3, 14, threads, form, level)
                np.testing.assert_array_equal(found[0], expected[0], err_msg=f"{level} {form} {threads}")
                np.testing.assert_array_equal(found[1], expected[1])
    one_by_one = [index.search(queries[i : i + 1], 10, None, 3, 14, 1, AUTO, "")[0] for i in range(len(queries))]
    np.testing.assert_array_equal(np.concatenate(one_by_one), expected[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [64, 192])
def test_levels_agree_where_a_batch_is_large_enough_for_tiles(metric, dim):
    rng = np.random.default_rng(dim)
    vectors, queries = clustered(rng, 1700, dim), clustered(rng, 1000, dim)
    index = make(vectors, metric, 6)
    for probes in (5, 6):
        expected = index.search(queries, 10, None, probes, 14, 1, GROUPED, "baseline")
        for level in LEVELS:
            found = index.search(queries, 10, None, probes, 14, 1, GROUPED, level)
            np.testing.assert_array_equal(found[0], expected[0], err_msg=level)
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rerank", [0, 1])
def test_lists_find_nearly_everything(metric, rerank):
    rng = np.random.default_rng(4)
    vectors, queries = clustered(rng, 6000, 48), clustered(rng, 100, 48)
    truth = make(vectors, metric).search(queries, 10, None, 0, 0, 1, AUTO, "")
    index = make(vectors, metric, 40, rerank=rerank)
    found = index.search(queries, 10, None, 40, 40, 1, AUTO, "")
    assert recall(found[0], truth[0]) > 0.995
    if rerank == 0:  # scores of found items are exact scores
        same = found[0] == truth[0]
        np.testing.assert_array_equal(found[1][same], truth[1][same])
    else:
        np.testing.assert_allclose(found[1], truth[1], rtol=2e-3, atol=2e-2)


def test_duplicates_of_one_vector_come_by_id():
    vectors = np.ones((5000, 8), np.float32)
    ids = np.random.default_rng(0).permutation(5000).astype(np.int64)
    for lists in (0, 4):
        for form in (SINGLE, GROUPED):
            index = make(vectors, "ip", lists, ids)
            found = index.search(vectors[:9], 50, None, lists, 60, 1, form, "")[0]
            np.testing.assert_array_equal(found, np.tile(np.arange(50), (9, 1)))


def test_half_precision_scores_equal_widened_vectors():
    rng = np.random.default_rng(5)
    vectors = (rng.normal(size=(200, 24)) * 10.0 ** rng.integers(-7, 4, size=(200, 1))).astype(np.float32)
    queries = rng.normal(size=(6, 24)).astype(np.float32)
    widened = vectors.astype(np.float16).astype(np.float32)
    for metric in ("ip", "l2"):
        expected = reference.search(widened, range(200), queries, 200, metric)
        for level in LEVELS:
            found = make(vectors, metric, 0, rerank=1).search(queries, 200, None, 0, 0, 1, AUTO, level)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_the_same_build_for_any_number_of_threads():
    rng = np.random.default_rng(6)
    vectors, queries = clustered(rng, 5000, 32), clustered(rng, 50, 32)
    built = [AnnIndex.build(vectors, kind="ivf", lists=32, threads=threads) for threads in (1, 4)]
    assert built[0].describe() == built[1].describe()
    one, many = (index.search(queries, 10, threads=2) for index in built)
    np.testing.assert_array_equal(one.ids, many.ids)


@pytest.mark.parametrize("metric", METRICS)
def test_build_reaches_its_target(metric):
    rng = np.random.default_rng(7)
    vectors, queries = clustered(rng, 9000, 40, skew=0.3), clustered(rng, 300, 40, skew=0.3)
    exact = AnnIndex.build(vectors, metric=metric, kind="exact")
    for target in (0.8, 0.95):
        index = AnnIndex.build(vectors, metric=metric, recall_target=target, kind="ivf", queries=queries[:150])
        for k in (10, 40, 100):
            reached = recall(index.search(queries[150:], k).ids, exact.search(queries[150:], k).ids)
            assert reached >= target - 0.03, (target, k, reached)
        assert index.describe()["measured"]


def test_build_chooses_exact_for_small_sets_and_says_why():
    vectors = np.random.default_rng(8).normal(size=(300, 16)).astype(np.float32)
    description = AnnIndex.build(vectors).describe()
    assert description["kind"] == "exact"
    assert "300 items" in description["why"]
    assert AnnIndex.build(vectors, recall_target=1).describe()["why"] == "recall_target is 1"
