"""The training loop of the ranking networks: examples in; network, history, ONNX graph and validation logits out.

Knows nothing of events, features or calibration. Tables learn by row-wise Adagrad (`RowTable`), all else by AdamW; the
learning rate rises over the first steps and falls linearly to zero at `epochs`. Training stops where the loss on the
validation examples has not fallen for a while, and the network of the best epoch is returned: click models begin to
learn ids by heart after an epoch or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.errors import InvalidInputError, TrainingError
from aitems_engine.evaluation.binary import auc
from aitems_engine.ranking import Examples, FeatureBatch, FieldSpec
from aitems_engine.training.epochs import descend, pick_device, run_epochs, torch_threads
from aitems_engine.training.ranker_onnx import build_ranker_onnx
from aitems_engine.training.rankers import RankerShape, RankingNetwork, make_ranker

FloatMatrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RankerSettings:
    """How a network is trained.

    Attributes
    ----------
    shape : RankerShape
        Which network, and its sizes.
    epochs : int
        Length of the learning-rate schedule; the most epochs that run.
    patience : int
        Epochs without a lower validation loss after which training stops.
    learning_rate, table_learning_rate : float
        Highest rates of the dense weights (AdamW) and of the table of vectors (Adagrad).
    weight_decay : float
        Of the dense weights.
    table_l2 : float
        Adds ``table_l2 / 2`` times the squared length of a row's vectors to its loss.
    unknown_share : float
        Share of the codes that are read as 0 (unknown), so that the network knows what to do about new users and items.
    entire_space : bool
        ESMM: learn conversions from all impressions. False learns them from clicked ones only, for comparison.
    seed, threads
        Results are equal for equal data, settings, seed and threads on one machine; threads 0 = as torch is set.
    device : str
        As torch names it; empty = the first GPU, or the CPU.
    """

    shape: RankerShape = field(default_factory=RankerShape)
    epochs: int = 6
    patience: int = 2
    batch_size: int = 1024
    learning_rate: float = 2e-3
    table_learning_rate: float = 0.05
    weight_decay: float = 1e-3
    table_l2: float = 0.0
    unknown_share: float = 0.0
    entire_space: bool = True
    warmup_share: float = 0.05
    seed: int = 0
    threads: int = 0
    device: str = ""


@dataclass(frozen=True)
class RankerEpoch:
    """One epoch: mean training loss; on the validation examples loss and AUC of clicks, for ESMM also of purchases."""

    epoch: int
    loss: float
    validation_loss: float | None = None
    auc: float | None = None
    purchase_auc: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class RankerTraining:
    """What training gives.

    Attributes
    ----------
    model : RankingNetwork
        Of the best epoch, in evaluation mode.
    history : list of RankerEpoch
    onnx : bytes
        The same network: `codes` int32 (n, F), `dense` float32 (n, D) -> `logits` float32 (n, T).
    validation_logits : float32 array, shape (n, T)
        To calibrate on.
    """

    model: RankingNetwork
    history: list[RankerEpoch]
    onnx: bytes
    validation_logits: FloatMatrix


def train_ranker(
    train: Examples,
    validation: Examples,
    fields: FieldSpec,
    settings: RankerSettings,
    *,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> RankerTraining:
    """Train a network.

    Parameters
    ----------
    train, validation : Examples
        The second must be later than the first, or its figures flatter.
    fields : FieldSpec
        Shape of their features.
    settings : RankerSettings
        Network and training.
    checkpoint : path, optional
        File written after each epoch; where it is there already, training goes on from it.
    stop_after : int, optional
        Stop after that many epochs of the schedule (to go on later from the checkpoint).
    on_step : callable, optional
        Called with (epoch, batches of an epoch, loss) after each batch.

    Raises
    ------
    InvalidInputError
        Settings, codes or dense values out of range.
    TrainingError
        Nothing to learn from, or the loss is no number any more.
    """
    _check_settings(settings)
    for name, examples in (("train", train), ("validation", validation)):
        check_features(examples.batch, fields, name)
    targets = ("click", "purchase") if settings.shape.name == "esmm" else ("click",)
    for target in targets:
        positive = getattr(train, target)
        if len(positive) == 0 or positive.min() == positive.max():
            raise TrainingError(
                f"all {len(train)} training examples have {target} = {positive[:1]}; both kinds are needed"
            )
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        generator = np.random.default_rng(settings.seed)
        device = pick_device(settings.device)
        model = make_ranker(fields, settings.shape).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        data = _Columns(train, device)

        def train_epoch(epoch: int) -> RankerEpoch:
            loss = _run_epoch(model, optimizer, data, settings, epoch, generator, on_step)
            return RankerEpoch(epoch, loss, *_measure(model, validation, settings))

        history = run_epochs(
            train_epoch,
            best_epoch,
            RankerEpoch,
            model,
            optimizer,
            generator,
            settings,
            checkpoint=checkpoint,
            stop_after=stop_after,
        )
        return RankerTraining(model.eval(), history, build_ranker_onnx(model), predict_logits(model, validation.batch))


def check_features(batch: FeatureBatch, fields: FieldSpec, name: str) -> None:
    """Raise unless the features have the shape and the range that `fields` says.

    Raises
    ------
    InvalidInputError
        What was found, and in which field.
    """
    shape = (len(batch), len(fields.cardinalities)), (len(batch), fields.dense)
    if (batch.codes.shape, batch.dense.shape) != shape:
        raise InvalidInputError(
            f"{name}: codes and dense must have shapes {shape[0]} and {shape[1]}, "
            f"got {batch.codes.shape} and {batch.dense.shape}"
        )
    for field_, size in enumerate(fields.cardinalities):
        codes = batch.codes[:, field_]
        if len(codes) and not (codes.min() >= 0 and codes.max() < size):
            raise InvalidInputError(
                f"{name}: codes of field {field_} must be from 0 to {size - 1}, got {codes.min()} to {codes.max()}"
            )
    if not np.isfinite(batch.dense).all():
        raise InvalidInputError(f"{name}: dense holds NaN or infinite values")


def best_epoch(history: list[RankerEpoch]) -> int:
    """Return the epoch with the lowest validation loss, the last where none was measured; 0 for none."""
    losses = [record.validation_loss for record in history if record.validation_loss is not None]
    return 1 + int(np.argmin(losses)) if losses else len(history)


@torch.no_grad()
def predict_logits(model: RankingNetwork, batch: FeatureBatch, *, batch_size: int = 8192) -> FloatMatrix:
    """Return float32 logits (n, T)."""
    model.eval()
    device = model.features.offsets.device
    out = np.empty((len(batch), len(model.targets)), np.float32)
    for start in range(0, len(batch), batch_size):
        rows = slice(start, start + batch_size)
        codes, dense = torch.from_numpy(batch.codes[rows]), torch.from_numpy(batch.dense[rows])
        out[rows] = model(codes.to(device), dense.to(device)).cpu().numpy()
    return out


def ranking_loss(
    logits: torch.Tensor,
    click: torch.Tensor,
    purchase: torch.Tensor,
    settled: torch.Tensor,
    *,
    entire_space: bool = True,
) -> torch.Tensor:
    """Return the mean log loss of clicks, plus that of purchases where there are two logits.

    Parameters
    ----------
    logits : float32 tensor, shape (n, 1) or (n, 2)
    click, purchase : float32 tensors, shape (n,)
    settled : bool tensor, shape (n,)
        Rows that count in the second loss, see `Examples.settled`.
    entire_space : bool
        Compare P(click) P(purchase | click) with purchases over all rows; False: the second over clicked rows only.
    """
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], click)
    if logits.shape[1] == 1:
        return loss
    if entire_space:
        log_bought = F.logsigmoid(logits[:, 0]) + F.logsigmoid(logits[:, 1])
        log_not_bought = torch.log(-torch.expm1(log_bought.clamp(max=-1e-6)))
        second = -torch.where(purchase > 0, log_bought, log_not_bought)
        counted = settled.float()
    else:
        second = F.binary_cross_entropy_with_logits(logits[:, 1], purchase, reduction="none")
        counted = settled.float() * click
    return loss + (second * counted).sum() / len(counted)


class _Columns:
    """The training examples on the device."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.codes = torch.from_numpy(examples.codes).to(device)
        self.dense = torch.from_numpy(examples.dense).to(device)
        self.labels = [
            torch.from_numpy(np.ascontiguousarray(x)).to(device)
            for x in (examples.click, examples.purchase, examples.settled)
        ]


def _run_epoch(
    model: RankingNetwork,
    optimizer: torch.optim.Optimizer,
    data: _Columns,
    settings: RankerSettings,
    epoch: int,
    generator: np.random.Generator,
    on_step: Callable[[int, int, float], None] | None,
) -> float:
    """Train one epoch and return its mean loss."""
    model.train()
    count = len(data.codes)
    batches = math.ceil(count / settings.batch_size)
    order = torch.from_numpy(generator.permutation(count)).to(data.codes.device)
    total = 0.0
    for number in range(batches):
        rows = order[number * settings.batch_size : (number + 1) * settings.batch_size]
        codes = data.codes[rows]
        if settings.unknown_share:
            codes = codes.masked_fill(torch.rand(codes.shape, device=codes.device) < settings.unknown_share, 0)
        vectors = model.vectors(codes)
        labels = (column[rows] for column in data.labels)
        loss = ranking_loss(model.head(vectors, data.dense[rows]), *labels, entire_space=settings.entire_space)
        penalty = 0.5 * settings.table_l2 * vectors.square().sum() / len(rows) if settings.table_l2 else None
        value = descend(loss, optimizer, model.tables(), settings, epoch, number, batches, penalty)
        total += value * len(rows)
        if on_step is not None:
            on_step(epoch, batches, value)
    return total / count


def _measure(
    model: RankingNetwork, validation: Examples, settings: RankerSettings
) -> tuple[float | None, float | None, float | None]:
    """Return loss, AUC of clicks, and AUC of purchases over all impressions."""
    if len(validation) == 0:
        return None, None, None
    logits = torch.from_numpy(predict_logits(model, validation.batch))
    labels = (
        torch.from_numpy(np.ascontiguousarray(x)) for x in (validation.click, validation.purchase, validation.settled)
    )
    loss = float(ranking_loss(logits, *labels, entire_space=settings.entire_space))
    purchases = None
    if logits.shape[1] == 2:
        known = validation.settled
        purchases = auc(validation.purchase[known], F.logsigmoid(logits).sum(1).numpy()[known])
    return loss, auc(validation.click, logits[:, 0].numpy()), purchases


def _check_settings(settings: RankerSettings) -> None:
    if min(settings.epochs, settings.patience, settings.batch_size) < 1:
        raise InvalidInputError(
            f"epochs, patience and batch size must be at least 1, got {settings.epochs}, {settings.patience}, "
            f"{settings.batch_size}"
        )
    if (
        not min(settings.learning_rate, settings.table_learning_rate) > 0
        or not min(settings.weight_decay, settings.table_l2) >= 0
    ):
        raise InvalidInputError("learning rates must be positive, weight decay and table_l2 0 or more")
    if not 0 <= settings.unknown_share < 1:
        raise InvalidInputError(f"unknown_share must be from 0 and below 1, got {settings.unknown_share}")
