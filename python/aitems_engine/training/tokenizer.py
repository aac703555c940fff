"""Train a vocabulary on texts by the trainers of the `tokenizers` package (extra `train`; serving needs none of it)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from aitems_engine.errors import InvalidInputError, require_extra
from aitems_engine.text import Tokenizer

MODELS = ("wordpiece", "bpe", "byte_bpe", "unigram")
PAD, UNK = "[PAD]", "[UNK]"


def train_tokenizer(
    texts: Iterable[str],
    *,
    model: str = "wordpiece",
    vocab_size: int = 20000,
    min_frequency: int = 2,
    strip_accents: bool = False,
    progress: bool = False,
) -> Tokenizer:
    """Train a tokeniser: NFKC and lower case, then the model's usual pre-tokeniser.

    Parameters
    ----------
    texts : iterable of str
        Titles, paths, whatever the tokeniser will see. Held in memory.
    model : str
        "wordpiece", "bpe", "byte_bpe" or "unigram".
    vocab_size : int >= 300
        Upper bound; little text gives fewer tokens.
    min_frequency : int >= 1
        Pairs seen less often are not joined (not used by "unigram").
    strip_accents : bool
        Also drop combining accents (decomposes Hangul into letters: not for Korean text).
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Tokenizer
        ``pad_id`` 0 ("[PAD]"); unknown token "[UNK]" 1, except "byte_bpe", which knows every byte.

    Raises
    ------
    InvalidInputError
        Unknown model, impossible size, or no text at all.
    MissingExtraError
        The package `tokenizers` is not installed.

    Notes
    -----
    The same texts in the same order give the same tokeniser, except for "unigram", whose trainer depends on a random
    hash order.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["gaming mouse black", "gaming keyboard"] * 9, vocab_size=300)
    >>> tokenizer.encode_batch(["Gaming MOUSE"]).lengths.tolist()
    [2]
    """
    if model not in MODELS:
        raise InvalidInputError(f"model must be one of {', '.join(MODELS)}, got '{model}'")
    if vocab_size < 300 or min_frequency < 1:
        raise InvalidInputError(
            f"vocab_size must be 300 or more and min_frequency 1 or more, got {vocab_size} and {min_frequency}"
        )
    require_extra("train", "tokenizers")
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    inner: Any
    pre: Any
    trainer: Any
    options: dict[str, Any] = {"vocab_size": vocab_size, "show_progress": progress}
    if model == "wordpiece":
        inner, pre = models.WordPiece(unk_token=UNK), pre_tokenizers.BertPreTokenizer()
        trainer = None  # below: it needs the alphabet
    elif model == "bpe":
        inner, pre = models.BPE(unk_token=UNK), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.BpeTrainer(special_tokens=[PAD, UNK], min_frequency=min_frequency, **options)
    elif model == "byte_bpe":
        inner, pre = models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            special_tokens=[PAD], min_frequency=min_frequency, initial_alphabet=alphabet, **options
        )
    else:
        inner, pre = models.Unigram(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=[PAD, UNK], unk_token=UNK, **options)

    reference = tokenizers.Tokenizer(inner)
    steps = [normalizers.NFKC(), normalizers.Lowercase()]
    if strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
    reference.normalizer = normalizers.Sequence(steps)
    reference.pre_tokenizer = pre
    rows = [text for text in texts if text.strip()]
    if not rows:
        raise InvalidInputError("texts held no text to train on")
    continuing: list[str] = []
    if model == "wordpiece":
        # The trainer numbers the characters inside words in the order of a hash table that differs from run to run, and
        # breaks ties by number. Given as special tokens they have the same numbers every time; they are made ordinary
        # again below.
        inside = set()
        for row in rows:
            for word, _ in pre.pre_tokenize_str(reference.normalizer.normalize_str(row)):
                inside.update(word[1:])
        continuing = ["##" + char for char in sorted(inside)]
        special = [PAD, UNK, *continuing]
        trainer = trainers.WordPieceTrainer(special_tokens=special, min_frequency=min_frequency, **options)
    reference.train_from_iterator(rows, trainer)
    document = json.loads(reference.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in (PAD, UNK)]
    # by id, so that equal vocabularies are equal files
    if isinstance(document["model"]["vocab"], dict):
        document["model"]["vocab"] = dict(sorted(document["model"]["vocab"].items(), key=lambda item: item[1]))
    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
