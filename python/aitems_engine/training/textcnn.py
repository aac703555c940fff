"""The text classifier as a torch module: token CNN and character n-gram bags over the title, CNN over the mall path.

The same mathematics runs natively (`csrc/textcnn`) and in ONNX Runtime (`training.onnx_graph`); `export_tensors` gives
both their weights. Token CNN: Kim 2014, windows start at every real token and read zeros past the end, so a result does
not depend on the padded width. Bags of hashed character n-grams: fastText (Joulin et al. 2016) with 1/sqrt(count), a
relu, and rows scaled by inverse document frequency.

The title is read by several members - the CNN and each group of the bag's columns - that learn side by side, each with
a head and a loss of its own; the served head is their weighted mean plus the mall's. Since the head is linear, that
mean is one matrix: an ensemble at the cost of one network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.training.row_table import RowTable
from aitems_engine.training.title_batches import TitleBatch


@dataclass(frozen=True)
class TextCNNShape:
    """Sizes of the network; branches with no width or no bucket are left out."""

    vocab_size: int
    num_leaves: int
    dim: int = 128
    title_widths: tuple[int, ...] = (2, 3, 4, 5)
    title_filters: int = 128
    gram_buckets: int = 131_072
    gram_dim: int = 256
    gram_groups: int = 4
    mall_widths: tuple[int, ...] = (1, 2, 3)
    mall_filters: int = 64

    @property
    def member_features(self) -> tuple[int, ...]:
        """Number of features of each title member: the CNN, then the groups of the bag."""
        convs = (len(self.title_widths) * self.title_filters,) if self.title_widths else ()
        group = self.gram_dim // self.gram_groups
        return convs + ((group,) * self.gram_groups if self.gram_buckets else ())

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts whose weights are chosen after training: "cnn", "bag" (all groups alike), "mall"."""
        there = {"cnn": self.title_widths, "bag": self.gram_buckets, "mall": self.mall_features}
        return tuple(name for name, size in there.items() if size)

    @property
    def mall_features(self) -> int:
        """Number of features of the mall path."""
        return len(self.mall_widths) * self.mall_filters


@dataclass(frozen=True)
class Dropout:
    """Shares of what is dropped in training."""

    features: float = 0.3
    grams: float = 0.5
    tokens: float = 0.2
    mall: float = 0.2


@dataclass(frozen=True)
class Logits:
    """Scores of one batch.

    Attributes
    ----------
    members : list of float32 tensors, shape (n, leaves)
        Of each title member, by the title alone.
    mall : float32 tensor, shape (n, leaves), or None
        By the mall path alone; 0 where there is none.
    """

    members: list[torch.Tensor]
    mall: torch.Tensor | None


class TextCNN(torch.nn.Module):
    """The network of one classifier.

    Parameters
    ----------
    shape : TextCNNShape
        Sizes.
    dropout : Dropout, optional
        Used in training only.
    vectors : float32 array, shape (vocab_size, dim), optional
        Start of the token embedding (skip-gram); random where it is None.
    gram_scale : float32 array, shape (gram_buckets,), optional
        Factor of each bucket (inverse document frequency).
    pad_id : int
        Its embedding stays zero.
    """

    def __init__(
        self,
        shape: TextCNNShape,
        dropout: Dropout | None = None,
        *,
        vectors: npt.NDArray[np.float32] | None = None,
        gram_scale: npt.NDArray[np.float32] | None = None,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.dropout, self.pad_id = shape, dropout or Dropout(), pad_id
        start = torch.randn(shape.vocab_size, shape.dim) * 0.1 if vectors is None else torch.from_numpy(vectors).clone()
        start[pad_id] = 0
        self.embedding = RowTable(start)
        self.title_convs = self._convs(shape.title_widths, shape.title_filters)
        self.mall_convs = self._convs(shape.mall_widths, shape.mall_filters)
        self.bag, self.bag_bias = None, None
        if shape.gram_buckets:
            scale = None if gram_scale is None else torch.from_numpy(gram_scale)[:, None]
            self.bag = RowTable(torch.randn(shape.gram_buckets, shape.gram_dim) * 0.05, row_scale=scale)
            self.bag_bias = torch.nn.Parameter(torch.full((shape.gram_dim,), 0.1))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(n, shape.num_leaves) for n in shape.member_features)
        for head in self.heads:
            torch.nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        # no bias: a missing mall path adds nothing
        self.mall_head = torch.nn.Linear(shape.mall_features, shape.num_leaves, False) if shape.mall_features else None

    def _convs(self, widths: tuple[int, ...], filters: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({str(w): torch.nn.Conv1d(self.shape.dim, filters, w) for w in sorted(widths)})

    def tables(self) -> list[RowTable]:
        """Return the tables that `RowTable.step` updates; all other weights are ordinary parameters."""
        return [self.embedding] if self.bag is None else [self.embedding, self.bag]

    def forward(self, batch: TitleBatch) -> Logits:
        """Return the logits of a batch."""
        drop = self.dropout
        # a pad token written in a title reads as zeros too; its row keeps a zero gradient
        rows = self.embedding.gather(batch.token_rows) * (batch.token_rows != self.pad_id)[:, None]
        # row 0 of `tokens` is the zero vector that padding reads
        tokens = torch.cat([rows.new_zeros(1, self.shape.dim), rows])
        features: list[torch.Tensor] = []
        if self.title_convs:
            token_dropout = drop.tokens if self.training else 0.0
            maxima = [
                max_over_time(tokens, batch.title, batch.title_lengths, conv, token_dropout)
                for conv in convolutions(self.title_convs)
            ]
            features.append(torch.cat(maxima, 1))
        if self.bag is not None and self.bag_bias is not None:
            features += self._bags(batch, self.bag.gather(batch.gram_rows), self.bag_bias)
        members = [
            head(F.dropout(part, drop.features, self.training)) for head, part in zip(self.heads, features, strict=True)
        ]
        if self.mall_head is None:
            return Logits(members, None)
        maxima = [
            max_over_time(tokens, batch.mall, batch.mall_lengths, conv, 0.0) for conv in convolutions(self.mall_convs)
        ]
        return Logits(members, self.mall_head(F.dropout(torch.cat(maxima, 1), drop.features, self.training)))

    def _bags(self, batch: TitleBatch, rows: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of each group; in training every group reads its own random part of the n-grams."""
        share = self.dropout.grams if self.training else 0.0
        width = self.shape.gram_dim // self.shape.gram_groups
        groups = []
        for start in range(0, self.shape.gram_dim, width):
            columns = rows[:, start : start + width].contiguous()
            kept = None
            if share:
                kept = (torch.rand(len(batch.grams), device=rows.device) >= share) / (1 - share)
            total = F.embedding_bag(batch.grams, columns, batch.gram_offsets, mode="sum", per_sample_weights=kept)
            groups.append(F.relu(total * batch.gram_scales[:, None] + bias[start : start + width]))
        return groups


def convolutions(branch: torch.nn.ModuleDict) -> list[torch.nn.Conv1d]:
    """Return the convolutions of a branch by ascending width."""
    return [conv for conv in branch.values() if isinstance(conv, torch.nn.Conv1d)]


def max_over_time(
    tokens: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor, conv: torch.nn.Conv1d, token_dropout: float
) -> torch.Tensor:
    """Return relu(max over the windows that start at real tokens + bias), exactly 0 for rows without a token.

    Parameters
    ----------
    tokens : float32 tensor, shape (unique + 1, dim)
        Vectors; row 0 is zero.
    ids : int64 tensor, shape (n, longest)
        Rows of `tokens`, 0 behind the last token.
    lengths : int64 tensor, shape (n,)
        Number of tokens.
    conv : Conv1d
        Its bias is added after the maximum, which is the same and cheaper.
    token_dropout : float
        Share of tokens that read as padding (whose windows still count).
    """
    num_rows, longest = ids.shape
    if longest == 0:
        return tokens.new_zeros((num_rows, conv.out_channels))
    vectors = F.pad(tokens[ids], (0, 0, 0, conv.kernel_size[0] - 1))
    if token_dropout:
        keep = torch.rand(vectors.shape[:2], device=vectors.device) >= token_dropout
        vectors = vectors * keep[:, :, None]
    windows = F.conv1d(vectors.transpose(1, 2), conv.weight)
    padding = torch.arange(longest, device=ids.device)[None, :] >= lengths[:, None]
    highest = windows.masked_fill(padding[:, None, :], -math.inf).amax(2)
    assert conv.bias is not None
    return torch.where(lengths[:, None] > 0, F.relu(highest + conv.bias), 0.0)


def export_tensors(
    model: TextCNN, part_weights: npt.NDArray[np.float64], *, log_prior: npt.NDArray[np.float64] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the served tensors by name, with weights and re-applied prior folded into the head.

    Parameters
    ----------
    model : TextCNN
        Trained.
    part_weights : float array, shape (parts,)
        Factor of the logits of each of `shape.parts`; the bag's is that of the mean of its groups.
    log_prior : float array, shape (num_leaves,), optional
        Added to the logits as it is.

    Returns
    -------
    dict of str to float32 array
        ``embedding.weight``, ``title.conv{w}.weight``/``.bias``, ``title.bag.weight``/``.bias``, ``mall.conv{w}.*``,
        ``head.*``.
    """

    def array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)

    tensors = {"embedding.weight": array(model.embedding.weight)}
    for branch, convs in (("title", model.title_convs), ("mall", model.mall_convs)):
        for conv in convolutions(convs):
            name = f"{branch}.conv{conv.kernel_size[0]}"
            tensors[f"{name}.weight"] = array(conv.weight)
            if conv.bias is not None:
                tensors[f"{name}.bias"] = array(conv.bias)
    if model.bag is not None and model.bag_bias is not None:
        tensors["title.bag.weight"] = array(model.bag.weight)
        tensors["title.bag.bias"] = array(model.bag_bias)
    heads = [head for head in [*model.heads, model.mall_head] if isinstance(head, torch.nn.Linear)]
    weights: list[float] = []
    for name, weight in zip(model.shape.parts, part_weights, strict=True):
        groups = model.shape.gram_groups if name == "bag" else 1
        weights += [float(weight) / groups] * groups
    bias = np.zeros(model.shape.num_leaves) if log_prior is None else log_prior.copy()
    columns = []
    for head, weight in zip(heads, weights, strict=True):
        columns.append(array(head.weight) * weight)
        if head.bias is not None:
            bias += weight * array(head.bias).astype(np.float64)
    tensors["head.weight"] = np.ascontiguousarray(np.concatenate(columns, 1), dtype=np.float32)
    tensors["head.bias"] = bias.astype(np.float32)
    return tensors
