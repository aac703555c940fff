"""Bad input of the index: each a clear error or a documented result."""

from __future__ import annotations

import numpy as np
import pytest

from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.errors import InvalidInputError

pytestmark = pytest.mark.native
VECTORS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture(params=["exact", "ivf"])
def index(request):
    return AnnIndex.build(VECTORS, kind=request.param, attributes={"mall": ["a", "b"] * 10})


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (VECTORS.astype(np.float64), r"float32 array of shape \(n, 4\), got dtype float64; call .astype"),
        (VECTORS[0], r"got shape \(4,\)"),
        (VECTORS[:, :3], r"shape \(n, 4\), got shape \(20, 3\)"),
        ([[0.0] * 4], "got list"),
        (np.full((2, 4), np.nan, np.float32), "query 0 holds NaN at position 0"),
        (np.array([[0, 0, 0, 0], [0, np.inf, 0, 0]], np.float32), "query 1 holds infinity at position 1"),
        (np.full((1, 4), 1e19, np.float32), "norm above 1e18"),
    ],
)
def test_queries(index, queries, message):
    with pytest.raises(InvalidInputError, match=message):
        index.search(queries)


@pytest.mark.parametrize("k", [0, -1, 2**40])
def test_k_out_of_range(index, k):
    with pytest.raises(InvalidInputError, match=f"k must be 1 to 1048576, got {k}"):
        index.search(VECTORS[:1], k)


def test_k_of_a_wrong_type(index):
    with pytest.raises(InvalidInputError, match="k must be an integer, got float"):
        index.search(VECTORS[:1], 1.5)


def test_k_beyond_the_items_gives_short_results(index):
    hits = index.search(VECTORS[:3], 30)
    assert (np.sort(hits.ids[:, :20], axis=1) == np.arange(20)).all()
    assert (hits.ids[:, 20:] == -1).all()
    assert np.isneginf(hits.scores[:, 20:]).all()


def test_no_queries(index):
    assert index.search(VECTORS[:0], 3).ids.shape == (0, 3)


def test_zero_queries_score_zero(index):
    hits = index.search(np.zeros((1, 4), np.float32), 3)
    assert hits.scores.tolist() == [[0, 0, 0]]
    cosine = AnnIndex.build(np.zeros((3, 4), np.float32), metric="cosine")
    assert cosine.search(VECTORS[:1], 3).ids.tolist() == [[0, 1, 2]]
    assert cosine.search(VECTORS[:1], 3).scores.tolist() == [[0, 0, 0]]


def test_arrays_that_are_not_contiguous_are_read_as_they_are(index):
    turned = np.asfortranarray(VECTORS)
    np.testing.assert_array_equal(index.search(turned, 3).ids, index.search(VECTORS, 3).ids)
    np.testing.assert_array_equal(index.search(VECTORS[::2], 3).ids, index.search(VECTORS, 3).ids[::2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": np.r_[np.arange(19), 3]}, "distinct; id 3 is given twice"),
        ({"ids": np.arange(20) - 1}, "id -1 stands at position 0"),
        ({"ids": np.arange(19)}, r"shape \(20,\), one a vector, got \(19,\)"),
        ({"ids": np.arange(20).astype(np.float32)}, "must be integers"),
        ({"ids": np.arange(20, dtype=np.uint64) + np.uint64(2**63)}, "fit into int64"),
        ({"ids": ["a"] * 20}, "a string is given twice"),
        ({"ids": ["a", 5] * 10}, "string ids, got int 5"),
        ({"metric": "manhattan"}, "metric must be one of ip, cosine, l2"),
        ({"kind": "tree"}, "kind must be"),
        ({"rerank": "int4"}, "rerank must be"),
        ({"recall_target": 0}, "recall_target"),
        ({"lists": 0}, "lists must be"),
        ({"kind": "exact", "lists": 4}, "has no lists"),
        ({"attributes": {"mall": ["a"]}}, r"one entry an item \(20\), got 1"),
        ({"attributes": {"mall": [1.5] * 20}}, "str, int or bool, got float"),
        ({"threads": -1}, "threads must be 0"),
    ],
)
def test_build(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        AnnIndex.build(VECTORS, **arguments)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (VECTORS.astype(np.float16), "got dtype float16"),
        (VECTORS[0], r"got shape \(4,\)"),
        (np.zeros((3, 0), np.float32), "1 to 16384 dimensions"),
        (np.where(np.isin(VECTORS, VECTORS[7, 2]), np.float32(np.nan), VECTORS), "vector 7 holds NaN at position 2"),
        (None, "got NoneType"),
    ],
)
def test_build_vectors(vectors, message):
    with pytest.raises(InvalidInputError, match=message):
        AnnIndex.build(vectors)


def test_half_precision_has_limits():
    with pytest.raises(InvalidInputError, match="65504"):
        AnnIndex.build(VECTORS * 1e6, rerank="half")


def test_large_ids_are_kept():
    ids = np.array([0, 2**31 - 1, 2**31, 2**32 + 1, 2**63 - 1])
    index = AnnIndex.build(VECTORS[:5], ids=ids)
    assert sorted(index.search(VECTORS[:1], 5).ids[0].tolist()) == ids.tolist()


def test_string_ids():
    index = AnnIndex.build(VECTORS, ids=[f"item-{i}" for i in range(20)])
    hits = index.search(VECTORS[:1], 25)
    assert hits.ids[0, 20:].tolist() == [None] * 5
    plain = AnnIndex.build(VECTORS).search(VECTORS[:1], 25)
    assert hits.ids[0, :20].tolist() == [f"item-{i}" for i in plain.ids[0, :20]]
    assert index.search(VECTORS[:1], 1, filter=Filter.ids(["item-4", "unknown"])).ids.tolist() == [["item-4"]]
    with pytest.raises(InvalidInputError, match="string ids, got int 4"):
        index.delete([4])
    with pytest.raises(InvalidInputError, match="a bitmap needs integer ids"):
        index.search(VECTORS[:1], filter=Filter.bitmap(np.ones(20, bool)))


def test_empty_index():
    index = AnnIndex.build(np.empty((0, 4), np.float32), attributes={"mall": []})
    hits = index.search(VECTORS[:2], 3)
    assert hits.how == "empty"
    assert (hits.ids == -1).all()
    assert index.search(VECTORS[:2], 3, filter=Filter.eq("mall", "a")).how == "empty"
    index.upsert([3], VECTORS[:1], {"mall": ["a"]})
    assert index.search(VECTORS[:1], 1, filter=Filter.eq("mall", "a")).ids.tolist() == [[3]]
    assert len(index) == 1


def test_closed_index(index):
    with index:
        pass
    for call in (
        lambda: index.search(VECTORS),
        lambda: index.delete([1]),
        lambda: index.upsert([1], VECTORS[:1]),
        lambda: index.vectors([1]),
        lambda: index.save("never-written.index"),
        lambda: 1 in index,
        lambda: index.ids,
        lambda: index.dim,
        index.describe,
        index.compact,
        index.__enter__().describe,
        lambda: len(index),
    ):
        with pytest.raises(InvalidInputError, match="the index is closed"):
            call()


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (lambda: Filter.eq("brand", "x"), "no attribute 'brand'; it has: mall"),
        (lambda: Filter.eq("mall", 1.5), "str, int or bool"),
        (lambda: Filter.isin("mall", "ab"), "got one string"),
        (lambda: Filter.eq("mall", "a") & 3, "got int"),
        (lambda: Filter.ids(np.zeros(3)), "integers or strings"),
        (lambda: Filter.ids(["x"]), "must be integers"),
        (lambda: Filter.bitmap(np.zeros(3, np.uint8)), "bool array"),
        (lambda: [Filter.eq("mall", "a")], "one filter a query is needed, got 1 filters for 2 queries"),
        (lambda: ["mall", None], "Filter or None, got str"),
    ],
)
def test_filters(index, filter, message):
    with pytest.raises(InvalidInputError, match=message):
        index.search(VECTORS[:2], filter=filter())


def test_upsert_checks_before_it_changes_anything(index):
    for ids, vectors, attributes, message in [
        ([1, 1], VECTORS[:2], None, "given twice"),
        ([1], VECTORS[:2], None, r"shape \(2,\)"),
        ([-4], VECTORS[:1], None, "0 or more"),
        ([1], VECTORS[:1, :2], None, r"shape \(n, 4\)"),
        ([1], np.full((1, 4), np.nan, np.float32), None, "NaN"),
        ([1], VECTORS[:1], {"brand": ["x"]}, r"attributes must be \['mall'\], got \['brand'\]"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            index.upsert(ids, vectors, attributes)
    assert index.describe()["added"] == 0


@pytest.mark.parametrize("kind", [{"kind": "exact"}, {"kind": "ivf", "lists": 2}])
def test_large_ids_through_writes_merges_and_files(kind, tmp_path):
    ids = [2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1]
    index = AnnIndex.build(VECTORS[:2], ids=[0, 2**62], **kind)
    index.upsert(ids, VECTORS[2:7])
    index.delete([2**32, 5])
    expected = sorted({0, 2**62, *ids} - {2**32})
    for merged in (False, True):
        assert index.ids.tolist() == expected
        np.testing.assert_array_equal(index.vectors([2**53 + 1]), VECTORS[5:6])
        assert sorted(index.search(VECTORS[:1], 6).ids[0].tolist()) == expected
        allowed = Filter.ids([2**31, 2**63 - 1])
        assert sorted(index.search(VECTORS[:1], 2, filter=allowed).ids[0].tolist()) == [2**31, 2**63 - 1]
        if not merged:
            index.compact()
    index.save(tmp_path / "x.index")
    assert AnnIndex.open(tmp_path / "x.index").ids.tolist() == expected
    for bad in ([-1], [2**63], [1.5], [None]):
        with pytest.raises(InvalidInputError):
            index.upsert(bad, VECTORS[:1])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("kind", [{"kind": "exact"}, {"kind": "ivf", "lists": 3}])
def test_nothing_but_zero_vectors_and_duplicates(kind, metric):
    zeros = np.zeros((40, 4), np.float32)
    index = AnnIndex.build(zeros, metric=metric, **kind)
    assert index.search(zeros[:2], 5, probes=3, shortlist=40).ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    index.upsert([7, 50], np.ones((2, 4), np.float32))
    index.upsert([51], zeros[:1])
    index.compact()
    best = index.search(np.ones((1, 4), np.float32), 2, probes=3, shortlist=40)
    assert best.ids.tolist() == [[7, 50]]
    assert np.isfinite(index.search(zeros[:1], 42).scores).all()


def test_vectors_of_unknown_ids():
    index = AnnIndex.build(VECTORS)
    with pytest.raises(InvalidInputError, match="2 of the ids are not in the index, the first is 77"):
        index.vectors([3, 77, 88])
    assert index.vectors([]).shape == (0, 4)
    named = AnnIndex.build(VECTORS[:2], ids=["a", "b"])
    np.testing.assert_array_equal(named.vectors(["b", "a"]), VECTORS[[1, 0]])
    with pytest.raises(InvalidInputError, match="the first is 'c'"):
        named.vectors(["a", "c"])
    assert "a" in named
    assert "c" not in named
