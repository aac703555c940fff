"""The text classifier as a torch module: token CNN and character n-gram bag over the title, CNN over the mall path.

The same mathematics runs natively (`csrc/textcnn`) and in ONNX Runtime (`training.onnx_graph`); `export_tensors` gives
both their weights. Token CNN: Kim 2014, windows start at every real token and read zeros past the end, so a result does
not depend on the padded width. Bag of hashed character n-grams: fastText (Joulin et al. 2016) with 1/sqrt(count) and a
relu. Each modality has a head of its own beside the joint head (multi-task); only the joint head is served.
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
    """Sizes of the network; branches with no width, no bucket or no filter are left out."""

    vocab_size: int
    num_leaves: int
    dim: int = 128
    title_widths: tuple[int, ...] = (2, 3, 4, 5)
    title_filters: int = 128
    gram_buckets: int = 131_072
    gram_dim: int = 64
    mall_widths: tuple[int, ...] = (1, 2, 3)
    mall_filters: int = 64
    fc_dim: int = 0

    @property
    def title_features(self) -> int:
        """Width of the title's part of the joint feature vector."""
        return len(self.title_widths) * self.title_filters + (self.gram_dim if self.gram_buckets else 0)

    @property
    def mall_features(self) -> int:
        """Width of the mall path's part of the joint feature vector."""
        return len(self.mall_widths) * self.mall_filters


@dataclass(frozen=True)
class Dropout:
    """Shares of what is dropped in training."""

    features: float = 0.3
    grams: float = 0.2
    tokens: float = 0.1
    mall: float = 0.2


@dataclass(frozen=True)
class Logits:
    """Scores of one batch; the heads of single modalities are None where the network has only one."""

    joint: torch.Tensor
    title: torch.Tensor | None
    bag: torch.Tensor | None
    mall: torch.Tensor | None


class TextCNN(torch.nn.Module):
    """The network of one classifier.

    Parameters
    ----------
    shape : TextCNNShape
    dropout : Dropout
    vectors : float32 array, shape (vocab_size, dim), optional
        Start of the token embedding (skip-gram); random where it is None.
    pad_id : int
        Its embedding stays zero.
    """

    def __init__(
        self,
        shape: TextCNNShape,
        dropout: Dropout | None = None,
        *,
        vectors: npt.NDArray[np.float32] | None = None,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.dropout, self.pad_id = shape, dropout or Dropout(), pad_id
        start = torch.randn(shape.vocab_size, shape.dim) * 0.1 if vectors is None else torch.from_numpy(vectors).clone()
        start[pad_id] = 0
        self.embedding = RowTable(start)
        self.title_convs = self._convs(shape.title_widths, shape.title_filters)
        self.mall_convs = self._convs(shape.mall_widths, shape.mall_filters)
        self.bag = RowTable(torch.randn(shape.gram_buckets, shape.gram_dim) * 0.05) if shape.gram_buckets else None
        self.bag_bias = torch.nn.Parameter(torch.full((shape.gram_dim,), 0.1)) if shape.gram_buckets else None
        joint = shape.title_features + shape.mall_features
        self.fc = torch.nn.Linear(joint, shape.fc_dim) if shape.fc_dim else None
        self.head = torch.nn.Linear(shape.fc_dim or joint, shape.num_leaves)
        torch.nn.init.zeros_(self.head.bias)
        # the heads of single modalities read the same features; with one branch the joint head is that head
        has_mall, has_bag, has_convs = bool(shape.mall_features), self.bag is not None, bool(shape.title_widths)
        self.title_head = torch.nn.Linear(shape.title_features, shape.num_leaves) if has_mall else None
        self.mall_head = torch.nn.Linear(shape.mall_features, shape.num_leaves) if has_mall else None
        self.bag_head = torch.nn.Linear(shape.gram_dim, shape.num_leaves) if has_bag and has_convs else None

    def _convs(self, widths: tuple[int, ...], filters: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({str(w): torch.nn.Conv1d(self.shape.dim, filters, w) for w in widths})

    def tables(self) -> list[RowTable]:
        """Return the tables that `RowTable.step` updates; all other weights are ordinary parameters."""
        return [self.embedding] if self.bag is None else [self.embedding, self.bag]

    def forward(self, batch: TitleBatch) -> Logits:
        """Return the logits of a batch (leaves, unscaled)."""
        drop = self.dropout
        # row 0 of `tokens` is the zero vector that padding reads
        # a pad token written in a title reads as zeros too; its row keeps a zero gradient
        rows = self.embedding.gather(batch.token_rows) * (batch.token_rows != self.pad_id)[:, None]
        tokens = torch.cat([rows.new_zeros(1, self.shape.dim), rows])
        title = [
            max_over_time(tokens, batch.title, batch.title_lengths, conv, drop.tokens if self.training else 0.0)
            for conv in convolutions(self.title_convs)
        ]
        bag = None
        if self.bag is not None and self.bag_bias is not None:
            grams = self.bag.gather(batch.gram_rows)
            total = F.embedding_bag(
                batch.grams, grams, batch.gram_offsets, mode="sum", per_sample_weights=batch.gram_weights
            )
            bag = F.relu(total * batch.gram_scales[:, None] + self.bag_bias)
            title.append(bag)
        mall = [
            max_over_time(tokens, batch.mall, batch.mall_lengths, conv, 0.0) for conv in convolutions(self.mall_convs)
        ]
        title_features = F.dropout(torch.cat(title, 1), drop.features, self.training)
        features, mall_features = title_features, None
        if mall:
            mall_features = F.dropout(torch.cat(mall, 1), drop.features, self.training)
            features = torch.cat([title_features, mall_features], 1)
        hidden = features if self.fc is None else F.relu(self.fc(features))
        joint = self.head(hidden)
        return Logits(
            joint,
            self.title_head(title_features) if self.title_head else None,
            self.bag_head(F.dropout(bag, drop.features))
            if self.training and self.bag_head and bag is not None
            else None,
            self.mall_head(mall_features) if self.mall_head else None,
        )


def convolutions(branch: torch.nn.ModuleDict) -> list[torch.nn.Conv1d]:
    """Return the convolutions of a branch by ascending width."""
    found = [conv for conv in branch.values() if isinstance(conv, torch.nn.Conv1d)]
    return sorted(found, key=lambda conv: conv.kernel_size)


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
    model: TextCNN, *, temperature: float = 1.0, log_prior: npt.NDArray[np.float64] | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the served tensors by name, with temperature and re-applied prior folded into the head.

    Parameters
    ----------
    model : TextCNN
        Trained.
    temperature : float > 0
        Logits are divided by it.
    log_prior : float array, shape (num_leaves,), optional
        Added to the logits before the division (the prior that logit adjustment took out, times its strength).

    Returns
    -------
    dict of str to float32 array
        ``embedding.weight``, ``title.conv{w}.weight``/``.bias``, ``title.bag.weight``/``.bias``, ``mall.conv{w}.*``,
        ``fc.*``, ``head.*``; the heads of single modalities as ``aux.title_head.*`` and ``aux.mall_head.*``.
    """

    def array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)

    tensors = {"embedding.weight": array(model.embedding.weight)}
    tensors["embedding.weight"][model.pad_id] = 0
    for branch, convs in (("title", model.title_convs), ("mall", model.mall_convs)):
        for conv in convolutions(convs):
            name = f"{branch}.conv{conv.kernel_size[0]}"
            tensors[f"{name}.weight"] = array(conv.weight)
            if conv.bias is not None:
                tensors[f"{name}.bias"] = array(conv.bias)
    if model.bag is not None and model.bag_bias is not None:
        tensors["title.bag.weight"] = array(model.bag.weight)
        tensors["title.bag.bias"] = array(model.bag_bias)
    if model.fc is not None:
        tensors["fc.weight"], tensors["fc.bias"] = array(model.fc.weight), array(model.fc.bias)
    bias = model.head.bias.detach().cpu().numpy().astype(np.float64)
    shift = 0.0 if log_prior is None else log_prior
    tensors["head.weight"] = array(model.head.weight / temperature)
    tensors["head.bias"] = ((bias + shift) / temperature).astype(np.float32)
    for name, head in (("title_head", model.title_head), ("mall_head", model.mall_head)):
        if head is not None:
            tensors[f"aux.{name}.weight"], tensors[f"aux.{name}.bias"] = array(head.weight), array(head.bias)
    return tensors
