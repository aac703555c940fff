"""The two towers' network and training loop: histories in, a `TwoTower` retriever out.

A step takes some users' items as targets. The user tower sees the user's other items (or those before), the item tower
the targets and items drawn uniformly (mixed negatives, Yang et al., WWW 2020 companion). The loss is a softmax over
these columns; a column that is drawn more often than once a step by expectation would count too much, so the logarithm
of the expected draws is subtracted (logQ, Bengio & Senecal 2008; Yi et al., RecSys 2019), and with it the loss
estimates that of a softmax over the whole catalogue (the column of the target itself is certain, so nothing is
subtracted there). Other known items of a user are no negatives ("accidental hits").

Knows nothing of files but its checkpoint. Slow twin of the loss: tests/reference/slow_two_tower.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import InvalidInputError, ModelMismatchError, TrainingError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import Interactions
from aitems_engine.retrieval import TwoTower
from aitems_engine.retrieval.two_tower import LENGTH_MIN
from aitems_engine.training.epochs import descend, fingerprint, pick_device, run_epochs, torch_threads
from aitems_engine.training.losses import sampled_softmax_loss
from aitems_engine.training.row_table import RowTable

VALIDATION_K = 20
VALIDATION_SHARE = 0.1
_START = 0.1


@dataclass(frozen=True)
class TwoTowerSettings:
    """Sizes of the towers, and how they are trained.

    Attributes
    ----------
    dim : int
        Of the vectors.
    hidden : tuple of int
        Hidden layers of the user tower; without any it is the weighted mean alone.
    decay : float in (0, 1]
        What one step away from the target costs in the history.
    past_only : bool
        A target is predicted from the items before it; False: from all other items of the user.
    longest : int
        A target sees so many items of the history at most, the nearest ones.
    temperature : float
        The cosine is divided by it in the loss.
    logq : float from 0 to 1
        Share of log(expected draws) that is subtracted; 0 = the plain in-batch softmax, which holds popular items down.
    users, targets : int
        Users of a step, and targets of each.
    uniform : int
        Items drawn uniformly beside the targets of a step.
    id_dropout : float
        Share of the items whose id is left out, where there are attributes: so that these learn to stand alone.
    validation : int
        So many users, half of them at most, give a tenth of their history (one item at least) to stop by: the newest
        items where their order is known, else random ones. 0 = none, all epochs run.
    epochs : int
        Length of the learning-rate schedule; the most epochs that run.
    patience : int
        Epochs without a higher recall after which training stops.
    table_learning_rate, learning_rate : float
        Highest rates of the vectors (Adagrad) and of the hidden layers (AdamW).
    seed, threads
        Results are equal for equal data, settings, seed and threads on one machine; threads 0 = as torch is set.
    device : str
        As torch names it; empty = the first GPU, or the CPU.
    """

    dim: int = 64
    hidden: tuple[int, ...] = ()
    decay: float = 1.0
    past_only: bool = False
    longest: int = 100
    temperature: float = 0.07
    logq: float = 1.0
    users: int = 512
    targets: int = 4
    uniform: int = 2048
    id_dropout: float = 0.1
    validation: int = 2000
    epochs: int = 20
    patience: int = 3
    table_learning_rate: float = 0.2
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    seed: int = 0
    threads: int = 0
    device: str = ""


@dataclass(frozen=True)
class TwoTowerEpoch:
    """One epoch: mean training loss; on the validation items recall@20 over the whole catalogue."""

    epoch: int
    loss: float
    recall: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class TwoTowerTraining:
    """What training gives: the retriever and network of the best epoch, and the record of all epochs."""

    retriever: TwoTower
    model: TwoTowers
    history: list[TwoTowerEpoch]


class TwoTowers(torch.nn.Module):
    """Both towers; what they return has length 1. They share the vectors of items.

    An item is the vector of its id, where it was ever touched, plus those of its attributes.

    Parameters
    ----------
    known : float32 tensor, shape (num_items, 1)
        1 where the id means something, else 0.
    codes : int64 tensor, shape (num_items, F)
        Rows in the tables of attributes.
    settings : TwoTowerSettings
    """

    known: torch.Tensor
    codes: torch.Tensor

    def __init__(self, known: torch.Tensor, codes: torch.Tensor, settings: TwoTowerSettings) -> None:
        super().__init__()
        self.register_buffer("known", known)
        self.register_buffer("codes", codes)
        rows, dim = int(codes.max()) + 1 if codes.numel() else 0, settings.dim
        self.ids, self.attributes = (RowTable(torch.randn(n, dim) * _START) for n in (len(known), rows))
        sizes = (dim, *settings.hidden, dim) if settings.hidden else ()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def linears(self) -> list[torch.nn.Linear]:
        """Return the hidden layers of the user tower in order."""
        return [layer for layer in self.layers if isinstance(layer, torch.nn.Linear)]

    def tables(self) -> list[RowTable]:
        """Return the tables that `RowTable.step` updates; all other weights are ordinary parameters."""
        return [self.ids, self.attributes]

    def items(self, items: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors of distinct items (int64), float32 (n, dim); `kept` (n, 1) is 0 to leave the id out.

        With length 1 they are what the item tower says; the user tower takes them as they are.
        """
        vectors = self.ids.gather(items) * (self.known[items] if kept is None else self.known[items] * kept)
        if not self.codes.shape[1]:
            return vectors
        rows, place = torch.unique(self.codes[items], return_inverse=True)
        return vectors + F.embedding(place, self.attributes.gather(rows)).sum(1)

    def user_tower(self, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the vectors of histories.

        Parameters
        ----------
        vectors : float32 tensor, shape (n, L, dim)
            Of the items of a history, by `items`.
        weights : float32 tensor, shape (n, T, L)
            Of each item for each of T targets; all 0 gives the vector 0.

        Returns
        -------
        float32 tensor, shape (n, T, dim)
        """
        mean = (weights @ vectors) / weights.sum(-1, keepdim=True).clamp(min=LENGTH_MIN)
        x = mean
        for place, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if place < len(self.layers):
                x = F.relu(x)
        return normalize(mean + x if self.layers else mean)


def normalize(vectors: torch.Tensor) -> torch.Tensor:
    """Return the vectors with length 1, as `retrieval.two_tower.normalised` does."""
    return F.normalize(vectors, dim=-1, eps=LENGTH_MIN)


def fit_two_tower(
    interactions: Interactions,
    settings: TwoTowerSettings | None = None,
    *,
    items: ItemTable | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> TwoTowerTraining:
    """Train both towers.

    Parameters
    ----------
    interactions : Interactions
        What may be learnt from; its catalogue is that of the retriever, so that it may hold items nobody touched.
    settings : TwoTowerSettings, optional
    items : ItemTable, optional
        Attributes of the items, by `codes`; items that it lacks have none.
    checkpoint : path, optional
        File written after each epoch; where it is there already, training goes on from it.
    stop_after : int, optional
        Stop after that many epochs of the schedule (to go on later from the checkpoint).
    on_step : callable, optional
        Called with (epoch, batches of an epoch, loss) after each batch.

    Raises
    ------
    InvalidInputError
        Settings out of range.
    TrainingError
        No user with two items, or the loss is no number any more.
    ModelMismatchError
        The checkpoint is of other data or settings.
    """
    settings = settings or TwoTowerSettings()
    _check_settings(settings)
    train, asked, wanted = _carve(interactions, settings)
    batches = _Batches(train, settings)
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        generator = np.random.default_rng(settings.seed)
        device = pick_device(settings.device)
        codes = _attribute_codes(items, interactions.item_ids)
        known = torch.from_numpy(batches.frequency > 0).float()[:, None]
        model = TwoTowers(known, torch.from_numpy(codes), settings).to(device)
        mark = fingerprint(train, settings, codes)
        model.register_buffer("made_from", mark.clone().to(device))
        optimizer = torch.optim.AdamW([{"params": list(model.parameters())}], lr=settings.learning_rate)

        def check() -> None:
            if not torch.equal(model.get_buffer("made_from").cpu(), mark):
                raise ModelMismatchError(
                    f"checkpoint {checkpoint} was written with other events, products or settings; delete it to start "
                    "anew, or give what it was written with"
                )

        def train_epoch(epoch: int) -> TwoTowerEpoch:
            loss = _run_epoch(model, optimizer, batches, settings, epoch, generator, on_step)
            if not len(asked):
                return TwoTowerEpoch(epoch, loss)
            retriever = export(model, interactions.item_ids, settings)
            measured = evaluate_ranking(retriever, asked, wanted, (VALIDATION_K,))
            return TwoTowerEpoch(epoch, loss, measured.means()[f"recall@{VALIDATION_K}"])

        history = run_epochs(
            train_epoch,
            best_epoch,
            TwoTowerEpoch,
            model,
            optimizer,
            generator,
            settings,
            checkpoint=checkpoint,
            stop_after=stop_after,
            check=check,
        )
        return TwoTowerTraining(export(model.eval(), interactions.item_ids, settings), model, history)


def best_epoch(history: list[TwoTowerEpoch]) -> int:
    """Return the epoch with the highest validation recall, the last where none was measured; 0 for none."""
    recalls = [record.recall for record in history if record.recall is not None]
    return 1 + int(np.argmax(recalls)) if recalls else len(history)


@torch.no_grad()
def export(model: TwoTowers, item_ids: list[str], settings: TwoTowerSettings) -> TwoTower:
    """Return the retriever that answers as the network does."""
    model.eval()
    everything = torch.arange(len(item_ids), device=model.known.device)

    def array(values: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(values.cpu().numpy())

    return TwoTower(
        item_ids,
        array(model.items(everything)),
        tuple((array(layer.weight.T), array(layer.bias)) for layer in model.linears()),
        settings.decay,
        settings.longest if settings.past_only else 0,
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    """A step: n users with T targets and L items of the history each, C columns; see `sampled_softmax_loss`."""

    items: npt.NDArray[np.int64]
    """Distinct; the first C of them are the columns."""
    own: npt.NDArray[np.int64]
    hidden: npt.NDArray[np.bool_]
    draws: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    """(n, L), positions in `items`."""
    weights: npt.NDArray[np.float32]
    """(n, T, L), see `TwoTowers.user_tower`."""
    used: npt.NDArray[np.bool_]
    """(n, T), False for places without a target and for targets without a history."""


class _Batches:
    """Histories as steps: neighbouring items of a user are targets together and share what is gathered."""

    def __init__(self, x: Interactions, settings: TwoTowerSettings) -> None:
        self._x, self._settings = x, settings
        self._lengths = np.diff(x.splits)
        usable = self._lengths >= 2
        if not usable.any():
            raise TrainingError(
                f"none of {len(x)} users has two items left to learn from ({len(x.items)} interactions); "
                "give more events, or fewer users for validation"
            )
        counts = np.bincount(x.items, minlength=x.num_items)
        self.frequency = counts / counts.sum()
        targets = settings.targets
        # one piece more than needed, as the first one may begin before the history
        pieces = 1 + -(-self._lengths[usable] // targets)
        self._pieces = np.repeat(np.flatnonzero(usable), pieces)
        self._piece = np.arange(len(self._pieces)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._place_of = np.full(x.num_items, -1, np.int64)

    def epoch(self, generator: np.random.Generator) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Return the steps of an epoch as users and the place of the first target of each.

        Every interaction of a user with two or more is a target once; which ones are together changes.
        """
        shift = generator.integers(0, self._settings.targets, len(self._lengths))
        first = self._piece * self._settings.targets - shift[self._pieces]
        rows = generator.permutation(np.flatnonzero(first < self._lengths[self._pieces]))
        size = self._settings.users
        return [(self._pieces[r], first[r]) for r in (rows[i : i + size] for i in range(0, len(rows), size))]

    def step(
        self, users: npt.NDArray[np.int64], first: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> _Batch:
        """Return one of them with what is drawn for it."""
        x, chosen = self._x, self._settings
        lengths, starts = self._lengths[users], x.splits[users]
        place = first[:, None] + np.arange(chosen.targets)
        there = (place >= 0) & (place < lengths[:, None])
        targets = x.items[starts[:, None] + np.clip(place, 0, lengths[:, None] - 1)].astype(np.int64)

        # the part of the history that is seen: all of it, or the nearest items
        span = np.minimum(lengths, chosen.longest)
        middle = first + chosen.targets - span if chosen.past_only else first + (chosen.targets - span) // 2
        begin = np.clip(middle, 0, lengths - span)
        near = begin[:, None] + np.arange(int(span.max()))
        seen = near < (begin + span)[:, None]
        items = x.items[starts[:, None] + np.minimum(near, lengths[:, None] - 1)].astype(np.int64)
        away = place[:, :, None] - near[:, None, :]
        counts = seen[:, None, :] & (items[:, None, :] != targets[:, :, None])
        if chosen.past_only:
            counts &= away > 0
        weights = counts * np.power(chosen.decay, np.maximum(np.abs(away) - 1, 0))
        used = there & counts.any(2)

        drawn = np.concatenate([targets[there], generator.integers(0, x.num_items, chosen.uniform)])
        columns, draws = np.unique(drawn, return_counts=True)
        place_of = self._place_of
        place_of[columns] = np.arange(len(columns))
        own = place_of[np.where(there, targets, columns[0])]
        hidden = np.zeros((len(users), len(columns)), bool)
        for known, flags in ((own, there), (place_of[items], seen)):
            row, at = np.nonzero(flags & (known >= 0))
            hidden[row, known[row, at]] = True
        others = np.unique(items[place_of[items] < 0])
        place_of[others] = np.arange(len(columns), len(columns) + len(others))
        history = place_of[items]
        distinct = np.concatenate([columns, others])
        place_of[distinct] = -1
        return _Batch(distinct, own, hidden, draws, history, weights.astype(np.float32), used)


def _run_epoch(
    model: TwoTowers,
    optimizer: torch.optim.Optimizer,
    batches: _Batches,
    settings: TwoTowerSettings,
    epoch: int,
    generator: np.random.Generator,
    on_step: Callable[[int, int, float], None] | None,
) -> float:
    """Train one epoch and return its mean loss."""
    model.train()
    device = model.known.device
    frequency = torch.from_numpy(batches.frequency).float().to(device)
    total = count = 0.0
    steps = batches.epoch(generator)
    for number, (users, first) in enumerate(steps):
        items, own, hidden, draws, history, weights, used = (
            torch.from_numpy(value).to(device) for value in vars(batches.step(users, first, generator)).values()
        )
        kept = None
        if settings.id_dropout and model.codes.shape[1]:
            kept = torch.from_numpy(generator.random((len(items), 1)) >= settings.id_dropout).float().to(device)
        vectors = model.items(items, kept)
        columns = slice(len(draws))
        expected = draws.sum().sub(settings.uniform) * frequency[items[columns]] + settings.uniform / len(frequency)
        losses = sampled_softmax_loss(
            model.user_tower(F.embedding(history, vectors), weights),
            normalize(vectors[columns]),
            own,
            hidden,
            draws.float(),
            expected,
            temperature=settings.temperature,
            logq=settings.logq,
        )[used]
        if not len(losses):
            continue
        value = descend(losses.mean(), optimizer, model.tables(), settings, epoch, number, len(steps))
        total += value * len(losses)
        count += len(losses)
        if on_step is not None:
            on_step(epoch, len(steps), value)
    return total / max(count, 1)


def _carve(x: Interactions, settings: TwoTowerSettings) -> tuple[Interactions, Interactions, Interactions]:
    """Return what is learnt from, and of the users that are asked about what is known and what they should find."""
    generator = np.random.default_rng(settings.seed)
    lengths, users = np.diff(x.splits), x.users()
    able = np.flatnonzero(lengths >= 3)
    asked = np.sort(generator.choice(able, min(settings.validation, len(able) // 2), replace=False))
    held = np.zeros(len(x), np.int64)
    held[asked] = np.maximum(1, (VALIDATION_SHARE * lengths[asked]).astype(np.int64))
    ordered = settings.past_only or bool((x.times >= 0).any())
    keys = np.arange(len(users)) if ordered else generator.random(len(users))
    rank = np.empty(len(users), np.int64)
    rank[np.lexsort((keys, users))] = np.arange(len(users)) - x.splits[:-1][users]
    wanted = rank >= (lengths - held)[users]
    train = x.where(~wanted)
    return train, train.take(asked), x.where(wanted).take(asked)


def _attribute_codes(items: ItemTable | None, item_ids: list[str]) -> npt.NDArray[np.int64]:
    """Return the attributes of each item as rows of one table, int64 (num_items, F); an unknown one has a row too."""
    if items is None or not items.codes:
        return np.zeros((len(item_ids), 0), np.int64)
    over = items.over(item_ids)
    sizes = [len(over.names[name]) + 1 for name in over.codes]
    offsets = [0, *itertools.accumulate(sizes)][:-1]
    return np.stack([codes.astype(np.int64) + 1 + o for codes, o in zip(over.codes.values(), offsets, strict=True)], 1)


def _check_settings(settings: TwoTowerSettings) -> None:
    whole = ("dim", "longest", "users", "targets", "epochs", "patience")
    wrong = [name for name in whole if getattr(settings, name) < 1]
    wrong += [
        name for name in ("temperature", "table_learning_rate", "learning_rate") if not getattr(settings, name) > 0
    ]
    wrong += [name for name in ("uniform", "validation") if getattr(settings, name) < 0]
    wrong += ["logq"] * (not 0 <= settings.logq <= 1) + ["decay"] * (not 0 < settings.decay <= 1)
    wrong += ["id_dropout"] * (not 0 <= settings.id_dropout < 1)
    wrong += ["hidden"] * (min(settings.hidden, default=1) < 1)
    if wrong:
        raise InvalidInputError(f"{wrong[0]} is out of range, got {getattr(settings, wrong[0])}; see TwoTowerSettings")
