"""The training loop of the text classifier: encoded titles and labels in, a trained network and its history out.

Knows nothing of files of products, taxonomies or calibration. Logit adjustment (Menon et al. 2021): tau * log prior is
added to the logits in the loss only, so the network learns balanced scores; how much of the prior is put back is
decided afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.training.checkpoint import EpochRecord
from aitems_engine.training.epochs import descend, pick_device, run_epochs, torch_threads
from aitems_engine.training.textcnn import Dropout, Logits, TextCNN, TextCNNShape
from aitems_engine.training.title_batches import EncodedTitles, batch_rows, iterate, make_batch


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Attributes
    ----------
    epochs : int
        Length of the learning-rate schedule; the most epochs that run. 0 = `schedule_epochs`.
    patience : int
        Epochs that fall behind the best validation score after which training stops.
    learning_rate, table_learning_rate : float
        Highest rates of the dense weights (AdamW) and of the two embedding tables (Adagrad, `RowTable`).
    logit_adjustment : float
        tau: 0 = plain cross entropy, 1 = fully balanced.
    auxiliary_loss : float
        Weight of the losses of title and mall alone beside the joint loss.
    seed, threads
        Results are equal for equal data, settings, seed and threads on one machine; threads 0 = as torch is set.
    device : str
        As torch names it; empty = the first GPU, or the CPU.
    """

    epochs: int = 0
    patience: int = 4
    batch_size: int = 128
    learning_rate: float = 3e-3
    table_learning_rate: float = 0.3
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    logit_adjustment: float = 0.5
    auxiliary_loss: float = 0.3
    warmup_share: float = 0.05
    dropout: Dropout = field(default_factory=Dropout)
    seed: int = 0
    threads: int = 0
    device: str = ""


# differences of accuracy + macro-F1 that say nothing on some thousand validation rows
SCORE_NOISE = 0.01


def log_prior(labels: npt.NDArray[np.int64], num_leaves: int) -> npt.NDArray[np.float64]:
    """Return log P(leaf) with half a count added, so that no leaf has probability zero."""
    counts = np.bincount(labels, minlength=num_leaves) + 0.5
    return np.asarray(np.log(counts / counts.sum()))


def schedule_epochs(rows: int) -> int:
    """Return 10 epochs for few rows, 8 at 50,000, 4 from 200,000 on: more rows need fewer passes."""
    return int(np.clip(round(8 * math.sqrt(50_000 / max(1, rows))), 4, 10))


def total_loss(
    logits: Logits,
    labels: torch.Tensor,
    has_mall: torch.Tensor,
    adjustment: torch.Tensor,
    settings: FitSettings,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean loss of the title members, each joined with the mall, plus those of each modality alone.

    The losses of single modalities count only rows that have a mall path (`has_mall`, float 0/1); for the others the
    joined loss is that of the title.
    """

    def loss(scores: torch.Tensor, use: torch.Tensor | None) -> torch.Tensor:
        values = F.cross_entropy(
            scores + adjustment, labels, reduction="none", label_smoothing=settings.label_smoothing
        )
        return values.mean() if use is None else (values * use).sum() / len(values)

    share = 1 / len(logits.members)
    if logits.mall is None:
        return share * torch.stack([loss(member, weights) for member in logits.members]).sum()
    total = share * torch.stack([loss(member + logits.mall, weights) for member in logits.members]).sum()
    if settings.auxiliary_loss:
        use = has_mall if weights is None else has_mall * weights
        title = torch.stack(logits.members).mean(0)
        total = total + settings.auxiliary_loss * (loss(title, use) + loss(logits.mall, use))
    return total


def gram_scales(encoded: EncodedTitles, buckets: int) -> npt.NDArray[np.float32]:
    """Return the inverse document frequency of each n-gram bucket, 1 + log((1 + n) / (1 + df)), mean 1 over n-grams.

    The steps of a frequent n-gram are smaller than those of a rare one, as TF-IDF weights do for a linear model.
    """
    rows = np.repeat(np.arange(len(encoded), dtype=np.int64), np.diff(encoded.gram_splits))
    distinct = np.unique(rows * buckets + encoded.gram_ids)
    frequency = np.bincount(distinct % buckets, minlength=buckets)
    scale = 1 + np.log((1 + len(encoded)) / (1 + frequency))
    mean = np.average(scale, weights=frequency) if len(distinct) else 1.0
    return np.asarray(scale / mean, dtype=np.float32)


def fit(
    encoded: EncodedTitles,
    labels: npt.NDArray[np.int64],
    shape: TextCNNShape,
    settings: FitSettings,
    *,
    vectors: npt.NDArray[np.float32] | None = None,
    weights: npt.NDArray[np.float32] | None = None,
    validate: Callable[[TextCNN], tuple[float, float]] | None = None,
    stop_after: int | None = None,
    pad_id: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[TextCNN, list[EpochRecord]]:
    """Train a network.

    Parameters
    ----------
    encoded : EncodedTitles, n rows
        See `encode_products`.
    labels : int64 array, shape (n,)
        Column of the head.
    shape : TextCNNShape
        Sizes of the network.
    settings : FitSettings
        How it is trained.
    vectors : float32 array, shape (vocab_size, dim), optional
        Start of the token embedding.
    weights : float32 array, shape (n,), optional
        Weight of each row in the loss.
    validate : callable, optional
        Returns (accuracy, macro-F1) of the network; called after each epoch. Training stops after
        `settings.patience` epochs without a higher sum, and the network of the best epoch is returned.
    stop_after : int, optional
        Stop after that many epochs of the schedule (to go on later from the checkpoint).
    pad_id : int
        Token whose vector is zero.
    checkpoint : path, optional
        File written after each epoch; where it is there already, training goes on from it.
    on_step : callable, optional
        Called with (epoch, batches of an epoch, loss) after each batch.

    Returns
    -------
    TextCNN
        In evaluation mode.
    list of EpochRecord

    Raises
    ------
    TrainingError
        The loss is no number any more.
    """
    if not settings.epochs:
        settings = replace(settings, epochs=schedule_epochs(len(encoded)))
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        generator = np.random.default_rng(settings.seed)
        device = pick_device(settings.device)
        scale = gram_scales(encoded, shape.gram_buckets) if shape.gram_buckets else None
        model = TextCNN(shape, settings.dropout, vectors=vectors, gram_scale=scale, pad_id=pad_id).to(device)
        adjustment = torch.as_tensor(
            settings.logit_adjustment * log_prior(labels, shape.num_leaves), dtype=torch.float32, device=device
        )
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        )

        def train_epoch(epoch: int) -> EpochRecord:
            loss = run_epoch(
                model, optimizer, encoded, labels, weights, adjustment, settings, epoch, generator, device, on_step
            )
            return EpochRecord(epoch, loss, *(validate(model) if validate is not None else (None, None)))

        history = run_epochs(
            train_epoch,
            best_epoch,
            EpochRecord,
            model,
            optimizer,
            generator,
            settings,
            checkpoint=checkpoint,
            stop_after=stop_after,
        )
        return model.eval(), history


def best_epoch(history: list[EpochRecord]) -> int:
    """Return the last epoch whose accuracy + macro-F1 is within `SCORE_NOISE` of the highest; the last if unmeasured.

    Not the highest itself: on a few thousand rows an early epoch often wins by chance, before the learning rate has
    fallen, and a network refitted for so few epochs was 0.5 points worse on danawa's test rows.
    """
    scores = [r.accuracy + r.macro_f1 for r in history if r.accuracy is not None and r.macro_f1 is not None]
    if not scores:
        return len(history)
    return max(i for i, score in enumerate(scores, start=1) if score >= max(scores) - SCORE_NOISE)


def run_epoch(
    model: TextCNN,
    optimizer: torch.optim.Optimizer,
    encoded: EncodedTitles,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32] | None,
    adjustment: torch.Tensor,
    settings: FitSettings,
    epoch: int,
    generator: np.random.Generator,
    device: torch.device,
    on_step: Callable[[int, int, float], None] | None,
) -> float:
    """Train one epoch and return its mean loss."""
    model.train()
    batches = batch_rows(encoded, settings.batch_size, generator)
    total = 0.0
    for number, rows in enumerate(batches):
        batch = make_batch(
            encoded,
            rows,
            device=device,
            generator=generator,
            mall_dropout=settings.dropout.mall,
        )
        target = torch.from_numpy(labels[rows]).to(device)
        weight = None if weights is None else torch.from_numpy(weights[rows]).to(device)
        loss = total_loss(model(batch), target, (batch.mall_lengths > 0).float(), adjustment, settings, weight)
        value = descend(loss, optimizer, model.tables(), settings, epoch, number, len(batches))
        total += value * len(rows)
        if on_step is not None:
            on_step(epoch, len(batches), value)
    return total / len(encoded)


@torch.no_grad()
def predict_logits(model: TextCNN, encoded: EncodedTitles, *, batch_size: int = 512) -> npt.NDArray[np.float32]:
    """Return the logits of all rows by each of `model.shape.parts`.

    Returns
    -------
    float32 array, shape (parts, n, leaves)
        The bag's are the mean of its groups.
    """
    model.eval()
    device = next(model.parameters()).device
    out = np.empty((len(model.shape.parts), len(encoded), model.shape.num_leaves), np.float32)
    has_cnn = bool(model.shape.title_widths)
    for batch in iterate(encoded, batch_size, device=device):
        logits = model(batch)
        groups = logits.members[int(has_cnn) :]
        parts = logits.members[: int(has_cnn)] + ([torch.stack(groups).mean(0)] if groups else [])
        parts += [] if logits.mall is None else [logits.mall]
        for target, scores in zip(out, parts, strict=True):
            target[batch.rows] = scores.cpu().numpy()
    return out
