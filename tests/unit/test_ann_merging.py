"""Merges: against a dictionary step by step, beside searches and writes, by themselves, and when they are cut off."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.reference import ann as reference

from aitems_engine._native import ann as native
from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.ann.tuning import recall
from aitems_engine.errors import InvalidInputError

pytestmark = pytest.mark.native
IDS = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)
MALLS = st.sampled_from(["a", "b", 3, None])


def wait_for(index: AnnIndex) -> None:
    """Wait for the merge in the background, if there is one."""
    thread = index._merger._thread
    if thread is not None:
        thread.join()


class IndexAsDictionary(RuleBasedStateMachine):
    """The slow twin: id -> (vector, mall), searched exactly."""

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        kind=st.sampled_from([{"kind": "exact"}, {"kind": "ivf", "lists": 3}]),
        merge_at=st.sampled_from([None, 1, 7, "auto"]),
        count=st.sampled_from([0, 1, 20]),
    )
    def build(self, seed, metric, kind, merge_at, count):
        self.rng = np.random.default_rng(seed)
        self.metric = metric
        vectors = self.draw(count)
        self.held = {i: (v, "a") for i, v in enumerate(vectors)}
        self.index = AnnIndex.build(
            vectors, None, metric, attributes={"mall": ["a"] * count}, merge_at=merge_at, **kind
        )

    def draw(self, count):
        return self.rng.integers(-2, 3, size=(count, 4)).astype(np.float32)

    @rule(ids=IDS, malls=st.none() | st.lists(MALLS, min_size=12, max_size=12))
    def upsert(self, ids, malls):
        fresh = self.draw(len(ids))
        given = None if malls is None else {"mall": malls[: len(ids)]}
        assert self.index.upsert(ids, fresh, given) == sum(i in self.held for i in ids)
        for place, (i, v) in enumerate(zip(ids, fresh, strict=True)):
            self.held[i] = (v, malls[place] if malls else self.held.get(i, (None, None))[1])

    @rule(ids=IDS)
    def delete(self, ids):
        assert self.index.delete(ids) == sum(self.held.pop(i, None) is not None for i in ids)

    @rule()
    def delete_all(self):
        self.index.delete(list(self.held))
        self.held.clear()

    @rule(threads=st.sampled_from([1, 2]))
    def compact(self, threads):
        self.index.compact(threads)
        assert self.index.describe()["deleted"] == 0
        assert self.index.describe()["added"] == 0

    @rule()
    def save_and_open(self):
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(Path(folder) / "x.index")
            merge_at = self.index._merger.merge_at
            self.index.close()
            self.index = AnnIndex.open(Path(folder) / "x.index", merge_at=merge_at)

    @rule(mall=MALLS, k=st.integers(1, 45))
    def filtered(self, mall, k):
        filter = Filter.isin("mall", [] if mall is None else [mall])
        self.check(k, filter, {i for i, (_, m) in self.held.items() if mall is not None and m == mall})

    @rule(ids=IDS, k=st.integers(1, 45))
    def without(self, ids, k):
        self.check(k, ~Filter.ids(ids), set(self.held) - set(ids))

    @rule(ids=IDS)
    def get(self, ids):
        known = [i for i in ids if i in self.held]
        rows = np.stack([self.held[i][0] for i in known]) if known else np.empty((0, 4), np.float32)
        expected = reference.unit(rows) if self.metric == "cosine" else rows
        np.testing.assert_allclose(self.index.vectors(known), expected, rtol=1e-6)
        assert [i in self.index for i in ids] == [i in self.held for i in ids]

    @invariant()
    def same_items(self):
        if hasattr(self, "index"):
            self.check(45, None, None)
            assert len(self.index) == len(self.held)
            assert self.index.ids.tolist() == sorted(self.held)

    def check(self, k, filter, allowed):
        queries = self.draw(2)
        vectors = np.stack([v for v, _ in self.held.values()]) if self.held else np.empty((0, 4), np.float32)
        expected = reference.search(vectors, self.held, queries, k, self.metric, allowed)
        hits = self.index.search(queries, k, filter, probes=3, shortlist=60)
        np.testing.assert_array_equal(hits.ids, expected[0])
        np.testing.assert_array_equal(hits.scores, expected[1])

    def teardown(self):
        if hasattr(self, "index"):
            self.index.compact()  # an error of the thread would be raised here
            self.index.close()


TestIndexAsDictionary = IndexAsDictionary.TestCase
TestIndexAsDictionary.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def clustered(rng, count, dim=24):
    centres = np.random.default_rng(99).normal(size=(150, dim))
    return (centres[rng.integers(150, size=count)] + 0.6 * rng.normal(size=(count, dim))).astype(np.float32)


def test_half_the_catalogue_rolls_beside_readers():
    """Never an error, never a deleted or stale id, and in the end the recall of a fresh build."""
    rng = np.random.default_rng(1)
    count = 8000
    vectors, queries = clustered(rng, count * 3 // 2), clustered(rng, 700)
    stamp = np.zeros((len(vectors), 1), np.float32)
    vectors = np.hstack([vectors, stamp])
    queries = np.hstack([queries, stamp[: len(queries)]])
    index = AnnIndex.build(vectors[:count], queries=queries[:350], recall_target=0.99, merge_at=1500)
    assert index.describe()["kind"] == "ivf"
    gone = np.zeros(len(vectors), bool)  # ids whose deletion was complete before a search began must not come back
    problems: list[str] = []
    stop, searches = threading.Event(), [0]

    def read(offset):
        try:
            while not stop.is_set():
                dead = gone.copy()
                hits = index.search(queries[offset : offset + 20], 10)
                searches[0] += 1
                if dead[hits.ids].any():
                    problems.append("a deleted id")
                held = vectors[hits.ids]
                if not np.allclose(
                    np.einsum("qd,qkd->qk", queries[offset : offset + 20], held), hits.scores, atol=1e-3
                ):
                    problems.append("a stale vector")
        except Exception as error:
            problems.append(repr(error))

    readers = [threading.Thread(target=read, args=(i * 50,)) for i in range(2)]
    for reader in readers:
        reader.start()
    order = rng.permutation(count)[: count // 2]
    for step, start in enumerate(range(0, count // 2, 100)):
        out, new = order[start : start + 100], np.arange(count + start, count + start + 100)
        index.upsert(new, vectors[new])
        index.delete(out)
        gone[out] = True
        if step % 10 == 9:
            wait_for(index)
    wait_for(index)
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems, problems[:3]
    assert searches[0] > 0
    description = index.describe()
    assert description["added"] + description["deleted"] < 3500, "merges ran by themselves"
    assert description["changed_since"] < 0.25 * count + 3500, "measured again"
    live = np.flatnonzero(~gone)
    fresh = AnnIndex.build(vectors[live], live, queries=queries[:350], recall_target=0.99)
    truth = AnnIndex.build(vectors[live], live, kind="exact").search(queries[350:], 10).ids
    reached = recall(index.search(queries[350:], 10).ids, truth)
    assert reached >= recall(fresh.search(queries[350:], 10).ids, truth) - 0.01
    index.close()


def test_an_index_that_grows_gets_lists_and_is_measured_again():
    rng = np.random.default_rng(2)
    vectors, queries = clustered(rng, 12000), clustered(rng, 100)
    index = AnnIndex.build(vectors[:0])
    for start in range(0, 12000, 500):
        index.upsert(np.arange(start, start + 500), vectors[start : start + 500])
        assert index.search(vectors[start : start + 1], 1).ids[0, 0] >= 0
    index.compact()
    description = index.describe()
    assert description["kind"] == "ivf"
    assert description["planned_for"] > 6000 / 1.1
    assert description["measured"]
    exact = index.search(queries, 10, form="exact")
    assert recall(index.search(queries, 10).ids, exact.ids) > 0.9
    index.delete(np.arange(1000, 12000))
    index.compact()
    description = index.describe()
    assert description["kind"] == "exact"
    assert description["planned_for"] == 1000
    assert "measured" not in description
    np.testing.assert_array_equal(index.search(queries, 10).ids, index.search(queries, 10, form="exact").ids)


def test_never_means_never():
    index = AnnIndex.build(np.ones((3, 4), np.float32), merge_at=None)
    index.upsert(np.arange(9000), np.ones((9000, 4), np.float32))
    assert index._merger._thread is None
    assert index.describe()["added"] == 9000
    assert index.describe()["merge_at"] is None


@pytest.mark.parametrize("merge_at", [0, -1, 1.5, True, "often"])
def test_wrong_thresholds(merge_at):
    with pytest.raises(InvalidInputError, match="merge_at must be"):
        AnnIndex.build(np.ones((3, 4), np.float32), merge_at=merge_at)


def test_an_error_in_the_background_is_raised_by_the_next_write_once(monkeypatch):
    index = AnnIndex.build(np.ones((3, 4), np.float32), merge_at=1)

    def no_memory(self, items, changed):
        raise MemoryError("no memory for a merge")

    with monkeypatch.context() as patch:
        patch.setattr("aitems_engine.ann.merging.Merger._lists", no_memory)
        index.upsert([7], np.ones((1, 4), np.float32))
        wait_for(index)
    with pytest.raises(MemoryError, match="no memory for a merge"):
        index.upsert([8], np.ones((1, 4), np.float32))
    assert index.ids.tolist() == [0, 1, 2, 7], "the write that raised was not done"
    index.upsert([8], np.ones((1, 4), np.float32))
    wait_for(index)
    assert index.describe()["added"] == 0
    assert index.ids.tolist() == [0, 1, 2, 7, 8]


def large(count=60_000):
    return np.random.default_rng(3).normal(size=(count, 32)).astype(np.float32)


def test_close_gives_up_a_merge():
    index = AnnIndex.build(large(100), kind="ivf", lists=2000, iterations=10_000, merge_at=1)
    index.upsert(np.arange(60_000), large())
    merger = index._merger
    thread = merger._thread
    assert thread is not None
    index.close()
    assert not thread.is_alive()
    with pytest.raises(InvalidInputError, match="the index is closed"):
        index.compact()
    index.close()


def test_an_index_that_is_dropped_is_freed():
    index = AnnIndex.build(large(100), kind="ivf", lists=2000, iterations=10_000, merge_at=1)
    index.upsert(np.arange(60_000), large())
    merger, core = weakref.ref(index._merger), weakref.ref(index._core)
    thread = index._merger._thread
    del index
    gc.collect()
    thread.join()
    gc.collect()
    assert merger() is None
    assert core() is None


SCRIPT = """
import os, sys
import numpy as np
from aitems_engine.ann import AnnIndex
rows = np.random.default_rng(0).normal(size=(60_000, 32)).astype(np.float32)
index = AnnIndex.build(rows[:100], kind="ivf", lists=2000, iterations=10_000, merge_at=1)
index.upsert(np.arange(60_000), rows)
assert index._merger._thread is not None
if sys.argv[1] == "fork":
    for _ in range(5):
        child = os.fork()
        if child == 0:
            index._info["asked"] = {"kind": "exact", "lists": None}
            assert index.search(rows[:3], 1).ids.shape == (3, 1)
            index.delete([5])
            index.compact()
            assert len(index) == 59_999 and index.describe()["added"] == 0
            index.upsert([5], rows[5:6])
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    index.close()
print("done", flush=True)
"""


@pytest.mark.parametrize("how", ["exit", "fork"])
def test_the_interpreter_ends_and_forks_beside_a_merge(how):
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=200)
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == 0, done.stderr


def test_a_save_beside_a_writer_holds_one_moment(tmp_path):
    """The writer moves all items to the next generation at once: a file must never hold two generations."""
    base = np.random.default_rng(3).normal(size=(400, 8)).astype(np.float32)
    base[:, -1] = 0
    index = AnnIndex.build(base, kind="ivf", lists=8, merge_at=600)
    stop = threading.Event()

    def write():
        generation = 0
        while not stop.is_set():
            generation += 1
            rows = base.copy()
            rows[:, -1] = generation
            index.upsert(np.arange(400), rows)
            time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    query = np.zeros((1, 8), np.float32)
    query[0, -1] = 1
    try:
        for _ in range(10):
            index.save(tmp_path / "x.index")
            hits = AnnIndex.open(tmp_path / "x.index").search(query, 400, probes=8)
            assert np.unique(hits.scores).size == 1
            assert (np.sort(hits.ids) == np.arange(400)).all()
    finally:
        stop.set()
        writer.join()
    assert os.listdir(tmp_path) == ["x.index"]


def test_half_precision_is_checked_when_writing():
    index = AnnIndex.build(np.ones((3, 4), np.float32), rerank="half")
    with pytest.raises(InvalidInputError, match="65504"):
        index.upsert([1], np.full((1, 4), 1e6, np.float32))
    assert index.describe()["added"] == 0


def test_a_merge_that_was_overtaken_is_refused():
    core = native.Index.build(np.ones((3, 4), np.float32), np.arange(3), [], 0, 0, 0, 1, 0, 1)
    core.delete(np.array([1]))
    merges = [core.begin_merge(), core.begin_merge()]
    with pytest.raises(InvalidInputError, match="was not built"):
        core.adopt(merges[0])
    for merge in merges:
        assert merge.build(0, 0, False, 1)
    core.adopt(merges[0])
    with pytest.raises(InvalidInputError, match="another merge was published"):
        core.adopt(merges[1])
