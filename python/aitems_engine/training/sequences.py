"""Transformers over histories, and histories as packed batches: what SASRec and BERT4Rec share.

A batch is one stream of tokens, history after history, without padding: short histories cost what they are long, and
nothing loops over rows. Attention works on windows of the stream: a history is no longer than a window, so a token
finds all of its history in its own window and the neighbouring ones; other histories in them are masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.errors import InvalidInputError, ModelMismatchError, TrainingError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Retriever
from aitems_engine.training.epochs import descend, fingerprint, pick_device, run_epochs, torch_threads

NORM_EPSILON = 1e-6
VALIDATION_K = 10


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
    epochs: int = 40
    patience: int = 5
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


@dataclass(frozen=True)
class SequenceEpoch:
    """One epoch: mean training loss; on the validation items NDCG@10 and recall@10 over the whole catalogue."""

    epoch: int
    loss: float
    ndcg: float | None = None
    recall: float | None = None
    seconds: float = 0.0


Found = TypeVar("Found", bound=Retriever)


@dataclass(frozen=True, eq=False)
class Fitted(Generic[Found]):
    """What training gives.

    Attributes
    ----------
    retriever, model
        Of the best epoch.
    history : list of SequenceEpoch
    refitted : int
        Epochs of the training on everything that followed; 0 = none.
    """

    retriever: Found
    model: Transformer
    history: list[SequenceEpoch]
    refitted: int = 0


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


class Pieces:
    """Histories as steps of training: each cut, from the newest item back, into pieces of `longest` items at most.

    With `ahead` 1 what is to be said at an item is the one after it, so the newest item of a history is only a target;
    with 0 it is the item itself.
    """

    def __init__(self, x: Interactions, longest: int, *, ahead: int = 1) -> None:
        lengths = np.diff(x.splits)
        lengths = np.where(lengths >= 2, lengths - ahead, 0)
        if not lengths.any():
            raise TrainingError(
                f"none of {len(x)} users has two items left to learn from ({len(x.items)} interactions); "
                "give more events, or fewer users for validation"
            )
        count = -(-lengths // longest)
        user = np.repeat(np.arange(len(x)), count)
        back = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
        stop = x.splits[:-1][user] + lengths[user] - back * longest
        self._start = np.maximum(x.splits[:-1][user], stop - longest)
        self._length = stop - self._start
        self._ahead = ahead
        self._items = x.items.astype(np.int64)
        self.frequency = torch.from_numpy(np.bincount(x.items, minlength=x.num_items) / len(x.items)).float()

    def epoch(self, tokens: int, generator: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """Return the pieces in random order, in steps of about so many items."""
        order = generator.permutation(len(self._start))
        total = np.cumsum(self._length[order])
        count = max(1, round(int(total[-1]) / tokens))
        cuts = np.searchsorted(total, np.arange(1, count) * (int(total[-1]) / count))
        return [step for step in np.split(order, cuts) if len(step)]

    def stream(self, pieces: npt.NDArray[np.int64]) -> Stream:
        """Return the items of some pieces."""
        length = self._length[pieces]
        history = np.repeat(np.arange(len(pieces)), length)
        place = np.arange(len(history)) - np.repeat(np.cumsum(length) - length, length)
        at = self._start[pieces][history] + place
        return Stream(self._items[at], self._items[at + self._ahead], history, place)


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


def fit_transformer(
    interactions: Interactions,
    settings: TransformerSettings,
    build: Callable[[], Transformer],
    step_loss: Callable[[Transformer, Pieces, npt.NDArray[np.int64], np.random.Generator], tuple[torch.Tensor, int]],
    export: Callable[[Transformer], Found],
    *,
    ahead: int = 1,
    validation: tuple[Interactions, Interactions] | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Fitted[Found]:
    """Train a network.

    Parameters
    ----------
    interactions : Interactions
        What may be learnt from; its catalogue is that of the retriever, so that it may hold items nobody touched.
    settings : TransformerSettings
    build : callable
        Returns the untrained network.
    step_loss : callable
        Returns the mean loss of some pieces and how many targets they have.
    export : callable
        Returns the retriever of a network.
    ahead : int
        See `Pieces`.
    validation : pair of Interactions, optional
        Histories and what they should find, to stop by, instead of items carved out of `interactions`; nothing is
        refitted then.
    checkpoint : path, optional
        File written after each epoch; where it is there already, training goes on from it. That of a refit stands
        beside it, with `.refit` added to the name.
    stop_after : int, optional
        Stop after that many epochs of the schedule (to go on later from the checkpoint).
    on_step : callable, optional
        Called with (epoch, batches of an epoch, loss) after each batch.

    Raises
    ------
    TrainingError
        No user with two items, or the loss is no number any more.
    ModelMismatchError
        The checkpoint is of other data or settings.
    """
    if validation is None:
        train, asked, wanted = hold_out(interactions, settings.validation, settings.seed)
    else:
        train, (asked, wanted) = interactions, validation
    pieces = Pieces(train, settings.longest, ahead=ahead)
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        generator = np.random.default_rng(settings.seed)
        device = pick_device(settings.device)
        model = build().to(device)
        pieces.frequency = pieces.frequency.to(device)
        mark = fingerprint(train, settings)
        model.register_buffer("made_from", mark.clone().to(device))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

        def check() -> None:
            if not torch.equal(model.get_buffer("made_from").cpu(), mark):
                raise ModelMismatchError(
                    f"checkpoint {checkpoint} was written with other events or settings; delete it to start anew, or "
                    "give what it was written with"
                )

        def train_epoch(epoch: int) -> SequenceEpoch:
            model.train()
            total = count = 0.0
            steps = pieces.epoch(settings.tokens, generator)
            for number, rows in enumerate(steps):
                loss, targets = step_loss(model, pieces, rows, generator)
                value = descend(loss, optimizer, (), settings, epoch, number, len(steps))
                total += value * targets
                count += targets
                if on_step is not None:
                    on_step(epoch, len(steps), value)
            if not len(asked):
                return SequenceEpoch(epoch, total / count)
            found = evaluate_ranking(export(model.eval()), asked, wanted, (VALIDATION_K,)).means()
            return SequenceEpoch(epoch, total / count, found[f"ndcg@{VALIDATION_K}"], found[f"recall@{VALIDATION_K}"])

        history = run_epochs(
            train_epoch,
            best_epoch,
            SequenceEpoch,
            model,
            optimizer,
            generator,
            settings,
            checkpoint=checkpoint,
            stop_after=stop_after,
            check=check,
        )
        fitted = Fitted(export(model.eval()), model, history)
    if not settings.refit or validation is not None or not len(asked):
        return fitted
    again = fit_transformer(
        interactions,
        replace(settings, validation=0, refit=False),
        build,
        step_loss,
        export,
        ahead=ahead,
        checkpoint=checkpoint and checkpoint.with_name(checkpoint.name + ".refit"),
        stop_after=best_epoch(history),
        on_step=on_step,
    )
    return Fitted(again.retriever, again.model, history, len(again.history))


def best_epoch(history: list[SequenceEpoch]) -> int:
    """Return the epoch with the highest validation NDCG, the last where none was measured; 0 for none."""
    measured = [record.ndcg for record in history if record.ndcg is not None]
    return 1 + int(np.argmax(measured)) if measured else len(history)


def hold_out(x: Interactions, users: int, seed: int) -> tuple[Interactions, Interactions, Interactions]:
    """Return what is learnt from, and of the users that are asked about what is known and what they should find.

    These are so many users with three interactions or more, half of them at most; the newest item is to be found.
    """
    lengths = np.diff(x.splits)
    able = np.flatnonzero(lengths >= 3)
    asked = np.sort(np.random.default_rng(seed).choice(able, min(users, len(able) // 2), replace=False))
    newest = np.zeros(len(x.items), bool)
    newest[x.splits[1:][asked] - 1] = True
    train = x.where(~newest)
    return train, train.take(asked), x.where(newest).take(asked)


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
