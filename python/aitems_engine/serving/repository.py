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
from aitems_engine.ranking.ranker import HEAD, MODEL
from aitems_engine.recommendation.loading import RANKER
from aitems_engine.serving.models import (
    BUNDLE,
    RECORDED,
    Call,
    CategoryMatch,
    Ranking,
    Recommend,
    Recorded,
    ServedModel,
    Tensors,
    write_recorded,
)

CONFIG, SHELL, WARMUP = "config.pbtxt", "model.py", "warmup"
TARGETS = ("cpu", "onnxruntime-trt")
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
    target : "cpu" or "onnxruntime-trt"
        For the latter the ranker's network runs on the GPU, in ONNX Runtime with TensorRT; the other models, which are
        more than a network, run as they do on a CPU.
    instances : int >= 1
        Processes a model; for a model on a GPU its instances there.

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
        config = _read_config(templates() / model.name / CONFIG)
        recorded = _write_version(folder, 1, Path(bundle), model, config, on_gpu=_on_gpu(model, target))
        _write_config(folder, config, recorded[0].inputs, instances, on_gpu=_on_gpu(model, target))
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
            config = _read_config(folder / CONFIG)
            _write_version(folder, version, bundle, model, config, on_gpu=config.backend != "python")
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
    if RANKER + HEAD in parts:
        yield Ranking()


def _on_gpu(model: ServedModel, target: str) -> bool:
    return target != "cpu" and isinstance(model, Ranking)


def _write_config(folder: Path, config: Any, warmup: Tensors, instances: int, *, on_gpu: bool) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    kind = triton.ModelInstanceGroup.KIND_GPU if on_gpu else triton.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=instances)
    if on_gpu:
        _use_tensorrt(folder, config)
    (folder / WARMUP).mkdir()
    sample = config.model_warmup.add(name="recorded", batch_size=1)
    for tensor in config.input:
        if tensor.name in warmup:
            entry = sample.inputs[tensor.name]
            entry.data_type, entry.input_data_file = tensor.data_type, tensor.name
            entry.dims.extend(tensor.dims)
            (folder / WARMUP / tensor.name).write_bytes(_raw(warmup[tensor.name][:1]))
    (folder / CONFIG).write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")


def _use_tensorrt(folder: Path, config: Any) -> None:
    """Run a network in ONNX Runtime with TensorRT: half precision, engines built once and kept beside the model."""
    config.backend = "onnxruntime"
    cache = folder.absolute() / "cache"
    cache.mkdir()
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    settings = {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": str(1 << 30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    for bound, rows in (("min", 1), ("opt", 256), ("max", config.max_batch_size)):
        shapes = [f"{t.name}:{'x'.join(map(str, (rows, *t.dims)))}" for t in config.input]
        settings[f"trt_profile_{bound}_shapes"] = ",".join(shapes)
    for name, value in settings.items():
        accelerator.parameters[name] = value


def _raw(tensor: npt.NDArray[Any]) -> bytes:
    """Return a tensor as the server reads it from a file."""
    if tensor.dtype.kind != "O":
        return tensor.tobytes()
    return b"".join(struct.pack("<I", len(value)) + value for value in tensor.ravel().tolist())


def _read_config(path: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), triton.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(f"{path} is no configuration of a Triton model: {error}") from None


def _write_version(
    folder: Path, version: int, bundle: Path, model: ServedModel, config: Any, *, on_gpu: bool
) -> list[Recorded]:
    """Write a version with the answers that it gives here, and the bundle's widths into an open configuration."""
    building = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=folder.parent))
    try:
        building.chmod(0o755)
        _link(bundle, building / BUNDLE)
        model.open(building / BUNDLE, {name: value.string_value for name, value in config.parameters.items()})
        for tensor in (*config.input, *config.output):
            width = model.widths().get(tensor.name, tensor.dims[0])
            if tensor.dims[0] not in (-1, width):
                raise BundleError(
                    f"bundle '{bundle}': {model.name} has {width} columns in {tensor.name}, the one that is served "
                    f"{tensor.dims[0]}; write a new repository"
                )
            tensor.dims[0] = width
        if isinstance(model, Ranking) and on_gpu:
            # the server wants exactly the inputs that the graph has
            for tensor in [t for t in config.input if t.name not in model.ranker.inputs]:
                config.input.remove(tensor)
            (building / BUNDLE / (RANKER + MODEL)).rename(building / "model.onnx")
            shutil.rmtree(building / BUNDLE)
        else:
            shutil.copy(templates() / model.name / "1" / SHELL, building / SHELL)
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
    if isinstance(model, Ranking):
        # nothing known, and the last of everything
        last = np.array(model.ranker.fields.cardinalities, np.int32) - 1
        dense = np.zeros((2, model.ranker.fields.dense), np.float32)
        return [{"codes": np.stack([0 * last, last]), "dense": dense}]
    assert isinstance(model, Recommend)
    return [{"REQUEST": _column([text])} for text in model.example_requests(RECORDED_USERS)]


def _column(texts: Sequence[str]) -> npt.NDArray[Any]:
    return np.array([[text.encode()] for text in texts], object)
