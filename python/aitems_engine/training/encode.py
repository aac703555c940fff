"""Products' texts -> `EncodedTitles`, with the tokeniser and the character n-gram hash that serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.text import TokenBatch, Tokenizer
from aitems_engine.training.title_batches import EncodedTitles


@dataclass(frozen=True)
class TextLimits:
    """How texts become ids; stored in the bundle, because serving must do the same."""

    max_title_length: int = 32
    max_mall_length: int = 32
    gram_min: int = 2
    gram_max: int = 5
    gram_buckets: int = 262_144


def encode_products(
    titles: Sequence[str],
    mall_categories: Sequence[str | None],
    tokenizer: Tokenizer,
    limits: TextLimits,
    *,
    threads: int = 1,
) -> EncodedTitles:
    """Return token ids of titles and mall paths and n-gram buckets of titles.

    Parameters
    ----------
    titles, mall_categories : sequences of equal length
        A missing mall category is None or empty.
    tokenizer : Tokenizer
        For titles and mall paths alike.
    limits : TextLimits
        Cut lengths and n-grams.
    threads : int
        Of the tokeniser and the hash.
    """
    from aitems_engine._native import textcnn

    title = tokenizer.encode_batch(
        list(titles), max_length=limits.max_title_length, ragged=True, normalized=True, threads=threads
    )
    mall = tokenizer.encode_batch(
        [path or "" for path in mall_categories], max_length=limits.max_mall_length, ragged=True, threads=threads
    )
    gram_ids, gram_splits = np.zeros(0, np.int32), np.zeros(len(titles) + 1, np.int64)
    if limits.gram_buckets and title.normalized is not None:
        text = title.normalized
        gram_ids, gram_splits = textcnn.char_ngrams(
            text.data, text.offsets, limits.gram_min, limits.gram_max, limits.gram_buckets, threads
        )
    return EncodedTitles(title.ids, splits(title), gram_ids, gram_splits, mall.ids, splits(mall))


def splits(batch: TokenBatch) -> npt.NDArray[np.int64]:
    """Return where each row of a ragged batch begins, and the end of the last."""
    assert batch.row_splits is not None
    return batch.row_splits
