"""Transformers over histories packed into one stream, without padding: the network of SASRec and BERT4Rec.

Short histories cost what they are long, and nothing loops over rows. Attention works on windows of the stream: a
history is no longer than a window, so a token finds all of its history in its own window and the neighbouring ones;
other histories in them are masked. Slow twin: tests/reference/slow_sequences.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.errors import InvalidInputError

NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes of a transformer over histories, and how it is trained.

    Attributes
    ----------
    dim : int
        Of the vectors, a multiple of `heads`.
    blocks, heads : int
    longest : int
        So many items of a history are seen at most, the newest ones; longer ones are learnt from in pieces.
    dropout : float
        Of the vectors that go in and of what each block adds.
    temperature : float
        More than 0: items have vectors of length 1, and the cosine is divided by it in the loss, so that popular items
        have no longer vectors than others; 0: plain inner products.
    tokens : int
        Items of the histories of a step, about.
    bfloat16 : bool
        Full cross entropy multiplies in bfloat16: three times as fast where the processor has AMX.
    validation : int
        So many users, half of them at most, give their newest item to stop by. 0 = none, all epochs run.
    refit : bool
        When the best number of epochs is known, train anew on everything for as many.
    epochs : int
        Length of the learning-rate schedule; the most epochs that run.
    patience : int
        Epochs without a higher NDCG@10 after which training stops.
    learning_rate, weight_decay, warmup_share : float
        Of AdamW; the rate falls linearly after the warm-up.
    seed, threads
        Results are equal for equal data, settings, seed and threads on one machine; threads 0 = as torch is set.
    device : str
        As torch names it; empty = the first GPU, or the CPU.
    """

    dim: int = 64
    blocks: int = 2
    heads: int = 2
    longest: int = 50
    dropout: float = 0.5
    temperature: float = 0.0
    tokens: int = 1024
    bfloat16: bool = False
    validation: int = 5000
    refit: bool = False
    epochs: int = 60
    patience: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup_share: float = 0.05
    seed: int = 0
    threads: int = 0
    device: str = ""

    @property
    def table_learning_rate(self) -> float:
        """Of tables with steps of their own (`epochs.Schedule`); there are none."""
        return 0.0


def check_settings(settings: TransformerSettings) -> None:
    """Raise `InvalidInputError` for the first setting that is out of range."""
    whole = ("dim", "blocks", "heads", "longest", "tokens", "epochs", "patience")
    wrong = [name for name in whole if getattr(settings, name) < 1]
    wrong += [name for name in ("validation", "weight_decay", "temperature") if not getattr(settings, name) >= 0]
    wrong += ["learning_rate"] * (not settings.learning_rate > 0) + ["dropout"] * (not 0 <= settings.dropout < 1)
    if wrong:
        raise InvalidInputError(
            f"{wrong[0]} is out of range, got {getattr(settings, wrong[0])}; see {type(settings).__name__}"
        )
    if settings.dim % settings.heads:
        raise InvalidInputError(f"dim must be a multiple of heads, got {settings.dim} and {settings.heads}")


@dataclass(frozen=True, eq=False)
class Stream:
    """Histories one after another.

    Attributes
    ----------
    items : int64 array, shape (n,)
        Rows in the table of items.
    targets : int64 array, shape (n,)
        What is to be said at each.
    history : int64 array, shape (n,)
        Not falling; tokens see tokens of the same number alone.
    place : int64 array, shape (n,)
        In the history, from 0.
    """

    items: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]


class Block(torch.nn.Module):
    """Attention and a layer of width 4 dim, each on the normalised input and added to it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = torch.nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.attention = torch.nn.Linear(dim, 3 * dim)
        self.mix = torch.nn.Linear(dim, dim)
        self.norm2 = torch.nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.wide = torch.nn.Linear(dim, 4 * dim)
        self.narrow = torch.nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 (windows, C, dim); `hidden` (windows, C, m C) are the keys of m windows that are not seen."""
        windows, size, dim = x.shape
        q, k, v = (
            part.view(windows, size, self.heads, -1).transpose(1, 2)
            for part in self.attention(self.norm1(x)).chunk(3, -1)
        )
        k, v = (neighbours(part, hidden.shape[2] // size) for part in (k, v))
        weights = (q @ k.transpose(2, 3)).mul_(1 / math.sqrt(q.shape[-1])).masked_fill_(hidden[:, None], -torch.inf)
        weights = torch.softmax(weights, -1)
        x = x + self._drop(self.mix((weights @ v).transpose(1, 2).reshape(windows, size, dim)))
        return x + self._drop(self.narrow(F.gelu(self.wide(self.norm2(x)))))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training)


def neighbours(x: torch.Tensor, count: int) -> torch.Tensor:
    """Return (windows, heads, count C, width): the window before, the own one and, of three, the one after."""
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1 if count == 3 else 0))
    return torch.cat([padded[i : i + len(x)] for i in range(count)], 2)


class Transformer(torch.nn.Module):
    """Vectors of items and places, blocks over them.

    Parameters
    ----------
    num_items : int
    shape : TransformerSettings
    causal : bool
        A token sees those before it alone; False: those after it as well.
    extra : int
        Rows of the table beyond the items.
    """

    def __init__(self, num_items: int, shape: TransformerSettings, *, causal: bool, extra: int = 0) -> None:
        super().__init__()
        self.num_items, self.extra, self.longest, self.causal = num_items, extra, shape.longest, causal
        self.heads, self.dropout, self.temperature = shape.heads, shape.dropout, shape.temperature
        self.items = torch.nn.Parameter(torch.randn(num_items + extra, shape.dim) / math.sqrt(shape.dim))
        self.places = torch.nn.Parameter(torch.randn(shape.longest, shape.dim) / math.sqrt(shape.dim))
        self.blocks = torch.nn.ModuleList(Block(shape.dim, shape.heads, shape.dropout) for _ in range(shape.blocks))
        self.norm = torch.nn.LayerNorm(shape.dim, eps=NORM_EPSILON)

    def table(self) -> torch.Tensor:
        """Return the vectors of items as they go in and as they are ranked, float32 (num_items + extra, dim)."""
        return F.normalize(self.items, dim=1) if self.temperature else self.items

    def logits(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors of queries and of items whose inner products are logits; queries are from `forward`."""
        if self.temperature:
            queries = F.normalize(queries, dim=1) / self.temperature
        return queries, self.table()[: self.num_items]

    def forward(self, stream: Stream, kept: npt.NDArray[np.bool_] | None = None) -> torch.Tensor:
        """Return what the blocks say at each token, float32 (n, dim).

        Parameters
        ----------
        stream : Stream
            No history longer than `longest`.
        kept : bool array, shape (n, 1), optional
            False where a token's item is left out.
        """
        device = self.items.device
        items, history, place = (
            torch.from_numpy(values).to(device) for values in (stream.items, stream.history, stream.place)
        )
        size, n = self.longest, len(items)
        x = F.embedding(items, self.table())
        if kept is not None:
            x = x * torch.from_numpy(kept).to(device)
        x = F.dropout(x + F.embedding(place, self.places), self.dropout, self.training)
        windows = -(-n // size)
        x = F.pad(x, (0, 0, 0, windows * size - n)).view(windows, size, -1)
        hidden = self._hidden(history, windows)
        for block in self.blocks:
            x = block(x, hidden)
        out: torch.Tensor = self.norm(x.view(windows * size, -1)[:n])
        return out

    def _hidden(self, history: torch.Tensor, windows: int) -> torch.Tensor:
        """Return the keys that are not seen, bool (windows, C, 2 C), or 3 C with those after."""
        size, count = self.longest, 2 if self.causal else 3
        own = F.pad(history, (0, windows * size - len(history)), value=-2).view(windows, size)
        padded = F.pad(own, (0, 0, 1, 1), value=-1)
        keys = torch.cat([padded[i : i + windows] for i in range(count)], 1)
        hidden = own[:, :, None] != keys[:, None, :]
        if self.causal:
            at = torch.arange(count * size, device=own.device)
            hidden |= at > at[size:, None]
        return hidden
