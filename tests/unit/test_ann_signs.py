"""Signs: scans against the slow twin on every ISA level, what build measures and chooses, masks, writes, files."""

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
from aitems_engine.ann.tuning import SIGN_FORM, recall
from aitems_engine.errors import InvalidInputError

pytestmark = pytest.mark.native
LEVELS = isa.runnable()


def make(vectors, metric="ip", lists=6, ids=None, rerank=0, threads=1):
    ids = np.arange(len(vectors), dtype=np.int64) if ids is None else ids
    return native.Index.build(vectors, ids, [], METRICS.index(metric), rerank, lists, 5, 0, threads, 0, True)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 7, 32, 130])
def test_scans_equal_the_twin_on_every_level(metric, dim):
    rng = np.random.default_rng(dim)
    vectors, queries = clustered(rng, 300, dim, skew=0), clustered(rng, 4, dim)
    vectors[100:130] = vectors[99]  # equal signs
    vectors[200:210] = 0
    queries[0] = 0
    ids = rng.permutation(5000)[:300].astype(np.int64)
    index = make(vectors, metric, ids=ids)
    stored = dict(zip(ids.tolist(), reference.unit(vectors) if metric == "cosine" else vectors, strict=True))
    asked = reference.unit(queries) if metric == "cosine" else queries
    for q, query in enumerate(asked):
        ranked = reference.signs(index.graph(), stored, query, 4, metric == "l2")
        for shortlist in (10, 25):
            held = ranked[:shortlist]
            best = sorted((-reference.score(query, stored[i], metric), i) for i in held)[:10]
            for level in LEVELS:
                found, scores, how = index.search(queries[q : q + 1], 10, None, 4, shortlist, 1, SIGN_FORM, level)
                assert how == "signs"
                np.testing.assert_array_equal(found[0], [i for _, i in best], err_msg=f"{level} {shortlist} {q}")
                np.testing.assert_array_equal(scores[0], np.array([-s for s, _ in best], np.float32))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_all_lists_and_a_long_shortlist_give_the_exact_answer(data):
    count, dim = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 40))
    k, lists = data.draw(st.integers(1, 170)), data.draw(st.integers(1, 12))
    metric, rerank = data.draw(st.sampled_from(METRICS)), data.draw(st.integers(0, 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    vectors = (rng.integers(-2, 3, size=(count, dim)) * data.draw(st.sampled_from([1, 50]))).astype(np.float32)
    index = make(vectors, metric, lists, rerank=rerank)
    queries = rng.integers(-2, 3, size=(3, dim)).astype(np.float32)
    exact = index.search(queries, k, None, 0, 0, 1, 3, "")
    found = index.search(queries, k, None, lists, count, 1, SIGN_FORM, "")
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1], exact[1])


@pytest.fixture(scope="module")
def wide():
    """5,000 items of 128 dimensions whose neighbours lie in many lists."""
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(5500, 16)) @ rng.normal(size=(16, 128)) + rng.normal(size=(5500, 128))).astype(np.float32)
    malls = [f"m{i % 3}" for i in range(5000)]
    index = AnnIndex.build(rows[:5000], metric="cosine", attributes={"mall": malls}, queries=rows[5000:5200])
    return index, rows[:5000], rows[5200:]


def test_what_build_chooses_reaches_its_target(wide):
    index, rows, queries = wide
    described = index.describe()
    assert described["kind"] == "ivf"
    assert [effort["k"] for effort in described["signs"]["plan"]] == [10, 30, 100, 300, 1000]
    assert described["signs"]["bytes"] == described["memory_bytes"] - make_plain(rows).describe()["memory_bytes"]
    assert 20 * 5000 <= described["signs"]["bytes"] <= 22 * 5000
    truth = AnnIndex.build(rows, metric="cosine", kind="exact").search(queries, 10).ids
    singles = [index.search(queries[i : i + 1], 10) for i in range(len(queries))]
    assert {hits.how for hits in singles} == {"signs"}
    assert recall(np.concatenate([hits.ids for hits in singles]), truth) >= 0.93
    assert index.search(queries, 10).how == "lists"


def make_plain(rows):
    return AnnIndex.build(rows, metric="cosine", signs=False, attributes={"mall": [f"m{i % 3}" for i in range(5000)]})


def test_filters_and_writes(wide, tmp_path):
    index, rows, queries = wide
    index.save(tmp_path / "items.index")
    index = AnnIndex.open(tmp_path / "items.index")
    exact = AnnIndex.build(rows, metric="cosine", kind="exact", attributes={"mall": [f"m{i % 3}" for i in range(5000)]})
    mall = Filter.eq("mall", "m1")
    found = [index.search(queries[i : i + 1], 10, filter=mall) for i in range(100)]
    assert {hits.how for hits in found} <= {"signs", "exact subset"}
    ids = np.concatenate([hits.ids for hits in found])
    assert (ids % 3 == 1).all()
    assert recall(ids, exact.search(queries[:100], 10, filter=mall).ids) >= 0.98
    gone = index.search(queries[:1], 50).ids[0]
    index.delete(gone)
    index.upsert([9000], queries[:1], {"mall": ["m1"]})
    hits = index.search(queries[:1], 50, form="signs")
    assert hits.ids[0, 0] == 9000
    assert not np.isin(hits.ids, gone).any()
    index.compact()
    assert index.describe()["signs"]["bytes"] > 0
    assert index.search(queries[:1], 50, form="signs").ids[0, 0] == 9000


def test_too_few_in_the_probed_lists_goes_on(wide):
    index, _, queries = wide
    hits = index.search(queries[:1], 3000, form="signs", probes=1)
    assert (hits.ids >= 0).all()
    assert len(np.unique(hits.ids)) == 3000


def test_wrong_use(wide):
    rows = np.eye(20, dtype=np.float32)
    with pytest.raises(InvalidInputError, match="signs=True"):
        AnnIndex.build(rows, kind="ivf").search(rows, 3, form="signs")
    with pytest.raises(InvalidInputError, match="an exact index has no signs"):
        AnnIndex.build(rows, kind="exact", signs=True)
    with pytest.raises(InvalidInputError, match="at most 2048 dimensions, got 3000"):
        AnnIndex.build(np.ones((2, 3000), np.float32), kind="ivf", signs=True)
    assert AnnIndex.build(rows).search(rows, 1, form="signs").how == "exact"  # too small for lists
