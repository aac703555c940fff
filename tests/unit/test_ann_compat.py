"""The adapters beside their peers: one script, run with both, must see the same; recall against the exact answer."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from aitems_engine.ann.compat import hnswlib, usearch
from aitems_engine.errors import AitemsError, NotSupportedError

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 6)).astype(np.float32)


def peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return pytest.skip(f"the peer {name} is not installed")


@pytest.fixture(params=["ours", "peer"])
def hnsw(request):
    return hnswlib if request.param == "ours" else peer("hnswlib")


@pytest.fixture(params=["ours", "peer"])
def us(request):
    return usearch if request.param == "ours" else peer("usearch.index")


def distances(metric, queries, rows):
    if metric in ("l2", "l2sq"):
        return ((queries[:, None] - rows[None]) ** 2).sum(-1)
    if metric in ("cosine", "cos"):
        queries, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, rows))
    return 1 - queries @ rows.T


def recall(found, truth):
    return np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found.tolist(), truth.tolist(), strict=True)])


def clustered(count, dim=24, seed=1):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(100, dim))
    return (centres[rng.integers(100, size=count)] + 0.7 * rng.normal(size=(count, dim))).astype(np.float32)


# --- hnswlib ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_hnswlib_finds_with_its_distances(hnsw, space):
    rows, queries = clustered(7000), clustered(200, seed=2)
    index = hnsw.Index(space=space, dim=24)
    index.init_index(max_elements=7000, ef_construction=100, M=16)
    index.set_ef(150)
    for start in range(0, 7000, 1000):  # added in steps, queried between
        index.add_items(rows[start : start + 1000], np.arange(start, start + 1000))
        index.knn_query(queries[:3], k=5)
    labels, found = index.knn_query(queries, k=10)
    assert (labels.dtype, found.dtype, labels.shape) == (np.uint64, np.float32, (200, 10))
    expected = distances(space, queries, rows)
    np.testing.assert_allclose(found, np.take_along_axis(expected, labels.astype(int), 1), atol=2e-4)
    assert (np.diff(found, axis=1) >= 0).all()
    assert recall(labels, np.argsort(expected, axis=1)[:, :10]) > 0.95


def test_hnswlib_script(hnsw, tmp_path):
    index = hnsw.Index("cosine", 6)
    assert (index.space, index.dim) == ("cosine", 6)
    index.init_index(max_elements=30, M=12, ef_construction=90)
    assert (index.M, index.ef_construction, index.ef) == (12, 90, 10)
    index.set_ef(40)
    assert index.ef == 40
    index.set_num_threads(1)
    assert index.num_threads == 1
    index.add_items(ROWS[:10])
    index.add_items(ROWS[10:12].tolist(), [100, 101])
    index.add_items(ROWS[12], 102)
    index.add_items(ROWS[13:15])  # labels go on from the count
    assert sorted(index.get_ids_list()) == [*range(10), 13, 14, 100, 101, 102]
    assert (index.get_current_count(), index.element_count) == (15, 15)
    assert (index.get_max_elements(), index.max_elements) == (30, 30)
    assert index.knn_query(ROWS[12], k=1)[0].tolist() == [[102]]
    assert index.knn_query(ROWS[:2], k=1, filter=lambda label: label >= 100)[0].min() >= 100
    held = index.get_items([3, 101])
    np.testing.assert_allclose(held, ROWS[[3, 11]] / np.linalg.norm(ROWS[[3, 11]], axis=1, keepdims=True), atol=1e-6)
    assert index.get_items([3], return_type="list") == [pytest.approx(held[0].tolist())]
    assert len(index.get_items()) == 0

    index.mark_deleted(3)
    assert 3 not in index.knn_query(ROWS[3], k=5)[0]
    assert index.get_current_count() == 15  # deleted ones count
    assert 3 in index.get_ids_list()
    index.unmark_deleted(3)
    assert index.knn_query(ROWS[3], k=1)[0].tolist() == [[3]]
    index.mark_deleted(4)
    index.add_items(ROWS[20:21], [4])  # comes back with another vector
    assert index.knn_query(ROWS[20], k=1)[0].tolist() == [[4]]

    index.mark_deleted(5)
    index.save_index(str(tmp_path / "x.bin"))
    other = hnsw.Index(space="cosine", dim=6)
    other.load_index(str(tmp_path / "x.bin"), max_elements=50)
    assert (other.get_max_elements(), other.get_current_count()) == (50, 15)
    assert (other.M, other.ef_construction) == (12, 90)
    np.testing.assert_array_equal(other.knn_query(ROWS, k=5)[0], index.knn_query(ROWS, k=5)[0])
    other.unmark_deleted(5)
    assert other.knn_query(ROWS[5], k=1)[0].tolist() == [[5]]
    other.resize_index(70)
    other.add_items(ROWS[:40], np.arange(200, 240))
    assert other.get_current_count() == 55


def test_hnswlib_replaces_deleted(hnsw):
    index = hnsw.Index(space="l2", dim=6)
    index.init_index(max_elements=20, allow_replace_deleted=True)
    index.add_items(ROWS[:20], np.arange(20))
    for label in range(5):
        index.mark_deleted(label)
    index.add_items(ROWS[20:25], np.arange(50, 55), replace_deleted=True)
    assert index.get_current_count() == 20
    assert sorted(index.get_ids_list()) == [*range(5, 20), *range(50, 55)]
    assert index.knn_query(ROWS[20:25], k=1)[0].ravel().tolist() == list(range(50, 55))


def test_hnswlib_delete_all_and_add_again(hnsw):
    index = hnsw.Index(space="l2", dim=6)
    index.init_index(max_elements=60)
    index.add_items(ROWS)
    for label in range(60):
        index.mark_deleted(label)
    with pytest.raises(RuntimeError):
        index.knn_query(ROWS[:1], k=1)
    index.add_items(ROWS[::-1], np.arange(60))
    found = np.mean(index.knn_query(ROWS, k=1)[0].ravel() == np.arange(60)[::-1])
    assert found == 1 if hnsw is hnswlib else found > 0.9  # the peer's graph suffers


def test_hnswlib_errors_are_of_the_same_type(hnsw, tmp_path):
    with pytest.raises(RuntimeError):
        hnsw.Index(space="manhattan", dim=6)
    index = hnsw.Index(space="ip", dim=6)
    with pytest.raises(RuntimeError):
        index.load_index(str(tmp_path / "none.bin"))
    index.init_index(max_elements=12)
    index.add_items(ROWS[:10])
    for call in (
        lambda: index.init_index(max_elements=12),
        lambda: index.add_items(ROWS[:, :3]),
        lambda: index.add_items(ROWS[None]),
        lambda: index.add_items(ROWS[:3], [1, 2]),
        lambda: index.add_items(ROWS[:5], np.arange(20, 25)),  # more than fit
        lambda: index.add_items(ROWS[:1], [99], replace_deleted=True),
        lambda: index.knn_query(ROWS[:2], k=13),
        lambda: index.knn_query(ROWS[:2], k=3, filter=lambda label: label == 1),
        lambda: index.get_items([999]),
        lambda: index.mark_deleted(999),
        lambda: index.unmark_deleted(1),
        lambda: index.resize_index(3),
    ):
        with pytest.raises(RuntimeError):
            call()
    index.mark_deleted(1)
    with pytest.raises(RuntimeError):
        index.mark_deleted(1)
    with pytest.raises(ValueError, match="return_type"):
        index.get_items([2], return_type="tuple")
    with pytest.raises(OverflowError):
        index.add_items(ROWS[:1], [-1])


def test_hnswlib_where_the_peer_crashes_or_is_silent(tmp_path):
    index = hnswlib.Index(space="l2", dim=6)
    for call in (lambda: index.knn_query(ROWS[:1]), lambda: index.add_items(ROWS), lambda: index.mark_deleted(0)):
        with pytest.raises(hnswlib.HnswlibError, match="call init_index or load_index"):
            call()
    assert index.get_max_elements() == index.get_current_count() == 0
    index.init_index(max_elements=60)
    index.add_items(ROWS)
    with pytest.raises(hnswlib.HnswlibError, match=r"shape \(n, 6\)"):
        index.knn_query(ROWS[:, :3])
    with pytest.raises(AitemsError, match="NaN"):
        index.add_items(np.full((1, 6), np.nan), [3])
    with pytest.raises(NotSupportedError, match="save_index"):
        index.__reduce__()
    with pytest.raises(NotSupportedError, match="kind='exact'"):
        _ = hnswlib.BFIndex
    (tmp_path / "x.bin").write_bytes(b"\0" * 200)
    with pytest.raises(hnswlib.HnswlibError, match="not a usable index file"):
        index.load_index(tmp_path / "x.bin")


# --- usearch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2sq", "ip", "cos"])
def test_usearch_finds_with_its_distances(us, metric):
    rows, queries = clustered(7000), clustered(200, seed=2)
    index = us.Index(ndim=24, metric=metric, dtype="f32", expansion_search=300)
    for start in range(0, 7000, 1000):
        index.add(np.arange(start, start + 1000), rows[start : start + 1000])
        index.search(queries[:3], 5)
    expected = distances(metric, queries, rows)
    truth = np.argsort(expected, axis=1)[:, :10]
    for exact in (False, True):
        found = index.search(queries, 10, exact=exact)
        assert (found.keys.dtype, found.distances.dtype, found.keys.shape) == (np.uint64, np.float32, (200, 10))
        np.testing.assert_allclose(found.distances, np.take_along_axis(expected, found.keys.astype(int), 1), atol=2e-4)
        assert recall(found.keys, truth) > (0.999 if exact else 0.95)


def test_usearch_script(us, tmp_path):
    index = us.Index(ndim=6, metric="l2sq", dtype="f32")
    assert (index.ndim, len(index), index.multi) == (6, 0, False)
    assert len(index.search(ROWS[0], 3)) == 0
    assert index.add(np.arange(20), ROWS[:20]).tolist() == list(range(20))
    assert index.add(100, ROWS[30].astype(np.float64)).tolist() == [100]
    assert index.add(None, ROWS[31:34]).tolist() == [21, 22, 23]
    assert len(index) == index.size == 24

    one = index.search(ROWS[30], 3)
    assert isinstance(one, us.Matches)
    assert len(one) == 3
    assert (one.keys[0], one.distances[0]) == (100, 0)
    assert (one[0].key, one[0].distance) == (100, 0)
    assert one.to_list()[0] == (100, 0.0)
    assert [int(match.key) for match in one] == one.keys.tolist()
    with pytest.raises(IndexError):
        one[3]
    batch = index.search(ROWS[:2], 3)
    assert isinstance(batch, us.BatchMatches)
    assert (len(batch), batch.counts.tolist()) == (2, [3, 3])
    assert batch[1].keys[0] == 1
    assert len(batch.to_list()) == 6
    assert batch.mean_recall(np.array([0, 1])) == 1
    assert batch.count_matches(np.array([0, 7]), count=1) == 1
    assert len(index.search(ROWS[0], 100)) == 24
    assert index.search(ROWS[:2], 100).counts.tolist() == [24, 24]

    np.testing.assert_array_equal(index.get(1), ROWS[1])
    np.testing.assert_array_equal(index[1], ROWS[1])
    assert index.get(999) is None
    several = index.get([1, 999])
    assert several[1] is None
    np.testing.assert_array_equal(several[0], ROWS[1])
    assert index.contains(1) is True
    assert 1 in index
    assert 999 not in index
    assert index.contains([1, 999]).tolist() == [True, False]
    assert index.count(1) == 1
    assert index.count([1, 999]).tolist() == [1, 0]
    assert index.remove(1) is True
    assert index.remove(999) is False
    assert index.remove([2, 3, 999]) == 2
    del index[4]
    assert index.rename(5, 500) is True
    assert index.rename(999, 1000) is False
    with pytest.raises(ValueError, match=r"in use|there already"):
        index.rename(6, 7)
    assert len(index) == len(index.keys) == 20
    assert index.vectors.shape == (20, 6)
    assert sorted(index.keys[:20].tolist()) == [0, *range(6, 20), 21, 22, 23, 100, 500]
    assert index.search(ROWS[5], 1).keys.tolist() == [500]
    index.expansion_search = 90
    assert index.expansion_search == 90

    index.save(tmp_path / "x.usearch")
    for opened in (us.Index.restore(tmp_path / "x.usearch"), us.Index.restore(tmp_path / "x.usearch", view=True)):
        assert (opened.ndim, len(opened)) == (6, 20)
        assert opened.search(ROWS, 4).keys.tolist() == index.search(ROWS, 4).keys.tolist()
    assert us.Index.restore(tmp_path / "none.usearch") is None
    for load in ("load", "view"):
        loaded = us.Index(ndim=6, metric="l2sq", dtype="f32")
        getattr(loaded, load)(tmp_path / "x.usearch")
        assert len(loaded) == 20
    copied = index.copy()
    copied.remove(100)
    assert (len(copied), len(index)) == (19, 20)
    index.clear()
    assert len(index) == 0
    index.add(7, ROWS[7])
    assert index.search(ROWS[:2], 3).counts.tolist() == [1, 1]


def test_usearch_errors_are_of_the_same_type(us, tmp_path):
    index = us.Index(ndim=6, metric="ip", dtype="f32")
    index.add(np.arange(9), ROWS[:9])
    with pytest.raises(RuntimeError):
        index.add(1, ROWS[0])
    for call in (
        lambda: index.add(200, ROWS[0, :3]),
        lambda: index.search(ROWS[0, :3], 3),
        lambda: index.search(ROWS[0], 0),
    ):
        with pytest.raises(ValueError, match=r"."):
            call()
    with pytest.raises(FileNotFoundError):
        index.load(tmp_path / "none.usearch")


def test_usearch_what_is_missing_says_so(tmp_path):
    for settings in ({"metric": "hamming"}, {"metric": "cos", "dtype": "i8"}, {"multi": True}):
        with pytest.raises(NotSupportedError):
            usearch.Index(ndim=6, **settings)
    index = usearch.Index(ndim=6)
    with pytest.raises(NotSupportedError, match=r"Index\.join is not supported"):
        index.join(index)
    with pytest.raises(AttributeError):
        _ = index.never_heard_of
    with pytest.raises(NotSupportedError, match="not a buffer"):
        index.load(b"1234")
    with pytest.raises(ValueError, match="ndim must be"):
        usearch.Index().add(1, ROWS[0])
    with pytest.raises(ValueError, match="below 2"):
        index.add(2**63 + 5, ROWS[0])


def test_usearch_radius_half_precision_and_views(tmp_path):
    index = usearch.Index(ndim=6, metric="cos", dtype="bf16", path=tmp_path / "x.usearch")
    index.add(np.arange(60), ROWS)
    near = index.search(ROWS, 10, radius=0.3)
    assert (near.distances[near.distances < np.inf] <= 0.3).all()
    assert near.counts.min() >= 1
    index.save()
    view = usearch.Index(path=tmp_path / "x.usearch", view=True)
    assert (view.metric, view.ndim, len(view)) == ("cos", 6, 60)
    view.remove(3)
    view.add(77, ROWS[3])
    assert view.search(ROWS[3], 1).keys.tolist() == [77]
    assert 3 in usearch.Index.restore(tmp_path / "x.usearch")


def test_look_ups_of_many_ids() -> None:
    index = usearch.Index(ndim=6)
    index.add(np.arange(0, 60, 2), ROWS[:30])
    assert index.contains(np.array([0, 1, 58, 10**12])).tolist() == [True, False, True, False]
