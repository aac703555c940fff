"""What the training loops share: device and threads, one step of the optimiser, and epochs that stop and go on.

The learning rate rises over the first steps and falls linearly to zero at `epochs`, so that a run which is stopped
early, or goes on from its checkpoint, follows the same path.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from aitems_engine.errors import TrainingError
from aitems_engine.events import Interactions
from aitems_engine.training import checkpoint as checkpoints
from aitems_engine.training.row_table import RowTable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)


class Schedule(Protocol):
    """How long is trained, and how fast; each network's settings have these."""

    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def table_learning_rate(self) -> float: ...
    @property
    def warmup_share(self) -> float: ...


def pick_device(name: str) -> torch.device:
    """Return the named device; for an empty name the first GPU, or the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set the number of threads torch computes with for a while; 0 leaves it as it is."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rate_at(step: int, total_steps: int, warmup_share: float) -> float:
    """Return the share of the highest learning rate: linear up over the warm-up, then linear down to zero."""
    progress = step / total_steps
    warm = min(1.0, (progress + 1 / total_steps) / warmup_share) if warmup_share else 1.0
    return warm * max(0.0, 1 - progress)


def fingerprint(x: Interactions, settings: DataclassInstance, *arrays: npt.NDArray[Any]) -> torch.Tensor:
    """Return what a checkpoint must have been written with, as four numbers."""
    chosen = {k: v for k, v in asdict(settings).items() if k not in ("threads", "device", "patience")}
    digest = hashlib.sha256(json.dumps(chosen).encode())
    digest.update(json.dumps(x.item_ids).encode())
    for values in (x.splits, x.items, *arrays):
        digest.update(np.ascontiguousarray(values).tobytes())
    return torch.from_numpy(np.frombuffer(digest.digest(), np.int64).copy())


def descend(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    tables: Iterable[RowTable],
    schedule: Schedule,
    epoch: int,
    number: int,
    batches: int,
    penalty: torch.Tensor | None = None,
) -> float:
    """Take one step down the loss of batch `number` (from 0) of so many, and return the loss.

    Parameters
    ----------
    tables : iterable of RowTable
        What the batch touched of them; all other weights are the optimiser's.
    penalty : tensor, optional
        Added to the loss, but not returned.

    Raises
    ------
    TrainingError
        The loss is no number.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        tables_too = f", and {schedule.table_learning_rate:g} for the tables" if schedule.table_learning_rate else ""
        raise TrainingError(
            f"the loss is {value} in batch {number + 1} of epoch {epoch}; lower the learning rates (now "
            f"{schedule.learning_rate:g}{tables_too}) and check that what it learns from is finite"
        )
    rate = rate_at((epoch - 1) * batches + number, schedule.epochs * batches, schedule.warmup_share)
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * rate
    optimizer.zero_grad(set_to_none=True)
    (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for table in tables:
        table.step(schedule.table_learning_rate * rate)
    return value


def run_epochs(
    train_epoch: Callable[[int], Record],
    best_epoch: Callable[[list[Record]], int],
    record: type[Record],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: np.random.Generator,
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Train epoch after epoch until the best one is `patience` behind, and leave the network as it was after that one.

    Parameters
    ----------
    train_epoch : callable
        Trains the epoch of this number (from 1) and returns its record, whose `seconds` are filled in here.
    best_epoch : callable
        Returns the number of the best of the records, 0 for none.
    record : type
        Of a record; a dataclass of plain values.
    checkpoint : path, optional
        File written after each epoch; where it is there already, training goes on from it.
    stop_after : int, optional
        Stop after that many epochs of the schedule (to go on later from the checkpoint).
    check : callable, optional
        Called when a checkpoint has been loaded; raises if it is of something else.
    """
    history: list[Record] = []
    best: dict[str, torch.Tensor] | None = None
    if checkpoint is not None and checkpoint.exists():
        history, best = checkpoints.load(checkpoint, model, optimizer, generator, record)
        check()
    last = min(schedule.epochs, stop_after or schedule.epochs)
    while len(history) < last and len(history) - best_epoch(history) < schedule.patience:
        started = time.perf_counter()
        epoch = len(history) + 1
        if best_epoch(history) == epoch - 1 > 0:
            best = {name: value.clone() for name, value in model.state_dict().items()}
        history.append(replace(train_epoch(epoch), seconds=time.perf_counter() - started))
        if best_epoch(history) == epoch:
            best = None
        if checkpoint is not None:
            checkpoints.save(checkpoint, model, optimizer, generator, history, best)
    if best is not None:
        model.load_state_dict(best)
    return history
