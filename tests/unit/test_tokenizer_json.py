"""Damaged and unsupported tokenizer.json files: each is an error that names what is wrong, none is ignored."""
# ruff: noqa: E501 (one case a line)

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine.errors import AitemsError, TokenizerFormatError
from aitems_engine.text import Tokenizer

pytestmark = pytest.mark.native
WORDPIECE: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 0, "content": "[PAD]", "special": True}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "##b": 3},
    },
}
BPE = {**WORDPIECE, "model": {"type": "BPE", "unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "ab": 4}, "merges": ["a b"]}}  # fmt: skip
UNIGRAM = {
    **WORDPIECE,
    "added_tokens": [],
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
}


def changed(base: dict[str, Any], path: str, value: Any) -> str:
    document = copy.deepcopy(base)
    node = document
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return json.dumps(document)


def deep(depth: int) -> Any:
    node: Any = {"type": "NFC"}
    for _ in range(depth):
        node = {"type": "Sequence", "normalizers": [node]}
    return node


@pytest.mark.parametrize("base", [WORDPIECE, BPE, UNIGRAM])
def test_the_undamaged_files_open(base: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(base))
    assert json.loads(tokenizer.to_str()) == base
    assert tokenizer.encode_batch(["a"]).lengths.tolist() == [1]


SPECIAL_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
CASES: list[tuple[dict[str, Any], str, Any, str]] = [
    (WORDPIECE, "version", "2.0", "version '2.0'"),
    (WORDPIECE, "model", ..., "has no 'model'"),
    (WORDPIECE, "model", [], "model must be dict"),
    (WORDPIECE, "model.type", "WordLevel", "model 'WordLevel' is not supported"),
    (WORDPIECE, "model.unk_token", "<missing>", "unk_token '<missing>' is not in the vocabulary"),
    (WORDPIECE, "model.unk_token", ..., "has no 'unk_token'"),
    (WORDPIECE, "model.vocab", [1], "model.vocab must be dict"),
    (WORDPIECE, "model.vocab.a", "2", "has the id '2'"),
    (WORDPIECE, "model.vocab.a", -1, "has the id -1"),
    (WORDPIECE, "model.vocab.a", True, "has the id True"),
    (WORDPIECE, "model.vocab.a", 2**31, "has the id 2147483648"),
    (WORDPIECE, "model.vocab.a", 10**400, "has the id"),
    (WORDPIECE, "model.vocab.a", 3, "gives the id 3 to"),
    (WORDPIECE, "model.vocab.\ud800", 9, "lone surrogate"),
    (WORDPIECE, "model.extra", 1, "unsupported field 'extra'"),
    (WORDPIECE, "model.max_input_chars_per_word", 1.5, "must be int"),
    (WORDPIECE, "model.continuing_subword_prefix", None, "must be str"),
    (WORDPIECE, "surprise", 1, "unsupported field 'surprise'"),
    (WORDPIECE, "normalizer", {"type": "Nmt"}, "normalizer 'Nmt' is not supported"),
    (WORDPIECE, "normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}, "normalizer 'Precompiled'"),
    (WORDPIECE, "normalizer", {"type": "Sequence", "normalizers": [{"type": "Nmt"}]}, r"normalizers\[0\] 'Nmt'"),
    (WORDPIECE, "normalizer", {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}, "unsupported regular expression"),
    (WORDPIECE, "normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": ""}, "non-empty pattern"),
    (WORDPIECE, "normalizer", {"type": "Lowercase", "locale": "tr"}, "unsupported field 'locale'"),
    (WORDPIECE, "normalizer", {"type": "BertNormalizer", "lowercase": "yes"}, "must be bool"),
    (WORDPIECE, "normalizer", "NFKC", "must be an object"),
    (WORDPIECE, "normalizer", deep(40), "nested"),
    (WORDPIECE, "pre_tokenizer", {"type": "UnicodeScripts"}, "pre_tokenizer 'UnicodeScripts' is not supported"),
    (WORDPIECE, "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "x|y"}, "behavior": "Isolated", "invert": False}, "unsupported regular expression"),
    (WORDPIECE, "pre_tokenizer", {"type": "Split", "pattern": {"String": "x"}, "behavior": "Glued", "invert": False}, "behavior 'Glued'"),
    (WORDPIECE, "pre_tokenizer", {"type": "Metaspace", "replacement": "ab"}, "must be one character"),
    (WORDPIECE, "pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "'ByteLevel' is supported with a plain BPE"),
    (WORDPIECE, "post_processor", {"type": "Magic"}, "post_processor 'Magic' is not supported"),
    (WORDPIECE, "post_processor", SPECIAL_TEMPLATE, r"has no '\[X\]'"),
    (WORDPIECE, "post_processor", {"type": "BertProcessing", "sep": ["x"], "cls": ["y", 1]}, "must be"),
    (WORDPIECE, "decoder", {"type": "Magic"}, "decoder 'Magic' is not supported"),
    (WORDPIECE, "truncation", {"max_length": 5, "direction": "Left"}, "truncation.direction"),
    (WORDPIECE, "padding", {"direction": "Left", "pad_id": 0}, "padding.direction"),
    (WORDPIECE, "padding", {"pad_to_multiple_of": 8, "pad_id": 0}, "pad_to_multiple_of"),
    (WORDPIECE, "added_tokens", [{"id": 2, "content": "[X]"}], "belongs to 'a'"),
    (WORDPIECE, "added_tokens", [{"id": 9, "content": ""}], "no content"),
    (WORDPIECE, "added_tokens", [{"id": 9, "content": "x"}, {"id": 9, "content": "y"}], "belongs to 'x'"),
    (WORDPIECE, "added_tokens", {}, "must be a list"),
    (BPE, "model.merges", ["a"], r"merges\[0\] must be two tokens"),
    (BPE, "model.merges", ["a c"], "uses 'c', which is not in the vocabulary"),
    (BPE, "model.merges", ["b a"], "uses 'ba', which is not in the vocabulary"),
    (BPE, "model.merges", 7, "model.merges must be list"),
    (BPE, "model.dropout", 0.1, "dropout"),
    (BPE, "model.unk_token", "<unk>", "is not in the vocabulary"),
    (UNIGRAM, "model.unk_id", 2, "unk_id 2 is not in the vocabulary"),
    (UNIGRAM, "model.unk_id", None, "unk_id must be int"),
    (UNIGRAM, "model.vocab", [], "is not in the vocabulary of 0"),
    (UNIGRAM, "model.vocab", [["a"]], r"vocab\[0\] must be"),
    (UNIGRAM, "model.vocab", [["a", "b"]], r"vocab\[0\] must be"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "path", "value", "message"), CASES, ids=[f"{c[1]}-{i}" for i, c in enumerate(CASES)])
def test_each_damage_is_named(base: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(TokenizerFormatError, match=message) as caught:
        Tokenizer.from_str(changed(base, path, value))
    assert len(str(caught.value)) < 2000


def test_text_that_is_no_json() -> None:
    good = json.dumps(WORDPIECE)
    for text in ("", "{", good[: len(good) // 2], "[]", "null", "\ufeff{}", '{"a": NaN}', "[" * 100_000, b"\xff\xfe"):
        with pytest.raises(TokenizerFormatError):
            Tokenizer.from_str(text)
    with pytest.raises(TokenizerFormatError, match="stands twice"):
        Tokenizer.from_str(good.replace('"a": 2', '"a": 2, "a": 7'))


def test_the_path_is_in_the_message(tmp_path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TokenizerFormatError, match=r"bad\.json"):
        Tokenizer.from_file(tmp_path / "bad.json")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "id", "vocab", "pattern"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([WORDPIECE, BPE, UNIGRAM]), st.data())
def test_any_value_anywhere_opens_or_is_our_error(base: dict[str, Any], data: st.DataObject) -> None:
    paths: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                paths.append(f"{path}{key}")
                walk(child, f"{path}{key}.")

    walk(base, "")
    text = changed(base, data.draw(st.sampled_from(paths)), data.draw(values))
    with contextlib.suppress(AitemsError):
        Tokenizer.from_str(text).encode_batch(["a b", "ab [PAD] 가"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 700), st.integers(0, 700), st.binary(max_size=4))
def test_any_bytes_anywhere_open_or_are_our_error(begin: int, end: int, bytes_: bytes) -> None:
    text = json.dumps(BPE, ensure_ascii=False).encode()
    with contextlib.suppress(AitemsError):
        Tokenizer.from_str(text[:begin] + bytes_ + text[end:]).encode_batch(["a b"])
