"""Ids and offsets equal those of the `tokenizers` package: random Unicode, every component and level, real titles."""

from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aitems_engine._native import isa
from aitems_engine.text import PackedText, Tokenizer

tokenizers = pytest.importorskip("tokenizers")

from tests.reference.tokenizers_differential import (  # noqa: E402
    NFKC_LOWER,
    configurations,
    differences,
    random_texts,
    replace_surrogates,
    trained,
    training_corpus,
)

pytestmark = pytest.mark.native
NAMES = [
    "wordpiece", "wordpiece_bert", "wordpiece_cased", "wordpiece_nfc", "wordpiece_accents", "bpe", "bpe_fused",
    "bpe_digits", "bpe_groups", "bpe_literal", "byte_bpe", "byte_bpe_plain", "byte_bpe_cl100k", "byte_bpe_qwen",
    "unigram", "unigram_first", "unigram_never", "unigram_whole", "unigram_bare", "added", "bert_processing",
    "byte_bpe_trimmed_false", "byte_bpe_trimmed_true", "roberta",
]  # fmt: skip
MAIN = ["wordpiece", "bpe", "byte_bpe", "unigram", "added"]
LEVELS = isa.runnable()


@cache
def references() -> dict[str, Any]:
    return dict(configurations(training_corpus()))


def test_every_configuration_is_tested() -> None:
    assert sorted(references()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offsets", [False, True], ids=["fast", "exact"])
def test_random_texts(name: str, offsets: bool) -> None:
    reference = references()[name]
    texts = [*random_texts(400, 7, surrogates=True), *random_texts(20, 8, longest=500)]
    assert not differences(Tokenizer.from_str(reference.to_str()), reference, texts, offsets=offsets)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MAIN)
def test_every_level_gives_the_same(name: str, level: str) -> None:
    reference = references()[name]
    ours = Tokenizer.from_str(reference.to_str(), isa=level)
    assert ours.isa == level
    # lengths around the vector width, with every kind of character at the edges
    lengths = (0, 1, 15, 16, 17, 31, 63, 64, 65, 127, 128)
    texts = [fill * n + edge for n in lengths for fill in "aA 가_'" for edge in ("", "힣", "é", "'s", " ")]
    assert not differences(ours, reference, [*texts, *random_texts(300, 9, longest=150)], offsets=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offsets", [False, True], ids=["fast", "exact"])
def test_many_random_texts(name: str, offsets: bool) -> None:
    reference = references()[name]
    ours = Tokenizer.from_str(reference.to_str())
    count = 20_000 if name in MAIN and not offsets else 4_000
    texts = [*random_texts(count, 17, surrogates=True), *random_texts(20, 18, longest=6000)]
    assert not differences(ours, reference, texts, offsets=offsets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wordpiece", "wordpiece_bert", "bpe_digits"])
def test_every_code_point(name: str) -> None:
    reference = references()[name]
    ours = Tokenizer.from_str(reference.to_str())
    for low in (*range(0, 0x32000, 0x2000), 0xE0000, 0x10F000):
        points = [chr(c) for c in range(low, low + 0x1000 * (2 if low < 0x32000 else 1)) if not 0xD800 <= c < 0xE000]
        # alone, between letters, and after something that it may combine with
        texts = [text for c in points for text in (c, f"a{c}b", f"{c}\u0301", f"가{c}")]
        assert not differences(ours, reference, texts, offsets=False)


@pytest.mark.parametrize("name", [name for name in MAIN if name != "added"])
def test_normalized_text_is_the_reference_normalizer(name: str) -> None:
    reference = references()[name]
    ours = Tokenizer.from_str(reference.to_str())
    texts = [t for t in random_texts(500, 5, surrogates=True) if "[UNK]" not in t and "[PAD]" not in t]
    expected = [reference.normalizer.normalize_str(replace_surrogates(text)) for text in texts]
    for offsets in (False, True):
        packed = ours.encode_batch(texts, normalized=True, offsets=offsets).normalized
        assert packed is not None
        assert packed.to_list() == expected
    again = ours.encode_batch(PackedText.from_texts(texts), normalized=True).normalized
    assert again is not None
    assert again.to_list() == expected


def real_titles() -> dict[str, list[str]]:
    root = Path(os.environ.get("AITEMS_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
    if not (root / "danawa" / "products.tsv").exists():
        pytest.skip("AITEMS_DATA has no title files")
    with (root / "danawa" / "products.tsv").open(encoding="utf-8") as file:
        titles = {"danawa": [line.split("\t")[1] for line in file][1:]}
    titles["korean_titles"] = (root / "korean_titles" / "titles.txt").read_text("utf-8").splitlines()
    for name in ("retrotech", "amazon_in"):
        with (root / name / "products.csv").open(encoding="utf-8", newline="") as file:
            titles[name] = [row["name"] or "" for row in csv.DictReader(file)]
    return titles


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("model", ["wordpiece", "bpe", "byte_bpe", "unigram"])
def test_all_real_titles(model: str) -> None:
    files = real_titles()
    corpus = files["danawa"][:20_000] + files["korean_titles"] + files["retrotech"][:10_000]
    pre = {
        "byte_bpe": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False),
        "unigram": tokenizers.pre_tokenizers.Metaspace(),
    }.get(model, tokenizers.pre_tokenizers.BertPreTokenizer())
    reference = trained(model, NFKC_LOWER, pre, corpus, 20_000)
    ours = Tokenizer.from_str(reference.to_str())
    for name, titles in files.items():
        assert not differences(ours, reference, titles, offsets=False), name
        assert not differences(ours, reference, titles[:3000], offsets=True), name
