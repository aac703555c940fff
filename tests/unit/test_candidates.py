"""The short cuts of `Retriever.candidates` against sorting all scores, and the indexes behind them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine._native import batch as native
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.errors import BundleError, InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval import (
    Ials,
    ItemKnn,
    Popularity,
    Retriever,
    TwoTower,
    open_retriever,
    read_retriever,
    retriever_parts,
    save_retriever,
    scored_candidates,
)
from aitems_engine.retrieval import files as retriever_files
from aitems_engine.retrieval.retriever import BATCH
from aitems_engine.retrieval.sparse import Csr
from aitems_engine.training import retrieval as training


def histories(lists: list[list[int]], num_items: int) -> Interactions:
    splits = np.cumsum([0, *map(len, lists)])
    items = np.array([i for row in lists for i in row], np.int32)
    users, ids = [f"u{u}" for u in range(len(lists))], [f"i{i}" for i in range(num_items)]
    return Interactions(users, ids, splits, items, np.full(len(items), -1, np.int64))


def random_histories(rng: np.random.Generator, users: int, num_items: int, longest: int) -> Interactions:
    return histories(
        [rng.integers(0, num_items, rng.integers(0, longest + 1)).tolist() for _ in range(users)], num_items
    )


def directions(num_items: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_items, 4)).astype(np.float32)


FITS = {
    "popularity": training.fit_popularity,
    "item-knn": lambda x: training.fit_item_knn(x, neighbours=6, shrinkage=3, decay=0.9),
    "ease": lambda x: training.fit_ease(x, l2=5),
    "gf-cf": lambda x: training.fit_gf_cf(x, rank=5),
    "ials": lambda x: training.fit_ials(x, rank=6, epochs=3),
    "two-tower": lambda x: TwoTower(x.item_ids, directions(x.num_items), decay=0.8),
}


def expected(
    retriever: Retriever, x: Interactions, k: int, exclude_seen: bool, allowed: np.ndarray | None
) -> list[list[int]]:
    """Return the best items of each history by sorting all scores."""
    scores, rows = retriever.scores(x), []
    for u in range(len(x)):
        left = [i for i in range(x.num_items) if not (exclude_seen and i in x.history(u))]
        left = [i for i in left if allowed is None or allowed[i]]
        if retriever.kind == "item-knn":
            left = [i for i in left if scores[u, i] > 0]
        if retriever.kind != "popularity" and not len(x.history(u)):
            left = []
        rows.append(sorted(left, key=lambda i, u=u: (-scores[u, i], i))[:k])
    return rows


@pytest.mark.parametrize("kind", FITS)
@given(data=st.data())
def test_they_equal_sorting_all_scores(kind: str, data: st.DataObject) -> None:
    num_items = data.draw(st.integers(3, 12))
    one = st.lists(st.integers(0, num_items - 1), max_size=8)
    retriever = FITS[kind](histories([*data.draw(st.lists(one, min_size=2, max_size=8)), [0, 1]], num_items))
    x = histories(data.draw(st.lists(one, max_size=4)), num_items)
    k, exclude_seen = data.draw(st.integers(1, 15)), data.draw(st.booleans())
    allowed = data.draw(st.none() | st.lists(st.booleans(), min_size=num_items, max_size=num_items).map(np.array))
    found = retriever.candidates(x, k, exclude_seen=exclude_seen, allowed=allowed)
    assert found.source == kind
    assert found.items.shape == found.scores.shape == (len(x), k)
    scores = retriever.scores(x)
    for u, wanted in enumerate(expected(retriever, x, k, exclude_seen, allowed)):
        got = found.items[u, : len(wanted)]
        if kind in ("popularity", "item-knn"):
            assert got.tolist() == wanted
            np.testing.assert_array_equal(found.scores[u, : len(wanted)], scores[u, wanted])
        else:  # the sums of a batch differ in the last bit from those of a part of it
            np.testing.assert_allclose(found.scores[u, : len(wanted)], scores[u, wanted], rtol=1e-4, atol=1e-5)
            assert len(set(got.tolist())) == len(wanted)
        assert (found.items[u, len(wanted) :] == -1).all()
        assert np.isneginf(found.scores[u, len(wanted) :]).all()


@pytest.mark.parametrize("kind", ["popularity", "item-knn"])
@pytest.mark.parametrize("share", [None, 0.001, 0.05, 0.5, 0.99])
def test_large_catalogues_and_batches(kind: str, share: float | None) -> None:
    rng = np.random.default_rng(3)
    n = 3000
    if kind == "popularity":
        retriever: Retriever = Popularity([f"i{i}" for i in range(n)], rng.integers(0, 50, n).astype(np.float32))
    else:
        columns, values = rng.integers(0, n, n * 30).astype(np.int32), rng.integers(1, 5, n * 30).astype(np.float32)
        retriever = ItemKnn([f"i{i}" for i in range(n)], Csr(np.arange(n + 1) * 30, columns, values, n), 0.5)
    x = random_histories(rng, BATCH + 40, n, 40)
    allowed = None if share is None else rng.random(n) < share
    found = retriever.candidates(x, 50, allowed=allowed)
    rows = [0, 1, 2, BATCH - 1, BATCH, BATCH + 39]
    for u, wanted in zip(rows, expected(retriever, x.take(rows), 50, True, allowed), strict=True):
        assert found.items[u][found.items[u] >= 0].tolist() == wanted


@pytest.mark.parametrize("kind", FITS)
def test_wrong_questions(kind: str) -> None:
    x = histories([[0, 1, 2], [2, 3], [4, 3]], 6)
    retriever = FITS[kind](x)
    with pytest.raises(InvalidInputError, match="histories are over 3 items, the retriever over 6"):
        retriever.candidates(x.over(["i1", "i2", "i3"]), 2)
    with pytest.raises(InvalidInputError, match="k must be"):
        retriever.candidates(x, 0)
    with pytest.raises(InvalidInputError, match=r"allowed must be bool of shape \(6,\), got int64 \(6,\)"):
        retriever.candidates(x, 2, allowed=np.ones(6, np.int64))
    assert len(retriever.candidates(x.take(slice(0, 0)), 3).items) == 0


def indexed(seed: int = 0, n: int = 3000) -> Ials:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, 16))
    vectors = centres[rng.integers(0, 40, n)] + 0.5 * rng.standard_normal((n, 16))
    return Ials([f"i{i}" for i in range(n)], vectors.astype(np.float32), 0.1, 0.001, 1.0)


@pytest.mark.native
@pytest.mark.parametrize("share", [None, 0.02, 0.6])
def test_an_index_finds_what_all_scores_say(
    share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever_files, "INDEXED_FROM", 1000)
    plain = indexed()
    rng = np.random.default_rng(1)
    x = random_histories(rng, 60, 3000, 30)
    save_retriever(tmp_path / "m", plain, x)
    opened, _ = open_retriever(tmp_path / "m")
    assert isinstance(opened, Ials)
    assert opened.index is not None
    allowed = None if share is None else rng.random(3000) < share
    found, exact = (r.candidates(x, 40, allowed=allowed) for r in (opened, plain))
    hits = total = 0
    for u in range(60):
        got, wanted = (c.items[u][c.items[u] >= 0].tolist() for c in (found, exact))
        assert not set(got) & set(x.history(u).tolist())
        assert allowed is None or allowed[got].all()
        assert len(set(got)) == len(got) == len(wanted)
        hits, total = hits + len(set(got) & set(wanted)), total + len(wanted)
    assert hits >= 0.9 * total
    np.testing.assert_array_equal(scored_candidates(opened, x, 40).items, scored_candidates(plain, x, 40).items)


@pytest.mark.native
def test_vectors_with_the_index_of_another_training_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever_files, "INDEXED_FROM", 100)
    first, second = indexed(0, 200), indexed(1, 200)
    for name, retriever in (("a", first), ("b", second)):
        save_retriever(tmp_path / name, retriever)
    parts = {p.name: p for p in (tmp_path / "a").iterdir() if p.name != "manifest.json"}
    write_bundle(tmp_path / "mixed", {**parts, "index.ann": tmp_path / "b" / "index.ann"})
    with pytest.raises(BundleError) as error:
        open_retriever(tmp_path / "mixed")
    for name in ("a", "b"):
        digest = Bundle.open(tmp_path / name).parts["retriever.safetensors"].sha256
        assert digest[:12] in str(error.value)


@pytest.mark.parametrize("kind", FITS)
def test_several_retrievers_in_one_bundle(kind: str, tmp_path: Path) -> None:
    x = histories([[0, 1, 2], [2, 3], [4, 3]], 6)
    retriever = FITS[kind](x)
    other = replace(FITS["popularity"](x), weights=np.arange(6, dtype=np.float32))
    parts = {"first." + name: part for name, part in retriever_parts(retriever).items()}
    parts |= {"second." + name: part for name, part in retriever_parts(other).items()}
    write_bundle(tmp_path / "m", {**parts, "items.json": json.dumps(x.item_ids)})
    bundle = Bundle.open(tmp_path / "m")
    opened = read_retriever(bundle.inside("first."), x.item_ids)
    np.testing.assert_array_equal(opened.scores(x), retriever.scores(x))
    np.testing.assert_array_equal(read_retriever(bundle.inside("second."), x.item_ids).scores(x), other.scores(x))


@given(data=st.data())
def test_what_was_seen_is_told_and_left_out(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 6))
    items = st.integers(0, 12) | st.just(2**31 - 1)
    seen = data.draw(st.lists(st.lists(items, max_size=6), min_size=n, max_size=n))
    lists = data.draw(st.lists(st.lists(items | st.just(-1), min_size=7, max_size=7), min_size=n, max_size=n))
    splits, packed = np.cumsum([0, *map(len, seen)]), np.array([i for row in seen for i in row], np.int32)
    found = np.array(lists, np.int32).reshape(n, 7)
    scores = np.arange(found.size, dtype=np.float32).reshape(n, 7)
    told = native.contained(np.arange(n + 1) * 7, found.ravel(), splits, packed)
    assert told.tolist() == [item in seen[row] for row, own in enumerate(lists) for item in own]
    k = data.draw(st.integers(1, 9))
    for histories_, gone in (((splits, packed), seen), (None, [[]] * n)):
        left, values = native.without_seen(found, scores, histories_, k)
        for row, own in enumerate(lists):
            wanted = [place for place, item in enumerate(own) if item >= 0 and item not in gone[row]][:k]
            empty = k - len(wanted)
            assert left[row].tolist() == [own[place] for place in wanted] + [-1] * empty
            assert values[row].tolist() == [row * 7 + place for place in wanted] + [-np.inf] * empty
    if n:
        one, _ = native.without_seen(found[:1], scores[:1], (splits, packed), k)
        assert [row[row >= 0].tolist() for row in one] == [
            [i for i in lists[0] if i >= 0 and i not in own][:k] for own in seen
        ]


def test_neighbours_that_do_not_fit_are_refused() -> None:
    for splits, columns in (([0, 1], [0]), ([0, 2, 1], [0]), ([0, 1, 1], [2]), ([0, 1, 1], [-1])):
        similar = Csr(np.array(splits), np.array(columns, np.int32), np.ones(len(columns), np.float32), 2)
        with pytest.raises(InvalidInputError, match="similar must"):
            ItemKnn(["a", "b"], similar)
