"""Training states on disk, so that a stopped run goes on where it was: one safetensors file, replaced atomically.

Holds weights, optimiser moments, both random states and the history; no pickle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from aitems_engine.errors import ModelMismatchError, TrainingError, require_extra


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean training loss and, where there are validation rows, accuracy and macro-F1 on them."""

    epoch: int
    loss: float
    accuracy: float | None = None
    macro_f1: float | None = None
    seconds: float = 0.0


Record = TypeVar("Record")


def save(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: np.random.Generator,
    history: Sequence[Any],
    best: dict[str, torch.Tensor] | None,
) -> None:
    """Write the state after an epoch.

    `history` holds one record (a dataclass of plain values) an epoch; `best` are the weights of an earlier epoch that
    was better, if there is one.

    Raises
    ------
    TrainingError
        It could not be written; the state of the epoch before is kept.
    """
    require_extra("train", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors.update({f"best.{name}": value for name, value in (best or {}).items()})
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    tensors["random.torch"] = torch.get_rng_state()
    metadata = {
        "history": json.dumps([asdict(record) for record in history]),
        "random.numpy": json.dumps(generator.bit_generator.state),
    }
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"the state after epoch {len(history)} could not be written to {part} ({error}); make room there, then the "
            "same command goes on from the epoch before"
        ) from error
    os.replace(part, path)


def load(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: np.random.Generator,
    record: type[Record],
) -> tuple[list[Record], dict[str, torch.Tensor] | None]:
    """Put a saved state back; returns its history and the weights of the best epoch where that is not the last.

    Raises
    ------
    ModelMismatchError
        The file is of a network with other sizes, or no checkpoint.
    """
    require_extra("train", "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ModelMismatchError(f"{path} is no training checkpoint ({error}); delete it to start anew") from error
    own = model.state_dict()
    found = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    differing = [
        n for n in own.keys() | found.keys() if n not in own or n not in found or own[n].shape != found[n].shape
    ]
    if differing or "history" not in metadata:
        raise ModelMismatchError(
            f"checkpoint {path} does not fit this network (first difference: {min(differing, default='history')}); "
            "it was written with other data or settings: delete it to start anew"
        )
    model.load_state_dict(found)
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
    torch.set_rng_state(tensors["random.torch"])
    generator.bit_generator.state = json.loads(metadata["random.numpy"])
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    return [record(**values) for values in json.loads(metadata["history"])], best or None
