"""Merged candidates against tests/reference/slow_merge.py; together the sources find more than any of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions, leave_one_out
from aitems_engine.retrieval import Candidates, Merged, merge
from aitems_engine.training import retrieval as training

_spec = importlib.util.spec_from_file_location(
    "slow_merge", Path(__file__).resolve().parent.parent / "reference" / "slow_merge.py"
)
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)


def candidates(source: str, lists: list[list[int]], k: int) -> Candidates:
    items, scores = np.full((len(lists), k), -1, np.int32), np.full((len(lists), k), -np.inf, np.float32)
    for row, listed in enumerate(lists):
        items[row, : len(listed)] = listed
        scores[row, : len(listed)] = np.arange(len(listed), 0, -1) * 0.5
    return Candidates(items, scores, source)


def check(merged: Merged, found: list[Candidates], **options: object) -> None:
    assert len(merged) == len(found[0].items)
    assert merged.sources == tuple(c.source for c in found)
    for row in range(len(merged)):
        given_ = {
            c.source: [(int(i), float(s)) for i, s in zip(c.items[row], c.scores[row], strict=True) if i >= 0]
            for c in found
        }
        wanted = slow.merge_one(given_, **options)
        span = slice(merged.splits[row], merged.splits[row + 1])
        assert merged.items[span].tolist() == [item for item, _, _ in wanted]
        assert merged.scores[span].tolist() == [score for _, score, _ in wanted]
        for at, (_, _, provenance) in zip(range(span.start, span.stop), wanted, strict=True):
            for column, source in enumerate(merged.sources):
                rank, score = provenance.get(source, (0, -np.inf))
                assert merged.ranks[at, column] == rank
                assert merged.source_scores[at, column] == score
                assert bool(merged.source_bits[at] >> column & 1) == (source in provenance)


@given(data=st.data())
def test_it_equals_the_slow_one(data: st.DataObject) -> None:
    names = ["a", "b", "c", "d"][: data.draw(st.integers(1, 4))]
    rows = data.draw(st.integers(0, 20))
    one = st.lists(st.integers(0, 30) | st.just(2**31 - 1), unique=True, max_size=8)
    found = [candidates(name, data.draw(st.lists(one, min_size=rows, max_size=rows)), 8) for name in names]
    options = {
        "method": data.draw(st.sampled_from(["rrf", "rank"])),
        "quotas": data.draw(st.dictionaries(st.sampled_from(["a", "b", "elsewhere"]), st.integers(0, 4))),
        "weights": data.draw(st.dictionaries(st.sampled_from(["a", "c"]), st.sampled_from([0.25, 3.0]))),
    }
    options["budget"] = data.draw(st.integers(max(1, sum(options["quotas"].values())), 30))
    check(merge(found, **options), found, **options)


def test_one_history_and_a_batch_say_the_same() -> None:
    rng = np.random.default_rng(0)
    lists = [[rng.permutation(500)[:100].tolist() for _ in range(30)] for _ in range(3)]
    found = [candidates(name, own, 100) for name, own in zip("abc", lists, strict=True)]
    options = {"method": "rrf", "budget": 150, "quotas": {"b": 40}, "weights": {"a": 2.0}}
    merged = merge(found, **options)
    check(merged, found, **options)
    for row in (0, 7, 8, 29):
        alone = merge([Candidates(c.items[[row]], c.scores[[row]], c.source) for c in found], **options)
        span = slice(merged.splits[row], merged.splits[row + 1])
        for name in ("items", "scores", "source_bits", "ranks", "source_scores"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(merged, name)[span])


def test_nothing_found() -> None:
    merged = merge([candidates("a", [[], []], 3), candidates("b", [[], []], 2)])
    assert merged.splits.tolist() == [0, 0, 0]
    assert merged.ranks.shape == merged.source_scores.shape == (0, 2)


def test_what_does_not_fit_is_refused() -> None:
    a, b = candidates("a", [[1, 2]], 2), candidates("b", [[2, 3]], 2)
    for found, options, message in [
        ([], {}, "1 to 62 sources"),
        ([a, a], {}, r"different names are merged, got \['a', 'a'\]"),
        ([a, candidates("b", [[1], [2]], 1)], {}, r"different histories: \[1, 2\]"),
        ([a, b], {"method": "sum"}, "rrf, rank, got 'sum'"),
        ([a, b], {"budget": 0}, "got 0"),
        ([a, b], {"budget": 3, "quotas": {"a": 2, "b": 2}}, "at most that, got 3"),
        ([a, b], {"quotas": {"a": -1}}, "'a': -1"),
        ([a, b], {"weights": {"a": 0}}, "'a': 0"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            merge(found, **options)


def test_the_union_finds_more_than_each_source() -> None:
    """Half of what people take follows from what they took before, half is what everybody takes."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(600):
        taste = rng.permutation(np.flatnonzero(np.arange(400) % 20 == user % 20))[:6]
        hits = 400 + np.minimum(rng.geometric(0.03, 6), 99)
        events += [(f"u{user}", f"i{i}") for i in rng.permutation(np.unique(np.concatenate([taste, hits])))]
    split = leave_one_out(Interactions.from_events([e[0] for e in events], [e[1] for e in events]))
    sources = [training.fit_popularity(split.train), training.fit_item_knn(split.train)]
    found = [s.candidates(split.train, 20) for s in sources]
    target = split.test.items
    each = [float((c.items == target[:, None]).any(1).mean()) for c in found]

    def recall(budget: int) -> float:
        merged = merge(found, budget=budget)
        rows = np.repeat(np.arange(len(merged)), np.diff(merged.splits))
        return float((merged.items == target[rows]).sum() / len(target))

    assert recall(40) > max(each) + 0.1
    assert recall(20) > min(each)
