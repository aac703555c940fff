"""The graph: walks against the slow twin on every ISA level, reachability, masks, writes, files, what build chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import ann as reference
from tests.unit.test_ann_search import clustered

from aitems_engine._native import ann as native
from aitems_engine._native import isa
from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.ann.index import METRICS
from aitems_engine.ann.tuning import EXACT_FORM, GRAPH_FORM, recall
from aitems_engine.errors import InvalidInputError

pytestmark = pytest.mark.native
LEVELS = isa.runnable()
WALK_LISTS = 16  # csrc/ann/graph.hpp


def make(vectors, metric="ip", lists=20, degree=12, ids=None, rerank=0, threads=1):
    ids = np.arange(len(vectors), dtype=np.int64) if ids is None else ids
    return native.Index.build(vectors, ids, [], METRICS.index(metric), rerank, lists, 5, 0, threads, degree)


def walk(index, queries, k, beam, shortlist, level="", threads=1):
    found, scores, how = index.search(queries, k, None, 0, shortlist, threads, GRAPH_FORM, level, beam)
    assert how == "graph"
    return found, scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "lists", "degree"), [(1, 3, 2), (7, 5, 4), (20, 40, 8), (64, 30, 16), (100, 20, 32)])
def test_walks_equal_the_twin_on_every_level(metric, dim, lists, degree):
    rng = np.random.default_rng(dim)
    vectors, queries = clustered(rng, 1200, dim), clustered(rng, 6, dim)
    vectors[100:140] = vectors[99]  # equal codes
    vectors[200:220] = 0
    queries[0] = 0
    ids = rng.permutation(5000)[:1200].astype(np.int64)
    index = make(vectors, metric, lists, degree, ids)
    graph = index.graph()
    asked = reference.unit(queries) if metric == "cosine" else queries
    by_id = dict(zip(ids.tolist(), reference.unit(vectors) if metric == "cosine" else vectors, strict=True))
    for beam, shortlist in ((24, 12), (60, 60)):
        for q, query in enumerate(asked):
            held = reference.walk(graph, query, WALK_LISTS, beam)[:shortlist]
            best = sorted((-reference.score(query, by_id[i], metric), i) for i in graph["ids"][held].tolist())[:10]
            for level in LEVELS:
                found, scores = walk(index, queries[q : q + 1], 10, beam, shortlist, level)
                np.testing.assert_array_equal(found[0], [i for _, i in best], err_msg=f"{level} {beam} {q}")
                np.testing.assert_array_equal(scores[0], np.array([-s for s, _ in best], np.float32))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_item_can_be_reached_and_a_wide_beam_finds_it(data):
    count, dim = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 20))
    lists, degree = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 8))
    metric, seed = data.draw(st.sampled_from(METRICS)), data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, size=(count, dim)).astype(np.float32)  # many equal and zero vectors
    if data.draw(st.booleans()):
        vectors[: count // 2] = vectors[0]
    index = make(vectors, metric, lists, degree)
    graph = index.graph()
    assert reference.reachable(graph) == set(np.flatnonzero(graph["ids"] >= 0).tolist())
    assert index.stats()["unreachable"] == 0
    queries = rng.normal(size=(3, dim)).astype(np.float32)
    found, scores = walk(index, queries, 15, count, count)
    expected = reference.search(vectors, range(count), queries, 15, metric)
    np.testing.assert_array_equal(found, expected[0])  # 12 lists and less: all are starts
    np.testing.assert_array_equal(scores, expected[1])


def test_one_vector_many_times():
    index = make(np.ones((3000, 8), np.float32), lists=4, degree=4)
    assert index.stats()["unreachable"] == 0
    found, _ = walk(index, np.ones((2, 8), np.float32), 50, 3000, 3000)
    np.testing.assert_array_equal(found, np.tile(np.arange(50), (2, 1)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rerank", [0, 1])
def test_walks_find_nearly_everything(metric, rerank):
    rng = np.random.default_rng(4)
    vectors, queries = clustered(rng, 8000, 48, 0.3), clustered(rng, 100, 48, 0.3)
    index = make(vectors, metric, 80, 16, rerank=rerank)
    exact = index.search(queries, 10, None, 0, 0, 1, EXACT_FORM, "")
    found, scores = walk(index, queries, 10, 400, 40)
    assert recall(found, exact[0]) > 0.97
    same = found == exact[0]
    np.testing.assert_array_equal(scores[same], exact[1][same])


def test_the_same_graph_for_any_number_of_threads_and_batch():
    rng = np.random.default_rng(6)
    vectors, queries = clustered(rng, 5000, 32), clustered(rng, 40, 32)
    one, many = (make(vectors, "ip", 40, 12, threads=threads) for threads in (1, 4))
    for name, array in one.graph().items():
        np.testing.assert_array_equal(array, many.graph()[name], err_msg=name)
    expected = walk(one, queries, 10, 40, 20)[0]
    np.testing.assert_array_equal(walk(many, queries, 10, 40, 20, threads=3)[0], expected)
    singles = [walk(one, queries[i : i + 1], 10, 40, 20)[0] for i in range(len(queries))]
    np.testing.assert_array_equal(np.concatenate(singles), expected)


@pytest.fixture(scope="module")
def built():
    rng = np.random.default_rng(7)
    vectors, queries = clustered(rng, 9000, 24, 0.3), clustered(rng, 400, 24, 0.3)
    malls = [f"m{i % 10}" for i in range(9000)]
    index = AnnIndex.build(vectors, kind="graph", degree=16, attributes={"mall": malls}, queries=queries[:300])
    return index, vectors, queries[300:]


def test_build_measures_walks_and_describes_them(built):
    index, _, queries = built
    described = index.describe()
    assert described["kind"] == "graph"
    assert described["graph"]["degree"] == 16
    assert described["graph"]["unreachable"] == 0
    assert [effort["k"] for effort in described["graph"]["plan"]][:2] == [10, 30]
    assert any("beam" in entry for entry in described["measured"])
    for k in (10, 20, 30):
        exact = index.search(queries, k, form="exact").ids
        hits = index.search(queries, k, form="graph")
        assert hits.how == "graph"
        assert recall(hits.ids, exact) > 0.92
    more = index.search(queries, 10, form="graph", beam=500, shortlist=60).ids
    assert recall(more, index.search(queries, 10, form="exact").ids) > 0.99


def test_filters_never_lose_recall(built):
    index, _, queries = built
    for wanted in (Filter.eq("mall", "m3"), ~Filter.eq("mall", "m3"), ~Filter.ids(list(range(50)))):
        exact = index.search(queries, 10, filter=wanted, form="exact")
        hits = [index.search(queries[i : i + 1], 10, filter=wanted).ids for i in range(len(queries))]
        assert recall(np.concatenate(hits), exact.ids) > 0.975
        walked = index.search(queries, 10, filter=wanted, form="graph")
        assert np.isin(walked.ids, exact.ids[exact.ids >= 0]).mean() > 0.5
        assert (walked.ids >= 0).all()


def test_deleted_items_are_walked_over_and_not_returned_and_added_ones_are_found(built, tmp_path):
    index, _, queries = built
    index.save(tmp_path / "items.index")
    index = AnnIndex.open(tmp_path / "items.index")
    gone = np.unique(index.search(queries, 20, form="exact").ids)
    index.delete(gone)
    for beam in (10, 400):
        assert not np.isin(index.search(queries, 10, form="graph", beam=beam).ids, gone).any()
    again = index.search(queries, 10, form="graph", beam=400).ids
    assert recall(again, index.search(queries, 10, form="exact").ids) > 0.95
    index.upsert(gone[:30] + 100_000, queries[:30] * 100)
    hits = index.search(queries[:30], 1, form="graph")
    np.testing.assert_array_equal(hits.ids, index.search(queries[:30], 1, form="exact").ids)
    left = [*np.setdiff1d(np.arange(9000), gone)[[0, -1]].tolist(), int(gone[0]) + 100_000]
    index.delete(np.setdiff1d(index.ids, left))
    assert sorted(index.search(queries[:1], 5, form="graph").ids[0].tolist()) == [-1, -1, *left]
    index.compact()
    assert index.describe()["kind"] == "graph"
    assert sorted(index.search(queries[:1], 3, form="graph").ids[0].tolist()) == left


def test_bad_arguments():
    vectors = np.ones((30, 4), np.float32)
    with pytest.raises(InvalidInputError, match="degree must be 2 to 256, got 1"):
        AnnIndex.build(vectors, kind="graph", degree=1)
    with pytest.raises(InvalidInputError, match="only a graph has a degree"):
        AnnIndex.build(vectors, kind="ivf", degree=8)
    lists = AnnIndex.build(vectors, kind="ivf", lists=2)
    for arguments in ({"beam": 20}, {"form": "graph"}):
        with pytest.raises(InvalidInputError, match="no graph"):
            lists.search(vectors[:1], 3, **arguments)
    with pytest.raises(InvalidInputError, match="beam must be 1 or more"):
        AnnIndex.build(vectors, kind="graph", lists=2).search(vectors[:1], 3, beam=0)


def test_tiny_and_empty_sets():
    assert AnnIndex.build(np.empty((0, 3), np.float32), kind="graph").search(
        np.ones((1, 3), np.float32), 2
    ).ids.tolist() == [[-1, -1]]
    for count in (1, 2, 17):
        vectors = np.eye(17, 17, dtype=np.float32)[:count]
        index = AnnIndex.build(vectors, kind="graph")
        np.testing.assert_array_equal(index.search(vectors, 1, form="graph").ids[:, 0], np.arange(count))
