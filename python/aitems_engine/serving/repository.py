"""A bundle -> the repository of models that Triton loads.

    repository/
      category_match/
        config.pbtxt        written through Triton's own ModelConfig message, from the template in model_repository/
        warmup/             tensors of the recorded requests, asked before the model is ready
        labels.txt          of category_classifier: the leaf of each logit
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
from aitems_engine.ranking.ranker import HEAD
from aitems_engine.recommendation.loading import RANKER, encoder_of
from aitems_engine.serving.models import (
    BUNDLE,
    RECORDED,
    TOLERANCE,
    Call,
    CategoryMatch,
    Recommend,
    Recorded,
    ServedModel,
    Tensors,
    write_recorded,
)
from aitems_engine.serving.networks import CategoryNetwork, Network, PartModel, Ranking, UserEncoder, profile_of

CONFIG, SHELL, WARMUP, LABELS = "config.pbtxt", "model.py", "warmup", "labels.txt"
TARGETS = ("cpu", "onnxruntime-trt")
GPU_BACKENDS = ("onnxruntime",)
HALF_TOLERANCE = 2e-2  # by how much half precision may differ
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
        For the latter the networks alone (category_classifier, ranker) run on the GPU, in ONNX Runtime with TensorRT;
        the other models run as they do on a CPU.
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
        network = model if target != "cpu" and isinstance(model, Network) else None
        recorded = _write_version(folder, 1, Path(bundle), model, config, on_gpu=network is not None)
        _write_config(folder, config, recorded, instances, network)
        _keep_labels(folder)
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
            _write_version(folder, version, bundle, model, config, on_gpu=config.backend in GPU_BACKENDS)
            added[name] = version
            _keep_labels(folder)
    except BaseException:
        for name, version in added.items():
            remove_version(repository, name, version)
        raise
    return added


def remove_version(repository: Path, model: str, version: int) -> None:
    """Remove a version's files."""
    shutil.rmtree(repository / model / str(version))
    _keep_labels(repository / model)


def versions_of(folder: Path) -> list[int]:
    """Return the versions of a model, rising."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def models_of(bundle: str | Path) -> Iterator[ServedModel]:
    """Yield the models that a bundle has the parts for."""
    opened = Bundle.open(bundle)
    parts = opened.parts
    if CLASSIFIER in parts:
        yield CategoryMatch()
        yield CategoryNetwork()
    if RECOMMENDER in parts:
        yield Recommend()
    if encoder_of(opened):
        yield UserEncoder()
    if RANKER + HEAD in parts:
        yield Ranking()


def _write_config(
    folder: Path, config: Any, recorded: Sequence[Recorded], instances: int, network: Network | None
) -> None:
    """Write a model's configuration; `network` is what runs on a GPU."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    kind = triton.ModelInstanceGroup.KIND_CPU if network is None else triton.ModelInstanceGroup.KIND_GPU
    config.instance_group.add(kind=kind, count=instances)
    if network is not None:
        _use_tensorrt(folder, config, network)
    (folder / WARMUP).mkdir()
    for number, request in enumerate(recorded):
        # the server repeats one row as often as the batch has rows
        rows = len(next(iter(request.inputs.values())))
        sample = config.model_warmup.add(name=f"recorded {number}", batch_size=rows)
        for tensor in config.input:
            if tensor.name in request.inputs:
                values = request.inputs[tensor.name]
                entry = sample.inputs[tensor.name]
                entry.data_type, entry.input_data_file = tensor.data_type, f"{number}-{tensor.name}"
                entry.dims.extend(values.shape[1:])
                (folder / WARMUP / entry.input_data_file).write_bytes(_raw(values[:1]))
    (folder / CONFIG).write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")


def _use_tensorrt(folder: Path, config: Any, network: Network) -> None:
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
    profile = profile_of(network, config.max_batch_size)
    for place, bound in enumerate(("min", "opt", "max")):
        shapes = [f"{name}:{'x'.join(map(str, bounds[place]))}" for name, bounds in profile.items()]
        settings[f"trt_profile_{bound}_shapes"] = ",".join(shapes)
    for name, value in settings.items():
        accelerator.parameters[name] = value


def _keep_labels(folder: Path) -> None:
    """Give the server the labels of the newest version: it reads them when it loads one, beside the configuration."""
    labels = folder / str(max(versions_of(folder))) / LABELS
    if labels.exists():
        new = folder / f".{LABELS}"
        shutil.copy(labels, new)
        new.replace(folder / LABELS)


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
        if isinstance(model, CategoryNetwork) or on_gpu:
            assert isinstance(model, Network)
            # what the graph has: the server wants exactly that, and a classifier without a branch has nothing for it
            for tensor in [t for t in config.input if t.name not in model.graph_inputs]:
                config.input.remove(tensor)
        if on_gpu:
            assert isinstance(model, Network)
            config.output[0].dims[0] = model.columns
            (building / BUNDLE / model.part).rename(building / "model.onnx")
            shutil.rmtree(building / BUNDLE)
        else:
            shutil.copy(templates() / model.name / "1" / SHELL, building / SHELL)
        if labels := model.labels():
            (building / LABELS).write_text("".join(label + "\n" for label in labels), encoding="utf-8")
        tolerance = HALF_TOLERANCE if on_gpu else TOLERANCE
        recorded = [_recorded(model, inputs, tolerance) for inputs in _requests(model)]
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


def _recorded(model: ServedModel, inputs: Tensors, tolerance: float) -> Recorded:
    answer = model.answer([Call(inputs, {}, frozenset())])[0]
    if isinstance(answer, AitemsError):
        raise answer
    return Recorded(inputs, answer, tolerance)


def _requests(model: ServedModel) -> Sequence[Tensors]:
    """Return requests that any bundle can answer: names of categories as titles; users that the bundle knows."""
    if isinstance(model, CategoryMatch):
        paths = model.label_paths[:RECORDED_TITLES]
        titles = [path.rpartition(" > ")[2] for path in paths]
        malls = [path.rpartition(" > ")[0] for path in paths]
        both = {"TITLE": _column(titles), "MALL_CATEGORY": _column(malls)}
        return [{"TITLE": _column(titles[:1])}, both]
    if isinstance(model, PartModel):
        return model.examples()
    assert isinstance(model, Recommend)
    return [{"REQUEST": _column([text])} for text in model.example_requests(RECORDED_USERS)]


def _column(texts: Sequence[str]) -> npt.NDArray[Any]:
    return np.array([[text.encode()] for text in texts], object)
