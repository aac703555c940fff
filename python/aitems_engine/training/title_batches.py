"""Titles as flat id arrays, and batches of them: length-bucketed, with the unique embedding rows of each batch.

Encoding happens once, with the tokeniser and the n-gram hash that serve; a batch is then only slicing. Memory: four
bytes a token and a character n-gram, about 400 bytes a title.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int32]
OffsetArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedTitles:
    """Token ids of titles and mall paths and n-gram buckets of titles, each flat with offsets of shape (n + 1,)."""

    title_ids: IntArray
    title_splits: OffsetArray
    gram_ids: IntArray
    gram_splits: OffsetArray
    mall_ids: IntArray
    mall_splits: OffsetArray

    def __len__(self) -> int:
        return len(self.title_splits) - 1

    def take(self, rows: npt.NDArray[np.int64]) -> EncodedTitles:
        """Return the given rows, in that order."""
        title = take_ragged(self.title_ids, self.title_splits, rows)
        gram = take_ragged(self.gram_ids, self.gram_splits, rows)
        mall = take_ragged(self.mall_ids, self.mall_splits, rows)
        return EncodedTitles(*title, *gram, *mall)


@dataclass(frozen=True)
class TitleBatch:
    """One batch as tensors: positions into the batch's unique rows instead of ids; 0 in `title`, `mall` is padding."""

    rows: npt.NDArray[np.int64]
    token_rows: torch.Tensor
    title: torch.Tensor
    title_lengths: torch.Tensor
    mall: torch.Tensor
    mall_lengths: torch.Tensor
    gram_rows: torch.Tensor
    grams: torch.Tensor
    gram_offsets: torch.Tensor
    gram_scales: torch.Tensor


def take_ragged(ids: IntArray, splits: OffsetArray, rows: npt.NDArray[np.int64]) -> tuple[IntArray, OffsetArray]:
    """Return the given rows of a ragged array as a ragged array."""
    lengths = splits[rows + 1] - splits[rows]
    out = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    index = np.arange(out[-1]) + np.repeat(splits[rows] - out[:-1], lengths)
    return ids[index], out


def batch_rows(
    encoded: EncodedTitles, batch_size: int, generator: np.random.Generator | None
) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each batch; titles of one batch have similar lengths.

    Without a generator (scoring) rows are sorted by length. With one (training) the order is random: lengths are only
    sorted within pools of 32 batches, and the batches are shuffled.
    """
    lengths = np.diff(encoded.gram_splits) + np.diff(encoded.title_splits)
    if generator is None:
        order = np.argsort(lengths, kind="stable")
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    order = generator.permutation(len(encoded))
    batches = []
    pool = 32 * batch_size
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def make_batch(
    encoded: EncodedTitles,
    rows: npt.NDArray[np.int64],
    *,
    device: torch.device | str = "cpu",
    generator: np.random.Generator | None = None,
    mall_dropout: float = 0.0,
) -> TitleBatch:
    """Return the batch of the given rows.

    Parameters
    ----------
    encoded : EncodedTitles
        All rows.
    rows : int64 array
        Positions in `encoded`.
    device : torch device
        Where the tensors go.
    generator : numpy Generator, optional
        Needed for dropout.
    mall_dropout : float
        Share of rows whose mall path is dropped.
    """
    title_ids, title_splits = take_ragged(encoded.title_ids, encoded.title_splits, rows)
    mall_ids, mall_splits = take_ragged(encoded.mall_ids, encoded.mall_splits, rows)
    gram_ids, gram_splits = take_ragged(encoded.gram_ids, encoded.gram_splits, rows)
    mall_lengths = np.diff(mall_splits)
    if generator is not None and mall_dropout:
        kept = generator.random(len(rows)) >= mall_dropout
        mall_ids = mall_ids[np.repeat(kept, mall_lengths)]
        mall_lengths = mall_lengths * kept
    token_rows, positions = np.unique(np.concatenate([title_ids, mall_ids]), return_inverse=True)
    positions += 1  # 0 is padding
    title = pad(positions[: len(title_ids)], np.diff(title_splits))
    mall = pad(positions[len(title_ids) :], mall_lengths)
    gram_counts = np.diff(gram_splits)
    scales = 1 / np.sqrt(np.maximum(1, gram_counts))
    gram_rows, grams = np.unique(gram_ids, return_inverse=True)

    def tensor(array: npt.NDArray[np.generic], dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.as_tensor(array, dtype=dtype).to(device)

    return TitleBatch(
        rows=rows,
        token_rows=tensor(token_rows),
        title=tensor(title),
        title_lengths=tensor(np.diff(title_splits)),
        mall=tensor(mall),
        mall_lengths=tensor(mall_lengths),
        gram_rows=tensor(gram_rows),
        grams=tensor(grams),
        gram_offsets=tensor(gram_splits[:-1]),
        gram_scales=tensor(scales, torch.float32),
    )


def pad(values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return ragged values as (rows, longest), filled with 0."""
    longest = int(lengths.max()) if len(lengths) else 0
    out = np.zeros((len(lengths), longest), np.int64)
    out[np.arange(longest)[None, :] < lengths[:, None]] = values
    return out


def iterate(encoded: EncodedTitles, batch_size: int, *, device: torch.device | str = "cpu") -> Iterator[TitleBatch]:
    """Yield batches for scoring; `rows` says where results belong."""
    for rows in batch_rows(encoded, batch_size, None):
        yield make_batch(encoded, rows, device=device)


def concatenate(parts: Sequence[EncodedTitles]) -> EncodedTitles:
    """Return the rows of several encoded sets as one."""

    def join(ids: str, splits: str) -> tuple[IntArray, OffsetArray]:
        lengths = np.concatenate([np.diff(getattr(p, splits)) for p in parts])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return np.concatenate([getattr(p, ids) for p in parts]), offsets

    return EncodedTitles(
        *join("title_ids", "title_splits"), *join("gram_ids", "gram_splits"), *join("mall_ids", "mall_splits")
    )
