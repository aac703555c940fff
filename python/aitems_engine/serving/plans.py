"""TensorRT plans of a bundle's networks: built on the host that serves them, verified, and kept by what they depend on.

    plans/
      ranker-0123456789abcdef.plan    what the server loads; named by model, precision, shapes, TensorRT, GPU, driver
      ranker-0123456789abcdef.json    the same in words, layers by precision, deviation from ONNX Runtime
      timing-0123456789abcdef.cache   of all builds on this host

A plan that deviates from ONNX Runtime, or does not run in the precision that was asked for, is not written. Only the
builder touches TensorRT (serving/tensorrt_builder.py); everything here runs without a GPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import ConfigError, ModelMismatchError
from aitems_engine.serving.networks import Network, Shapes
from aitems_engine.serving.plan_graph import PRECISIONS, Feeds, builder_flags, plan_graph, run_graph

SAMPLE_ROWS = 256
# how far logits may be off: absolute, and of those above 1 relative
TOLERANCES = {"fp16": 2e-2, "int8": 2.5e-1}
# and of how many rows the best column must be the same, where there are more than two columns
AGREEMENTS = {"fp16": 0.99, "int8": 0.95}
# layers that move numbers and compute none
_MOVES = {"Reformat", "Constant", "Shuffle", "NoOp", "Cast", "Slice", "Concatenation", "Copy", "Move"}
_TYPES = {"half": "fp16", "fp16": "fp16", "int8": "int8", "float": "fp32", "fp32": "fp32"}


@dataclass(frozen=True)
class Host:
    """What a plan is tied to beside the model: it runs on no other version, GPU or driver.

    Attributes
    ----------
    tensorrt, gpu, driver : str
        "10.9.0", "NVIDIA H100 80GB HBM3", "550.54.15".
    """

    tensorrt: str
    gpu: str
    driver: str

    @property
    def major(self) -> int:
        """Major version of TensorRT."""
        return int(self.tensorrt.partition(".")[0])


class PlanBuilder(Protocol):
    """Builds plans and runs them."""

    host: Host

    def build(
        self, graph: bytes, *, flags: Sequence[str], profile: Mapping[str, Shapes], timing: bytes
    ) -> tuple[bytes, bytes]:
        """Return the plan of an ONNX graph, and the timing cache, which began as `timing`."""
        ...

    def run(self, plan: bytes, feeds: Feeds) -> npt.NDArray[np.float32]:
        """Return the logits of a plan."""
        ...

    def inspect(self, plan: bytes) -> str:
        """Return what the engine inspector says of a plan's layers, as JSON."""
        ...


@dataclass(frozen=True)
class Plan:
    """A plan that was verified.

    Attributes
    ----------
    path : Path
    tolerance : float
        By how much its answers may differ from those of ONNX Runtime.
    layers : mapping of precision to int
        How many layers compute in it.
    deviation : float
        The largest that was seen, relative above 1.
    new : bool
        Whether it was built just now.
    """

    path: Path
    tolerance: float
    layers: Mapping[str, int]
    deviation: float
    new: bool


def plan_of(network: Network, builder: PlanBuilder, plans: Path, precision: str = "fp16") -> Plan:
    """Return the plan of a network, built where there is none for this host.

    Parameters
    ----------
    network : Network
        Opened.
    builder : PlanBuilder
    plans : Path
        Directory where plans are kept.
    precision : "fp16" or "int8"

    Raises
    ------
    ConfigError
        Another precision.
    ModelMismatchError
        The plan deviates from ONNX Runtime, or runs in single precision; nothing is kept.
    ServingError
        TensorRT does not build it.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    graph, profile = network.graph(), network.profile()
    asked = [network.feeds(tensors) for tensors in (network.samples(SAMPLE_ROWS), *network.examples())]
    facts = {
        "model": hashlib.sha256(graph).hexdigest(),
        "precision": precision,
        "profile": profile,
        # the ranges of INT8 come from them
        "samples": _digest(*(array.tobytes() for _, array in sorted(asked[0].items()))) if precision == "int8" else "",
        **asdict(builder.host),
    }
    path = plans / f"{network.name}-{_digest(json.dumps(facts, sort_keys=True).encode())}.plan"
    report = path.with_suffix(".json")
    if path.exists():
        known = json.loads(report.read_text(encoding="utf-8"))
        return Plan(path, known["tolerance"], known["layers"], known["deviation"], new=False)
    plans.mkdir(parents=True, exist_ok=True)
    timing = plans / f"timing-{_digest(json.dumps(asdict(builder.host)).encode())}.cache"
    plan, timed = builder.build(
        plan_graph(graph, precision, builder.host.major, asked[0]),
        flags=builder_flags(precision, builder.host.major),
        profile=profile,
        timing=timing.read_bytes() if timing.exists() else b"",
    )
    _write(timing, timed)
    layers = layer_precisions(builder.inspect(plan))
    check_precision(network.name, layers, precision)
    deviation = max(
        check_answers(network.name, run_graph(graph, feeds), builder.run(plan, feeds), precision) for feeds in asked
    )
    found = {**facts, "tolerance": TOLERANCES[precision], "layers": layers, "deviation": deviation}
    _write(report, json.dumps(found, indent=1).encode())
    # last: a plan that is there has been verified
    _write(path, plan)
    return Plan(path, TOLERANCES[precision], layers, deviation, new=True)


def layer_precisions(inspected: str) -> dict[str, int]:
    """Return how many layers compute in "fp32", "fp16" and "int8", from the JSON of TensorRT's engine inspector.

    A layer counts for the narrowest type among its tensors; layers that only move numbers, or know integers alone, do
    not count.
    """
    counts = Counter(filter(None, map(_precision, json.loads(inspected)["Layers"])))
    return {name: counts[name] for name in ("fp32", "fp16", "int8")}


def _precision(layer: Any) -> str | None:
    # a plan that was built without details has names alone: nothing is known of its layers
    if not isinstance(layer, dict) or layer.get("LayerType") in _MOVES:
        return None
    formats = (t.get("Format/Datatype", "") for side in ("Inputs", "Outputs") for t in layer.get(side, ()))
    words = {word for text in formats for word in re.findall(r"\w+", text.lower())}
    found = {_TYPES[word] for word in words if word in _TYPES}
    return next((name for name in ("int8", "fp16", "fp32") if name in found), None)


def check_precision(name: str, layers: Mapping[str, int], precision: str) -> None:
    """Refuse a plan of which no layer computes in the precision that was asked for.

    Raises
    ------
    ModelMismatchError
    """
    if not layers[precision]:
        told = ", ".join(f"{count} in {kind}" for kind, count in layers.items())
        raise ModelMismatchError(
            f"the plan of '{name}' was to compute in {precision}, but no layer does ({told}): TensorRT has silently "
            "taken another precision; nothing was written"
        )


def check_answers(name: str, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32], precision: str) -> float:
    """Compare the logits of a plan with those of ONNX Runtime; return the largest deviation, relative above 1.

    Raises
    ------
    ModelMismatchError
        Another shape, a deviation above the tolerance, or another best column in too many rows.
    """
    if found.shape != wanted.shape:
        raise ModelMismatchError(f"the plan of '{name}' gives logits {found.shape}, ONNX Runtime {wanted.shape}")
    off = np.nan_to_num(np.abs(found - wanted) / np.maximum(1, np.abs(wanted)), nan=np.inf)
    worst = np.unravel_index(int(off.argmax()), off.shape)
    if off[worst] > TOLERANCES[precision]:
        raise ModelMismatchError(
            f"the plan of '{name}' deviates in {precision}: logits{list(map(int, worst))} is {found[worst]:.5g}, ONNX "
            f"Runtime says {wanted[worst]:.5g}, the tolerance is {TOLERANCES[precision]}; nothing was written"
        )
    if wanted.shape[1] > 2:
        same = float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)))
        if same < AGREEMENTS[precision]:
            raise ModelMismatchError(
                f"the plan of '{name}' in {precision} finds the best column of ONNX Runtime in {same:.1%} of "
                f"{len(wanted)} rows, and {AGREEMENTS[precision]:.0%} are wanted; nothing was written"
            )
    return float(off[worst])


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    """Write a file as one step: whoever reads it sees the old one or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
