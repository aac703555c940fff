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
          classifier.bin    instead of shell and bundle where the native backend answers
        libtriton_aitems.so the native backend; Triton looks for it here

A further version is put beside the present one, complete, before the server hears of it.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.category.loading import WEIGHTS
from aitems_engine.engine import CLASSIFIER, RECOMMENDER
from aitems_engine.errors import AitemsError, BundleError, ConfigError, require_extra
from aitems_engine.ranking.ranker import HEAD
from aitems_engine.recommendation.loading import RANKER, encoder_of
from aitems_engine.serving.models import (
    BUNDLE,
    NATIVE_FILE,
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
from aitems_engine.serving.networks import CategoryNetwork, Network, PartModel, Ranking, UserEncoder
from aitems_engine.serving.plans import TOLERANCES, PlanBuilder, plan_of

CONFIG, SHELL, WARMUP, LABELS = "config.pbtxt", "model.py", "warmup", "labels.txt"
TARGETS, BACKENDS = ("cpu", "onnxruntime-trt", "tensorrt"), ("auto", "native", "python")
NATIVE, LIBRARY = "aitems", "libtriton_aitems.so"
PLANS = Path("plans")
# puts what a GPU runs into a version; returns by how much its answers may differ
Place: TypeAlias = Callable[[Network, Path], float]
RECORDED_TITLES, RECORDED_USERS = 16, 3


def templates() -> Path:
    """Return the folder of templates and shells: inside the installed package, or of the checkout."""
    here = Path(__file__).resolve()
    return next(p for p in (here.parent / "model_repository", here.parents[3] / "model_repository") if p.is_dir())


def native_library() -> Path:
    """Return the native backend, installed beside the native core."""
    from aitems_engine import _native

    return Path(_native.__file__).parent / "serving" / "backends" / NATIVE / LIBRARY


def export_repository(
    bundle: str | Path,
    out: str | Path,
    *,
    target: str = "cpu",
    instances: int = 1,
    backend: str = "auto",
    plans: Path = PLANS,
    precision: str = "fp16",
    builder: PlanBuilder | None = None,
) -> list[str]:
    """Write a repository that serves a bundle; return the names of its models.

    Parameters
    ----------
    bundle : path
        What it holds decides which models there are.
    out : path
        A directory that does not exist yet or is empty.
    target : "cpu", "onnxruntime-trt" or "tensorrt"
        For the latter two the networks alone (category_classifier, ranker) run on the GPU, in ONNX Runtime with
        TensorRT or as TensorRT plans; the other models run as they do on a CPU.
    instances : int >= 1
        Processes a model; for a model on a GPU its instances there, for one in the native backend threads.
    backend : "auto", "native" or "python"
        What answers `category_match`: the native backend, or a Python process around the engine. "auto" takes the
        native one where the bundle has the weights that it reads.
    plans, precision, builder
        For "tensorrt": where plans are kept, their precision and what builds those that are not there yet, by default
        the TensorRT of this host; see `plan_of`.

    Raises
    ------
    BundleError
        The bundle is damaged.
    ConfigError
        An unknown target or backend, `instances` < 1, `out` is taken, or the native backend cannot serve the bundle.
    MissingExtraError
        The extra `triton` is not installed, or for "tensorrt" what builds plans.
    ModelMismatchError
        A plan deviates from ONNX Runtime.
    """
    require_extra("triton", "tritonclient")
    if target not in TARGETS:
        raise ConfigError(f"target must be one of {', '.join(TARGETS)}, got '{target}'")
    if backend not in BACKENDS:
        raise ConfigError(f"backend must be one of {', '.join(BACKENDS)}, got '{backend}'")
    if instances < 1:
        raise ConfigError(f"instances must be at least 1, got {instances}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"'{out}' is not empty; choose another directory or remove it")
    place: Place | None = _place_graph if target == "onnxruntime-trt" else None
    if target == "tensorrt":
        place = _plan_placer(plans, precision, builder)
    out.mkdir(parents=True, exist_ok=True)
    models = list(models_of(bundle))
    native = backend != "python" and _native_can(bundle)
    if backend == "native" and not native:
        raise ConfigError(f"the native backend needs {CLASSIFIER} and {WEIGHTS}, and bundle '{bundle}' lacks one")
    for model in models:
        folder = out / model.name
        folder.mkdir()
        config = _read_config(templates() / model.name / CONFIG)
        if native and isinstance(model, CategoryMatch):
            config.backend = NATIVE
            shutil.copy(native_library(), folder / LIBRARY)
        network = model if target != "cpu" and isinstance(model, Network) else None
        recorded = _write_version(folder, 1, Path(bundle), model, config, place if network else None)
        if network is not None and target == "tensorrt":
            config.backend = "tensorrt"
            # for a bundle that takes over
            config.parameters["plans"].string_value = str(plans.absolute())
            config.parameters["precision"].string_value = precision
        elif network is not None:
            _use_onnxruntime(folder, config, network)
        _write_config(folder, config, recorded, instances, on_gpu=network is not None)
        _keep_labels(folder)
    return [model.name for model in models]


def add_version(repository: Path, bundle: Path, *, builder: PlanBuilder | None = None) -> dict[str, int]:
    """Put a bundle beside those that a repository serves; return the new version of each model.

    Plans of TensorRT are built by `builder`, by default the TensorRT of this host.

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
            place: Place | None = _place_graph if config.backend == "onnxruntime" else None
            if config.backend == "tensorrt":
                kept, precision = (config.parameters[key].string_value for key in ("plans", "precision"))
                place = _plan_placer(Path(kept), precision, builder)
            _write_version(folder, version, bundle, model, config, place)
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


def _native_can(bundle: str | Path) -> bool:
    parts = Bundle.open(bundle, verify=False).parts
    return CLASSIFIER in parts and WEIGHTS in parts


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


def _place_graph(network: Network, folder: Path) -> float:
    _link_file(network.bundle / network.part, folder / "model.onnx")
    return TOLERANCES["fp16"]


def _plan_placer(plans: Path, precision: str, builder: PlanBuilder | None) -> Place:
    if builder is None:
        from aitems_engine.serving.tensorrt_builder import TensorRtBuilder

        builder = TensorRtBuilder()

    def place(network: Network, folder: Path) -> float:
        plan = plan_of(network, builder, plans, precision)
        _link_file(plan.path, folder / "model.plan")
        return plan.tolerance

    return place


def _write_config(folder: Path, config: Any, recorded: Sequence[Recorded], instances: int, *, on_gpu: bool) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    kind = triton.ModelInstanceGroup.KIND_GPU if on_gpu else triton.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=instances)
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


def _use_onnxruntime(folder: Path, config: Any, network: Network) -> None:
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
    profile = network.profile()
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
    folder: Path, version: int, bundle: Path, model: ServedModel, config: Any, place: Place | None
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
        tolerance = TOLERANCE
        if isinstance(model, CategoryNetwork) or place:
            assert isinstance(model, Network)
            # what the graph has: the server wants exactly that, and a classifier without a branch has nothing for it
            for tensor in [t for t in config.input if t.name not in model.graph_inputs]:
                config.input.remove(tensor)
        if place:
            assert isinstance(model, Network)
            config.output[0].dims[0] = model.columns
            tolerance = place(model, building)
            shutil.rmtree(building / BUNDLE)
        elif isinstance(model, CategoryMatch) and config.backend == NATIVE:
            model.write_native(building / BUNDLE, building / NATIVE_FILE, _requests(model))
            shutil.rmtree(building / BUNDLE)
        else:
            shutil.copy(templates() / model.name / "1" / SHELL, building / SHELL)
        if labels := model.labels():
            (building / LABELS).write_text("".join(label + "\n" for label in labels), encoding="utf-8")
        recorded = [_recorded(model, inputs, tolerance) for inputs in _requests(model)]
        write_recorded(building / RECORDED, recorded)
        building.rename(folder / str(version))
        return recorded
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _link(bundle: Path, target: Path) -> None:
    """Link the files of a bundle; copy where the file system does not link. Opening it says whether it is whole."""
    shutil.copytree(bundle, target, copy_function=_link_file)


def _link_file(source: str | Path, target: str | Path) -> str | Path:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


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
