"""upsert, delete and compact: against a dictionary searched by the slow twin, and beside running searches."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import ann as reference

from aitems_engine.ann import AnnIndex
from aitems_engine.ann.tuning import recall

pytestmark = pytest.mark.native


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_order_of_writes_equals_a_dictionary(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    metric = data.draw(st.sampled_from(["ip", "cosine", "l2"]))
    kind = data.draw(st.sampled_from([{"kind": "exact"}, {"kind": "ivf", "lists": 4}]))

    def draw_vectors(count):
        return rng.integers(-2, 3, size=(count, 5)).astype(np.float32)

    held = dict(enumerate(draw_vectors(30)))
    index = AnnIndex.build(np.stack(list(held.values())), metric=metric, **kind)
    for step in data.draw(st.lists(st.sampled_from(["upsert", "delete", "compact"]), max_size=8)):
        ids = rng.choice(45, rng.integers(1, 12), replace=False)
        if step == "upsert":
            fresh = draw_vectors(len(ids))
            assert index.upsert(ids, fresh) == sum(int(i) in held for i in ids)
            held.update({int(i): v for i, v in zip(ids, fresh, strict=True)})
        elif step == "delete":
            assert index.delete(ids) == sum(held.pop(int(i), None) is not None for i in ids)
        else:
            index.compact(threads=2)
            assert index.describe()["added"] == index.describe()["deleted"] == 0
    assert len(index) == len(held)
    assert index.ids.tolist() == sorted(held)
    queries = draw_vectors(3)
    vectors = np.stack(list(held.values())) if held else np.empty((0, 5), np.float32)
    expected = reference.search(vectors, held, queries, 50, metric)
    hits = index.search(queries, 50)
    np.testing.assert_array_equal(hits.ids, expected[0])
    np.testing.assert_array_equal(hits.scores, expected[1])


def test_many_added_rows_cross_chunks():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(5000, 8)).astype(np.float32)
    index = AnnIndex.build(vectors[:1000], kind="ivf", lists=8)
    index.upsert(np.arange(1000, 3500), vectors[1000:3500])
    index.upsert(np.arange(3400, 5000), vectors[3400:])
    exact = AnnIndex.build(vectors, kind="exact")
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    before = index.search(queries, 10, probes=8, shortlist=1000)
    np.testing.assert_array_equal(before.ids, exact.search(queries, 10).ids)
    index.compact()
    assert index.describe()["added"] == 0
    np.testing.assert_array_equal(index.search(queries, 10, probes=8, shortlist=1000).ids, before.ids)


def test_half_the_catalogue_rolled_keeps_recall():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(150, 24))
    vectors = (centres[rng.integers(150, size=9000)] + 0.6 * rng.normal(size=(9000, 24))).astype(np.float32)
    queries = (centres[rng.integers(150, size=200)] + 0.6 * rng.normal(size=(200, 24))).astype(np.float32)
    index = AnnIndex.build(vectors[:6000], queries=queries[:100])
    index.delete(np.arange(3000))
    index.upsert(np.arange(6000, 9000), vectors[6000:])
    index.compact()
    fresh = AnnIndex.build(vectors[3000:], ids=np.arange(3000, 9000), queries=queries[:100])
    exact = AnnIndex.build(vectors[3000:], ids=np.arange(3000, 9000), kind="exact")
    truth = exact.search(queries[100:], 10).ids
    assert (
        recall(index.search(queries[100:], 10).ids, truth) >= recall(fresh.search(queries[100:], 10).ids, truth) - 0.01
    )


def test_string_ids_come_and_go():
    vectors = np.eye(3, dtype=np.float32)
    index = AnnIndex.build(vectors, ids=["x", "y", "z"])
    index.upsert(["y", "w"], vectors[[2, 0]] * 2)
    assert index.search(vectors[:1], 2).ids.tolist() == [["w", "x"]]
    assert index.search(vectors[2:], 2).ids.tolist() == [["y", "z"]]
    assert index.delete(["y", "never"]) == 1
    index.compact()
    assert index.search(vectors[2:], 4).ids[0, :1].tolist() == ["z"]
    assert sorted(index.ids) == ["w", "x", "z"]


def test_searches_beside_a_writer_see_whole_states():
    """Every write moves all items to the next generation of vectors; a search must never see two generations."""
    base = np.random.default_rng(3).normal(size=(400, 16)).astype(np.float32)
    query = np.zeros((4, 16), np.float32)
    query[:, -1] = 1  # the score is the last component, which holds the generation
    base[:, -1] = 0
    index = AnnIndex.build(base, kind="ivf", lists=8)
    problems, searches, stop = [], [0], threading.Event()

    def read():
        while not stop.is_set():
            hits = index.search(query, 400, probes=8)
            searches[0] += 1
            if (hits.ids != np.arange(400)).any():
                problems.append("an item was missing, or there twice")
            if np.unique(hits.scores).size != 1:
                problems.append(f"mixed generations: {np.unique(hits.scores)}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    generation = 0
    while generation < 30 or (searches[0] < 30 and generation < 2000):
        generation += 1
        base[:, -1] = generation
        index.upsert(np.arange(400), base)
        if generation % 5 == 0:
            index.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems, problems[:3]
    assert searches[0] >= 30
    assert index.search(query[:1], 1).scores.tolist() == [[generation]]
