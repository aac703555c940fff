"""BERT4Rec's training: a network that sees whole histories says what masked places hold; a `Bert4Rec` comes out.

A step masks one random item of each history, and each other with `mask`; of a share of the histories only the newest
item is masked, as it is when serving. Full cross entropy over the catalogue at the masked places. An epoch teaches
fewer places than SASRec's, so it needs many more epochs (Petrov & Macdonald, RecSys 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Bert4Rec
from aitems_engine.training.losses import full_cross_entropy
from aitems_engine.training.sequence_onnx import build_encoder_onnx
from aitems_engine.training.sequences import Fitted, Pieces, fit_transformer
from aitems_engine.training.transformer import Stream, Transformer, TransformerSettings, check_settings


@dataclass(frozen=True)
class Bert4RecSettings(TransformerSettings):
    """The network and how it is trained; see `TransformerSettings` for the rest.

    Attributes
    ----------
    longest : int
        With the mask that is appended when serving; at least 2.
    mask : float from 0 to 1
        Chance of an item to be masked, beside the one of each history that always is.
    last : float from 0 to 1
        Share of the histories of which the newest item alone is masked.
    """

    epochs: int = 200
    patience: int = 20
    mask: float = 0.3
    last: float = 0.2


def fit_bert4rec(
    interactions: Interactions,
    settings: Bert4RecSettings | None = None,
    *,
    validation: tuple[Interactions, Interactions] | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Fitted[Bert4Rec]:
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
    chosen = settings or Bert4RecSettings()
    check_settings(chosen)
    if chosen.longest < 2:
        raise InvalidInputError(f"longest must be at least 2, an item and the mask, got {chosen.longest}")
    for name in ("mask", "last"):
        if not 0 <= getattr(chosen, name) <= 1:
            raise InvalidInputError(f"{name} must be from 0 to 1, got {getattr(chosen, name)}")

    def step_loss(
        model: Transformer, pieces: Pieces, rows: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[torch.Tensor, int]:
        stream = pieces.stream(rows)
        masked = masked_places(stream, chosen.mask, chosen.last, generator)
        shown = replace(stream, items=np.where(masked, model.num_items, stream.items))
        queries, table = model.logits(model(shown)[torch.from_numpy(np.flatnonzero(masked))])
        targets = torch.from_numpy(stream.targets[masked]).to(queries.device)
        dtype = torch.bfloat16 if chosen.bfloat16 else torch.float32
        return full_cross_entropy(queries, table, targets, dtype), len(targets)

    return fit_transformer(
        interactions,
        chosen,
        lambda: Transformer(interactions.num_items, chosen, causal=False, extra=1),
        step_loss,
        lambda model: export(model, interactions.item_ids),
        ahead=0,
        validation=validation,
        checkpoint=checkpoint,
        stop_after=stop_after,
        on_step=on_step,
    )


def masked_places(stream: Stream, share: float, last: float, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return which items of the stream are masked, bool (n,): one of each history at least."""
    lengths = np.bincount(stream.history)
    newest = generator.random(len(lengths)) < last
    one = np.where(newest, lengths - 1, (generator.random(len(lengths)) * lengths).astype(np.int64))
    more = (generator.random(len(stream.items)) < share) & ~newest[stream.history]
    return np.asarray(more | (stream.place == one[stream.history]))


@torch.no_grad()
def export(model: Transformer, item_ids: list[str]) -> Bert4Rec:
    """Return the retriever that answers as the network does."""
    encoder = np.frombuffer(build_encoder_onnx(model), np.uint8)
    vectors = model.table()[: model.num_items].cpu().numpy().copy()
    return Bert4Rec(item_ids, vectors, encoder, model.longest - 1)
