"""Random texts and tokeniser configurations for comparing the native tokenisers with the `tokenizers` package."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from aitems_engine.text import Tokenizer
from aitems_engine.text.tokenizer_json import SPLIT_PATTERNS

WORDS = [
    "무료배송", "게이밍", "마우스", "블랙", "NX2000", "1000X400X450", "usb-c", "Café", "ﬁne", "①②", "½인치", "women's",
    "I'll", "[UNK]", "[PAD]", "™", "®", "한글", "ＡＢＣ", "№", "무료배송", "게이밍",
]  # fmt: skip
EDGES = [
    0x00, 0x08, 0x1F, 0x7F, 0x80, 0x85, 0xA0, 0xAD, 0x130, 0x17F, 0x3A3, 0x3C2, 0x1E9E, 0x200B, 0x200D, 0x2028,
    0x212A, 0x2581, 0x3000, 0x3131, 0xA960, 0xABFF, 0xAC00, 0xAC01, 0xD78F, 0xD790, 0xD7A3, 0xD7A4, 0xD7B0, 0xFB01,
    0xFDFA, 0xFEFF, 0xFFFD, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF,
]  # fmt: skip


def scalar(rng: random.Random, low: int = 0, high: int = 0x110000) -> str:
    c = rng.randrange(low, high)
    return chr(c) if not 0xD800 <= c < 0xE000 else "가"


SOURCES: list[Callable[[random.Random], str]] = [
    scalar,  # anything: mostly unassigned
    lambda r: scalar(r, 0, 0x3000),
    lambda r: chr(r.randrange(0x20, 0x7F)),
    lambda r: chr(r.randrange(0x20, 0x7F)),
    lambda r: chr(r.randrange(0, 0x100)),
    lambda r: chr(r.randrange(0x300, 0x370)),  # combining
    lambda r: chr(r.randrange(0x1100, 0x1200)),  # Hangul letters
    lambda r: chr(r.randrange(0xAC00, 0xD7A4)),
    lambda r: chr(r.randrange(0xAC00, 0xD7A4)),
    lambda r: chr(r.randrange(0xFF00, 0xFFF0)),
    lambda r: chr(r.choice(EDGES)),
    lambda r: r.choice("  \t\n\u00a0\u3000'_-"),
    lambda r: " ",
    lambda r: r.choice(WORDS),
    lambda r: r.choice(WORDS) + " ",
]


def random_texts(count: int, seed: int, *, surrogates: bool = False, longest: int = 40) -> Iterator[str]:
    """Yield texts that mix sources; each keeps to a few sources, so that plain and wild ones both occur."""
    rng = random.Random(seed)
    for _ in range(count):
        sources = rng.sample(SOURCES, rng.randint(1, 5))
        text = "".join(rng.choice(sources)(rng) for _ in range(rng.randrange(longest)))
        if surrogates and rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + chr(rng.randrange(0xD800, 0xE000)) + text[at:]
        yield text


def training_corpus(seed: int = 1) -> list[str]:
    """Return texts over a limited alphabet, so that a small vocabulary can hold it."""
    rng = random.Random(seed)
    letters = (
        [chr(rng.randrange(0xAC00, 0xD7A4)) for _ in range(40)] + [chr(c) for c in range(0x20, 0x7F)] + ["é", "½", "™"]
    )
    texts = [" ".join(rng.choices(WORDS, k=6)) for _ in range(100)]
    return texts + ["".join(rng.choices(letters, k=20)) for _ in range(400)]


def replace_surrogates(text: str) -> str:
    return "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in text)


NFKC_LOWER = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
SPECIAL = ["[PAD]", "[UNK]"]


def trained(
    model: str, normalizer: object, pre: object, corpus: Sequence[str], size: int = 400
) -> tokenizers.Tokenizer:
    """Return a reference tokeniser with a small vocabulary trained on the corpus."""
    kinds: dict[str, tuple[object, object]] = {
        "wordpiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer),
        "bpe": (models.BPE(unk_token="[UNK]", fuse_unk=False), trainers.BpeTrainer),
        "bpe_fused": (models.BPE(unk_token="[UNK]", fuse_unk=True), trainers.BpeTrainer),
        "byte_bpe": (models.BPE(), trainers.BpeTrainer),
        "unigram": (models.Unigram(), trainers.UnigramTrainer),
    }
    inner, trainer = kinds[model]
    out = tokenizers.Tokenizer(inner)
    out.normalizer, out.pre_tokenizer = normalizer, pre
    options: dict[str, object] = {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    if model == "unigram":
        options["unk_token"] = "[UNK]"
    if model == "byte_bpe":
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        options["vocab_size"] = size + 256
    out.train_from_iterator(corpus, trainer(**options))
    return out


def configurations(corpus: Sequence[str]) -> dict[str, tokenizers.Tokenizer]:
    """Return reference tokenisers that cover every supported component."""
    n, p = normalizers, pre_tokenizers
    patterns = list(SPLIT_PATTERNS)
    byte_level = p.ByteLevel(add_prefix_space=False, use_regex=False)
    cl100k, qwen = p.Split(Regex(patterns[1]), "isolated"), p.Split(Regex(patterns[2]), "removed", True)
    groups = [p.CharDelimiterSplit(" "), p.Digits(False), p.Punctuation("contiguous")]
    literal = [p.Split(" ", "merged_with_previous"), p.Split("ab", "removed"), p.Split("x", "isolated", True)]
    steps = [n.Strip(), n.Replace(Regex(" {2,}"), " "), n.Replace("a", "bc"), n.Prepend("▁")]
    out = {
        "wordpiece": trained("wordpiece", NFKC_LOWER, p.BertPreTokenizer(), corpus),
        "wordpiece_bert": trained("wordpiece", n.BertNormalizer(), p.BertPreTokenizer(), corpus),
        "wordpiece_cased": trained("wordpiece", n.BertNormalizer(lowercase=False), p.BertPreTokenizer(), corpus),
        "wordpiece_nfc": trained("wordpiece", n.NFC(), p.Whitespace(), corpus),
        "wordpiece_accents": trained(
            "wordpiece", n.Sequence([n.NFKD(), n.StripAccents(), n.Lowercase(), n.NFC()]), p.WhitespaceSplit(), corpus
        ),
        "bpe": trained("bpe", NFKC_LOWER, p.Whitespace(), corpus),
        "bpe_fused": trained("bpe_fused", NFKC_LOWER, p.Sequence([p.WhitespaceSplit(), p.Punctuation()]), corpus),
        "bpe_digits": trained("bpe", n.NFD(), p.Sequence([p.Digits(True), p.Punctuation("merged_with_next")]), corpus),
        "bpe_groups": trained("bpe", None, p.Sequence(groups), corpus),
        "bpe_literal": trained("bpe", n.Lowercase(), p.Sequence(literal), corpus),
        "byte_bpe": trained("byte_bpe", NFKC_LOWER, p.ByteLevel(add_prefix_space=True, trim_offsets=False), corpus),
        "byte_bpe_plain": trained("byte_bpe", None, p.ByteLevel(add_prefix_space=False, trim_offsets=False), corpus),
        "byte_bpe_cl100k": trained("byte_bpe", n.NFC(), p.Sequence([cl100k, byte_level]), corpus),
        "byte_bpe_qwen": trained("byte_bpe", n.NFC(), p.Sequence([qwen, byte_level]), corpus),
        "unigram": trained("unigram", NFKC_LOWER, p.Metaspace(), corpus),
        "unigram_first": trained("unigram", n.NFKC(), p.Metaspace(prepend_scheme="first"), corpus),
        "unigram_never": trained("unigram", n.Sequence(steps), p.Metaspace(prepend_scheme="never"), corpus),
        "unigram_whole": trained("unigram", n.NFKC(), p.Metaspace(split=False), corpus),
        "unigram_bare": trained("unigram", n.NFKC(), None, corpus),
    }  # fmt: skip
    added = trained("wordpiece", NFKC_LOWER, p.BertPreTokenizer(), corpus)
    added.add_tokens([
        tokenizers.AddedToken("게이밍", single_word=True, normalized=True),
        tokenizers.AddedToken("usb", lstrip=True, rstrip=True, normalized=True),
        tokenizers.AddedToken("Café", normalized=False, rstrip=True),
    ])  # fmt: skip
    added.add_special_tokens(["[CLS]", "[SEP]", "<s>"])
    cls, sep = added.token_to_id("[CLS]"), added.token_to_id("[SEP]")
    added.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    out["added"] = added
    bert = trained("unigram", NFKC_LOWER, p.Metaspace(), corpus)
    bert.add_special_tokens(["<s>", "</s>"])
    bert.post_processor = processors.BertProcessing(
        ("</s>", bert.token_to_id("</s>")), ("<s>", bert.token_to_id("<s>"))
    )
    out["bert_processing"] = bert
    for prefix in (False, True):
        name = f"byte_bpe_trimmed_{prefix}".lower()
        out[name] = trained("byte_bpe", NFKC_LOWER, p.ByteLevel(add_prefix_space=prefix), corpus)
        out[name].post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=True, add_prefix_space=prefix)]
        )
    roberta = trained("byte_bpe", None, p.ByteLevel(add_prefix_space=True), corpus)
    roberta.add_special_tokens(["<s>", "</s>"])
    roberta.post_processor = processors.RobertaProcessing(
        ("</s>", roberta.token_to_id("</s>")), ("<s>", roberta.token_to_id("<s>")), True, True
    )
    out["roberta"] = roberta
    return out


def differences(ours: Tokenizer, reference: tokenizers.Tokenizer, texts: Sequence[str], *, offsets: bool) -> list[str]:
    """Return a line for each text whose ids (and offsets) differ."""
    batch = ours.encode_batch(texts, ragged=True, offsets=offsets)
    assert batch.row_splits is not None
    ids, splits = batch.ids.tolist(), batch.row_splits.tolist()
    spans = None if batch.offsets is None else [tuple(pair) for pair in batch.offsets.tolist()]
    out = []
    for i, expected in enumerate(reference.encode_batch([replace_surrogates(text) for text in texts])):
        row = slice(splits[i], splits[i + 1])
        if ids[row] != expected.ids:
            out.append(f"{texts[i]!a}: ids {ids[row]} != {expected.ids}")
        elif spans is not None and spans[row] != expected.offsets:
            out.append(f"{texts[i]!a}: offsets {spans[row]} != {expected.offsets}")
    return out
