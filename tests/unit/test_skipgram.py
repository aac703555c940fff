"""Skip-gram: equal to its slow twin, the same on every ISA level, and words used alike end near each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import skipgram as twin

from aitems_engine._native import isa
from aitems_engine.embedding import train_skipgram
from aitems_engine.errors import ConfigError, InvalidInputError

pytestmark = pytest.mark.native


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([t for row in rows for t in row], dtype=np.int32)
    return ids, np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=8),
    dim=st.sampled_from([1, 3, 16, 17, 40]),
    window=st.integers(1, 5),
    negatives=st.integers(1, 6),
    epochs=st.integers(1, 4),
    sample=st.sampled_from([0.0, 0.01, 0.3]),
    seed=st.integers(0, 2**64 - 1),
)
def test_equals_the_slow_twin(rows, dim, window, negatives, epochs, sample, seed):
    rows = [*rows, [1, 2, 3]]
    settings_ = {"dim": dim, "window": window, "negatives": negatives, "epochs": epochs, "sample": sample}
    want = twin.train(rows, 9, **settings_, learning_rate=0.5, seed=seed)
    got = train_skipgram(*flat(rows), 9, **settings_, learning_rate=0.5, seed=seed, threads=1)
    np.testing.assert_allclose(got, want, atol=2e-5)


def corpus(rows: int = 4000, topics: int = 8, words: int = 25, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ten words of one topic each, between words that every topic uses."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, topics, rows)[:, None] * words + rng.integers(0, words, (rows, 10))
    shared = topics * words + rng.integers(0, 20, (rows, 10))
    ids = np.where(rng.random((rows, 10)) < 0.3, shared, topic).astype(np.int32)
    return ids.ravel(), np.arange(0, ids.size + 1, 10)


@pytest.mark.parametrize("threads", [1, 2])
def test_words_used_alike_end_nearer(threads):
    vectors = train_skipgram(*corpus(), 220, dim=32, epochs=5, sample=1e-2, threads=threads)[:200]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.arange(200)[:, None] // 25 == np.arange(200)[None] // 25
    np.fill_diagonal(cosine, -1)
    assert same[np.arange(200), cosine.argmax(1)].mean() > 0.95
    assert cosine[same].mean() > cosine[~same].mean() + 0.3


def test_one_thread_gives_the_same_bits_on_every_level():
    results = [train_skipgram(*corpus(200), 220, dim=20, threads=1, seed=7, isa=level) for level in isa.runnable()]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    again = train_skipgram(*corpus(200), 220, dim=20, threads=1, seed=7)
    np.testing.assert_array_equal(results[0], again)
    assert not np.array_equal(again, train_skipgram(*corpus(200), 220, dim=20, threads=1, seed=8))


def test_unseen_tokens_and_empty_corpora_keep_their_start():
    start = train_skipgram(np.array([], np.int32), np.array([0]), 5, dim=4, seed=1)
    assert np.abs(start).max() <= 0.5 / 4
    trained = train_skipgram(np.array([0, 1, 0, 1], np.int32), np.array([0, 0, 4]), 5, dim=4, seed=1, sample=0.0)
    np.testing.assert_array_equal(trained[2:], start[2:])
    assert not np.array_equal(trained[:2], start[:2])


def test_progress_reports_and_stops():
    calls: list[tuple[int, int]] = []
    train_skipgram(*corpus(3000), 220, dim=8, epochs=2, progress=lambda *at: calls.append(at))
    assert calls == sorted(calls)
    assert calls[-1] == (60_000, 60_000)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        train_skipgram(*corpus(100), 220, dim=8, progress=stop)


IDS, SPLITS = np.array([0, 1, 2], np.int32), np.array([0, 3])


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((np.array([0, 3, 1]), SPLITS, 3), {}, r"ids must be from 0 to vocab_size - 1 = 2, got 3 at 1"),
        ((np.array([0, -1, 1]), SPLITS, 3), {}, r"got -1 at 1"),
        ((np.array([0, 2**40]), np.array([0, 2]), 3), {}, r"ids_flat must fit into int32"),
        ((np.array([0.5]), np.array([0, 1]), 3), {}, r"ids_flat must be a 1-D integer array, got float64"),
        ((IDS[None], SPLITS, 3), {}, r"with shape \(1, 3\)"),
        ((IDS, np.array([0, 2, 1, 3]), 3), {}, r"row_splits must not fall, got 2 then 1 at 2"),
        ((IDS, np.array([1, 3]), 3), {}, r"row_splits must start with 0, got 1"),
        ((IDS, np.array([0, 2]), 3), {}, r"row_splits from 0 to len\(ids\) = 3"),
        ((IDS, np.array([], np.int64), 3), {}, r"row_splits from 0 to len\(ids\) = 3"),
        ((IDS, np.array([0, 10**15, 3]), 3), {}, r"row_splits must not fall"),
        ((IDS, SPLITS, 0), {}, r"vocab_size must be at least 1, got 0"),
        ((IDS, SPLITS, 2**31 - 1), {"dim": 4096}, r"GiB allowed"),
        ((IDS, SPLITS, 3), {"dim": 0}, r"dim must be at least 1, got 0"),
        ((IDS, SPLITS, 3), {"dim": 5000}, r"dim must be from 1 to 4096, got 5000"),
        ((IDS, SPLITS, 3), {"window": -1}, r"window must be at least 1"),
        ((IDS, SPLITS, 3), {"negatives": 1000}, r"negatives must be from 1 to 256"),
        ((IDS, SPLITS, 3), {"epochs": 0}, r"epochs must be at least 1"),
        ((IDS, SPLITS, 3), {"sample": float("nan")}, r"sample must be from .*got nan"),
        ((IDS, SPLITS, 3), {"learning_rate": float("inf")}, r"learning_rate must be from .*got inf"),
        ((IDS, SPLITS, 3), {"learning_rate": 0.0}, r"learning_rate must be from"),
        ((IDS, SPLITS, 3), {"seed": -1}, r"seed must be from 0"),
        ((IDS, SPLITS, 3), {"threads": -1}, r"threads must be 0"),
    ],
)
def test_bad_input_is_named(args, options, message):
    with pytest.raises(InvalidInputError, match=message):
        train_skipgram(*args, **options)


def test_an_unknown_level_is_named():
    with pytest.raises(ConfigError, match="'v9' cannot run here"):
        train_skipgram(IDS, SPLITS, 3, isa="v9")
