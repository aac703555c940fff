"""SASRec's training: each item of a history predicts the next one; a `Sasrec` retriever comes out.

The published loss, binary cross entropy with one negative, is overconfident and loses to closed forms; cross entropy
over the whole catalogue, by chunks, is the default here. Sampled softmax (with logQ, see `two_tower`) and gBCE (Petrov
& Macdonald, RecSys 2023) are for catalogues where that is too much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Sasrec
from aitems_engine.training.losses import full_cross_entropy, gbce_loss, sampled_softmax_loss
from aitems_engine.training.sequence_onnx import build_encoder_onnx
from aitems_engine.training.sequences import Fitted, Pieces, fit_transformer
from aitems_engine.training.transformer import Transformer, TransformerSettings, check_settings

LOSSES = ("full", "sampled", "gbce")


@dataclass(frozen=True)
class SasrecSettings(TransformerSettings):
    """The network and how it is trained; see `TransformerSettings` for the rest.

    Attributes
    ----------
    loss : str
        full, sampled or gbce.
    negatives : int
        Items drawn uniformly in a step, for sampled and gbce.
    logq : float from 0 to 1
        Share of log(expected draws) that is subtracted in sampled.
    calibration : float from 0 to 1
        Of gbce.
    history_dropout : float
        Share of the items of a history that are left out, each time anew; they are targets all the same.
    """

    loss: str = "full"
    negatives: int = 1024
    logq: float = 1.0
    calibration: float = 0.75
    history_dropout: float = 0.1


def fit_sasrec(
    interactions: Interactions,
    settings: SasrecSettings | None = None,
    *,
    validation: tuple[Interactions, Interactions] | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Fitted[Sasrec]:
    """Train the network; see `fit_transformer` for the parameters.

    Raises
    ------
    InvalidInputError
        Settings out of range.
    TrainingError
        No user with two items, or the loss is no number any more.
    ModelMismatchError
        The checkpoint is of other data or settings.
    """
    chosen = settings or SasrecSettings()
    check_settings(chosen)
    if chosen.loss not in LOSSES:
        raise InvalidInputError(f"loss must be one of {', '.join(LOSSES)}, got '{chosen.loss}'")
    for name, low, high in (
        ("negatives", 1, 2**31),
        ("logq", 0, 1),
        ("calibration", 0, 1),
        ("history_dropout", 0, 0.99),
    ):
        if not low <= getattr(chosen, name) <= high:
            raise InvalidInputError(f"{name} must be from {low} to {high}, got {getattr(chosen, name)}")

    def step_loss(
        model: Transformer, pieces: Pieces, rows: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[torch.Tensor, int]:
        stream = pieces.stream(rows)
        kept = None
        if chosen.history_dropout:
            kept = generator.random((len(stream.items), 1)) >= chosen.history_dropout
        queries, table = model.logits(model(stream, kept))
        targets = torch.from_numpy(stream.targets).to(queries.device)
        return next_item_loss(queries, table, targets, pieces.frequency, chosen, generator), len(targets)

    return fit_transformer(
        interactions,
        chosen,
        lambda: Transformer(interactions.num_items, chosen, causal=True),
        step_loss,
        lambda model: export(model, interactions.item_ids),
        validation=validation,
        checkpoint=checkpoint,
        stop_after=stop_after,
        on_step=on_step,
    )


def next_item_loss(
    queries: torch.Tensor,
    table: torch.Tensor,
    targets: torch.Tensor,
    frequency: torch.Tensor,
    settings: SasrecSettings,
    generator: np.random.Generator,
) -> torch.Tensor:
    """Return the mean loss of `queries` (n, dim) for their `targets` (n,), items of the `table` (num_items, dim)."""
    if settings.loss == "full":
        return full_cross_entropy(queries, table, targets, torch.bfloat16 if settings.bfloat16 else torch.float32)
    negatives = torch.from_numpy(generator.integers(0, len(table), settings.negatives)).to(targets.device)
    if settings.loss == "gbce":
        return gbce_loss(queries, table, targets, negatives, settings.calibration)
    columns, draws = torch.unique(torch.cat([targets, negatives]), return_counts=True)
    own = torch.searchsorted(columns, targets)[:, None]
    expected = len(targets) * frequency[columns] + settings.negatives / len(table)
    return sampled_softmax_loss(
        queries[:, None],
        F.embedding(columns, table),
        own,
        own == torch.arange(len(columns), device=own.device),
        draws.float(),
        expected,
        temperature=1.0,
        logq=settings.logq,
    ).mean()


@torch.no_grad()
def export(model: Transformer, item_ids: list[str]) -> Sasrec:
    """Return the retriever that answers as the network does."""
    encoder = np.frombuffer(build_encoder_onnx(model), np.uint8)
    return Sasrec(item_ids, model.table().cpu().numpy().copy(), encoder, model.longest)
