"""The training that SASRec and BERT4Rec share: histories as steps, epochs, early stopping, refit.

Knows nothing of files but its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aitems_engine.errors import ModelMismatchError, TrainingError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Retriever
from aitems_engine.training.epochs import descend, fingerprint, pick_device, run_epochs, torch_threads
from aitems_engine.training.transformer import Stream, Transformer, TransformerSettings

VALIDATION_K = 10


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
