"""A bundle -> the repository of models that Triton loads.

    repository/
      category_match/
        config.pbtxt        written through Triton's own ModelConfig message, from the template in model_repository/
        warmup/             tensors of the warm-up requests
        1/                  one version: one bundle
          model.py          the shell
          recorded.json     requests with the answers the engine gave here: canary at load and while serving
          bundle/           hard links to the bundle's parts where the file system allows, copies else

A further version is put beside the present one, complete, before the server hears of it.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.engine import CLASSIFIER, RECOMMENDER
from aitems_engine.errors import AitemsError, BundleError, ConfigError, require_extra
from aitems_engine.serving.models import (
    BUNDLE,
    RECORDED,
    Call,
    CategoryMatch,
    Recommend,
    Recorded,
    ServedModel,
    Tensors,
    write_recorded,
)

CONFIG, SHELL, WARMUP = "config.pbtxt", "model.py", "warmup"
TARGETS = ("cpu",)
RECORDED_TITLES, RECORDED_USERS = 16, 3


def templates() -> Path:
    """Return the folder of templates and shells: inside the installed package, or of the checkout."""
    here = Path(__file__).resolve()
    return next(p for p in (here.parent / "model_repository", here.parents[3] / "model_repository") if p.is_dir())


def export_repository(bundle: str | Path, out: str | Path, *, target: str = "cpu", instances: int = 1) -> list[str]:
    """Write a repository that serves a bundle; return the names of its models.

    Parameters
    ----------
    bundle : path
        What it holds decides which models there are.
    out : path
        A directory that does not exist yet or is empty.
    target : "cpu"
    instances : int >= 1
        Processes a model.

    Raises
    ------
    BundleError
        The bundle is damaged.
    ConfigError
        An unknown target, `instances` < 1, or `out` is taken.
    MissingExtraError
        The extra `triton` is not installed.
    """
    require_extra("triton", "tritonclient")
    if target not in TARGETS:
        raise ConfigError(f"target must be one of {', '.join(TARGETS)}, got '{target}'")
    if instances < 1:
        raise ConfigError(f"instances must be at least 1, got {instances}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"'{out}' is not empty; choose another directory or remove it")
    out.mkdir(parents=True, exist_ok=True)
    models = list(models_of(bundle))
    for model in models:
        folder = out / model.name
        folder.mkdir()
        settings = _write_config(folder, model, instances)
        recorded = _write_version(folder, 1, Path(bundle), model, settings)
        _write_warmup(folder, recorded)
    return [model.name for model in models]


def add_version(repository: Path, bundle: Path) -> dict[str, int]:
    """Put a bundle beside those that a repository serves; return the new version of each model.

    Raises
    ------
    BundleError
        The bundle is damaged, or lacks what a model of the repository needs; nothing has been added.
    """
    served = sorted(p.parent.name for p in repository.glob(f"*/{CONFIG}"))
    models = {model.name: model for model in models_of(bundle)}
    if sorted(models) != served:
        raise BundleError(f"bundle '{bundle}' is for {', '.join(models)}, the repository serves {', '.join(served)}")
    added = {}
    try:
        for name, model in models.items():
            folder = repository / name
            version = max(versions_of(folder)) + 1
            _write_version(folder, version, bundle, model, _settings(_read_config(folder / CONFIG)))
            added[name] = version
    except BaseException:
        for name, version in added.items():
            remove_version(repository, name, version)
        raise
    return added


def remove_version(repository: Path, model: str, version: int) -> None:
    """Remove a version's files."""
    shutil.rmtree(repository / model / str(version))


def versions_of(folder: Path) -> list[int]:
    """Return the versions of a model, rising."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def models_of(bundle: str | Path) -> Iterator[ServedModel]:
    """Yield the models that a bundle has the parts for."""
    parts = Bundle.open(bundle).parts
    if CLASSIFIER in parts:
        yield CategoryMatch()
    if RECOMMENDER in parts:
        yield Recommend()


def _write_config(folder: Path, model: ServedModel, instances: int) -> dict[str, str]:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    config = _read_config(templates() / model.name / CONFIG)
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=instances)
    warmup = config.model_warmup.add(name="recorded", batch_size=1)
    for tensor in config.input:
        if tensor.optional:
            continue
        entry = warmup.inputs[tensor.name]
        entry.data_type, entry.input_data_file = tensor.data_type, tensor.name
        entry.dims.extend(tensor.dims)
    (folder / CONFIG).write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")
    return _settings(config)


def _read_config(path: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), triton.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"{path} is no configuration of a Triton model: {error}") from None


def _settings(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def _write_version(
    folder: Path, version: int, bundle: Path, model: ServedModel, settings: dict[str, str]
) -> list[Recorded]:
    building = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=folder.parent))
    try:
        building.chmod(0o755)
        shutil.copy(templates() / model.name / "1" / SHELL, building / SHELL)
        _link(bundle, building / BUNDLE)
        model.open(building / BUNDLE, settings)
        recorded = [_recorded(model, inputs) for inputs in _requests(model)]
        write_recorded(building / RECORDED, recorded)
        building.rename(folder / str(version))
        return recorded
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _link(bundle: Path, target: Path) -> None:
    """Link the files of a bundle; copy where the file system does not link. Opening it says whether it is whole."""

    def link(source: str, copy: str) -> str:
        try:
            os.link(source, copy)
        except OSError:
            shutil.copy2(source, copy)
        return copy

    shutil.copytree(bundle, target, copy_function=link)


def _recorded(model: ServedModel, inputs: Tensors) -> Recorded:
    answer = model.answer([Call(inputs, {}, frozenset())])[0]
    if isinstance(answer, AitemsError):
        raise answer
    return Recorded(inputs, answer)


def _requests(model: ServedModel) -> Sequence[Tensors]:
    """Return requests that any bundle can answer: names of categories as titles; users that the bundle knows."""
    if isinstance(model, CategoryMatch):
        paths = model.label_paths[:RECORDED_TITLES]
        titles = [path.rpartition(" > ")[2] for path in paths]
        malls = [path.rpartition(" > ")[0] for path in paths]
        both = {"TITLE": _column(titles), "MALL_CATEGORY": _column(malls)}
        return [{"TITLE": _column(titles[:1])}, both]
    assert isinstance(model, Recommend)
    return [{"REQUEST": _column([text])} for text in model.example_requests(RECORDED_USERS)]


def _column(texts: Sequence[str]) -> npt.NDArray[Any]:
    return np.array([[text.encode()] for text in texts], object)


def _write_warmup(folder: Path, recorded: Sequence[Recorded]) -> None:
    (folder / WARMUP).mkdir()
    for name, tensor in recorded[0].inputs.items():
        data = b"".join(struct.pack("<I", len(value)) + value for value in tensor.ravel().tolist())
        (folder / WARMUP / name).write_bytes(data)
