"""The models, the word memo and the keyword rules against their plain twins, on vocabularies no trainer would make."""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import tokenizer_models as twin

from aitems_engine._native import isa
from aitems_engine.errors import InvalidInputError
from aitems_engine.text import KeywordRules, PackedText, Tokenizer

pytestmark = pytest.mark.native
WHITESPACE = {"type": "WhitespaceSplit"}
alphabet = st.sampled_from("abc가나é")
token = st.text(alphabet, min_size=1, max_size=4)
words = st.lists(st.text(alphabet, min_size=1, max_size=90), min_size=1, max_size=6)


def make(model: dict[str, Any], pre: dict[str, Any] | None = WHITESPACE, normalizer: Any = None) -> Tokenizer:
    return Tokenizer.from_str(
        json.dumps({"model": model, "pre_tokenizer": pre, "normalizer": normalizer, "added_tokens": []})
    )


def check(tokenizer: Tokenizer, text: list[str], expected: list[list[int]]) -> None:
    line = " ".join(text)
    flat = [i for ids in expected for i in ids]
    # twice: the second time from the memo; and by the exact path
    for offsets in (False, False, True):
        batch = tokenizer.encode_batch([line, "", line], ragged=True, offsets=offsets)
        assert batch.ids.tolist() == flat * 2
        assert batch.lengths.tolist() == [len(flat), 0, len(flat)]


@settings(max_examples=300, deadline=None)
@given(st.sets(token, max_size=12), st.sets(token, max_size=12), words, st.integers(1, 30))
def test_word_piece(first: set[str], rest: set[str], text: list[str], longest: int) -> None:
    names = ["?", *sorted(first), *sorted("##" + t for t in rest)]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = make({
        "type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": longest,
        "vocab": vocab,
    })  # fmt: skip
    check(tokenizer, text, [twin.word_piece(word, vocab, 0, "##", longest) for word in text])


@settings(max_examples=300, deadline=None)
@given(st.sets(alphabet, max_size=6), st.data(), words, st.booleans(), st.booleans())
def test_bpe(letters: set[str], data: st.DataObject, text: list[str], fuse: bool, unknown: bool) -> None:
    names = ["?", *sorted(letters)]
    merges: list[tuple[str, str]] = []
    for _ in range(data.draw(st.integers(0, 10)) if letters else 0):
        pair = (data.draw(st.sampled_from(names[1:])), data.draw(st.sampled_from(names[1:])))
        if pair not in merges:
            merges.append(pair)
            if "".join(pair) not in names:
                names.append("".join(pair))
    vocab = {name: i for i, name in enumerate(names)}
    model: dict[str, Any] = {"type": "BPE", "vocab": vocab, "merges": [list(m) for m in merges], "fuse_unk": fuse}
    if unknown:
        model["unk_token"] = "?"
    check(make(model), text, [twin.bpe(word, vocab, merges, 0 if unknown else None, fuse) for word in text])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(token, st.integers(-64, 0), max_size=14), words)
def test_unigram(scores: dict[str, int], text: list[str]) -> None:
    # quarters: sums are exact, so that ties are real ties
    entries = [("?", -20.0), *((t, s / 4) for t, s in sorted(scores.items()))]
    tokenizer = make({"type": "Unigram", "unk_id": 0, "vocab": [list(e) for e in entries]})
    check(tokenizer, text, [twin.unigram(word, entries, 0) for word in text])


PLAIN = {
    "type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": {"?": 0, "a": 1, "##a": 2},
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab가-_ "), min_size=1, max_size=4), max_size=5),
    st.text(st.sampled_from("ab가-_ "), max_size=30),
)
def test_keyword_rules(keywords: list[str], text: str) -> None:
    tokenizer = make(PLAIN)
    rules = KeywordRules(tokenizer, {"x": keywords, "y": ["ab"]})
    for category, own in (("x", keywords), ("y", ["ab"]), ("z", []), (None, [])):
        expected = twin.remove_keywords(text, own)
        for offsets in (False, True):
            batch = tokenizer.encode_batch(
                [text], keywords=rules, categories=[category], normalized=True, offsets=offsets
            )
            assert batch.normalized is not None
            assert batch.normalized.to_list() == [expected]
            assert batch.ids.tolist() == tokenizer.encode_batch([expected]).ids.tolist()


def test_keyword_rules_of_every_category_and_their_errors() -> None:
    tokenizer = make(PLAIN, normalizer={"type": "Lowercase"})
    rules = KeywordRules(tokenizer, {"*": ["A"], "x": ["가"]})
    for categories, expected in ((None, "  가"), (["q"], "  가"), (["x"], "   ")):
        batch = tokenizer.encode_batch(["a 가"], keywords=rules, categories=categories, normalized=True)
        assert batch.normalized is not None
        assert batch.normalized.to_list() == [expected]
    with pytest.raises(InvalidInputError, match="empty"):
        KeywordRules(tokenizer, {"x": [""]})
    with pytest.raises(InvalidInputError, match="one element a text"):
        tokenizer.encode_batch(["a"], keywords=rules, categories=["x", "x"])
    with pytest.raises(InvalidInputError, match="without keywords"):
        tokenizer.encode_batch(["a"], categories=["x"])


@pytest.mark.parametrize("level", isa.runnable())
def test_more_words_than_the_memo_holds(level: str) -> None:
    vocab = {"?": 0, **{str(d): d + 1 for d in range(10)}, **{f"##{d}": d + 11 for d in range(10)}}
    tokenizer = Tokenizer.from_str(
        json.dumps({"model": {**PLAIN, "vocab": vocab}, "pre_tokenizer": WHITESPACE}), isa=level
    )
    numbers = [str(n) for n in range(0, 3_000_000, 29)] + ["7" * n for n in range(1, 101)]
    for _ in range(2):
        batch = tokenizer.encode_batch(numbers, ragged=True)
        expected = [int(c) + (11 if i else 1) for number in numbers for i, c in enumerate(number)]
        assert batch.ids.tolist() == expected


def test_threads_give_the_same_and_may_share_a_tokenizer() -> None:
    tokenizer = make(PLAIN)
    texts = ["a" * (i % 50) + " " + "가" * (i % 7) for i in range(5000)]
    expected = tokenizer.encode_batch(texts).ids
    for threads in (0, 2, 7):
        batch = tokenizer.encode_batch(texts, threads=threads, normalized=True)
        assert (batch.ids == expected).all()
        assert batch.normalized is not None
        assert batch.normalized.to_list() == texts
    failed: list[int] = []

    def work() -> None:
        for _ in range(20):
            if not (tokenizer.encode_batch(texts, threads=2).ids == expected).all():
                failed.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed


def test_a_forked_child_goes_on() -> None:
    tokenizer = make(PLAIN)
    texts = ["a aa 가"] * 3000
    expected = tokenizer.encode_batch(texts, threads=2).ids
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if (tokenizer.encode_batch(texts, threads=2).ids == expected).all() else 3)
        finally:
            os._exit(4)
    assert os.waitpid(child, 0)[1] == 0


def test_long_and_odd_texts() -> None:
    tokenizer = make(PLAIN)
    texts = [
        "a" * 10_000,
        "a " * 5_000,
        "가" * 10_000,
        "\u0301" * 10_000,
        "\ud800" * 100,
        "\x00" * 300,
        " " * 999,
        "é" * (1 << 20),
    ]
    batch = tokenizer.encode_batch(texts, ragged=True)
    assert batch.lengths[1] == 5000
    assert batch.replaced == 100
    packed = PackedText.from_texts(texts)
    assert tokenizer.encode_batch(packed, ragged=True).ids.tolist() == batch.ids.tolist()
    assert tokenizer.encode_batch([], ragged=True).ids.shape == (0,)
    assert tokenizer.encode_batch([]).ids.shape == (0, 0)


def test_packed_text_is_checked() -> None:
    tokenizer = make(PLAIN)
    data = np.frombuffer(b"a a a", np.uint8)
    for offsets in ([0, 9], [-1, 2], [3, 1], [[0, 1]], []):
        with pytest.raises(InvalidInputError, match="packed text"):
            tokenizer.encode_batch(PackedText(data, np.array(offsets, np.int64)))
    with pytest.raises(InvalidInputError, match="packed text"):
        tokenizer.encode_batch(PackedText(data, np.array([0, 1], np.int32)))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["max_length", "pad_to", "threads"])
@pytest.mark.parametrize("value", [-1, 1.5, "3", 2**40])
def test_numbers_are_checked(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field):
        make(PLAIN).encode_batch(["a"], **{field: value})


def test_composition_tables_agree_with_unicodedata_where_it_is_as_old() -> None:
    tokenizer = make(PLAIN, normalizer={"type": "NFKC"})
    texts = [chr(c) + "\u0301\u0327" for c in range(0x20, 0x700) if unicodedata.category(chr(c)) != "Cn"]
    normalized = tokenizer.encode_batch(texts, normalized=True).normalized
    assert normalized is not None
    assert normalized.to_list() == [unicodedata.normalize("NFKC", text) for text in texts]
