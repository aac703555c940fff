"""TensorRT plans without TensorRT: everything but the build itself, around a builder that is a fake by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.integration.triton_kit import write_both

from aitems_engine.cli import main
from aitems_engine.errors import ConfigError, MissingExtraError, ModelMismatchError
from aitems_engine.serving import tensorrt_builder
from aitems_engine.serving.networks import CategoryNetwork, Network, Ranking
from aitems_engine.serving.plan_graph import Feeds, builder_flags, plan_graph, run_graph
from aitems_engine.serving.plans import Host, check_answers, check_precision, layer_precisions, plan_of
from aitems_engine.training.onnx_builder import OnnxGraph

pytest.importorskip("scipy")  # the recommender of the bundle is fitted with it
HOST = Host("11.1.0", "Fake GPU", "550.54.15")


def inspected(*kinds: str) -> str:
    """Return what TensorRT's inspector writes of layers in the given precisions, in the words of several versions."""
    words = {
        "fp16": ["Half", "Row major linear FP16 format", "Channel major FP16 format where channel % 4 == 0"],
        "int8": ["Int8", "Thirty-two wide channel vectorized row major Int8 format."],
        "fp32": ["Float", "Row major linear FP32"],
    }
    layers = [
        {
            "Name": f"layer {i}",
            "LayerType": "gemm",
            "Inputs": [{"Name": "x", "Format/Datatype": words[kind][i % len(words[kind])]}],
            "Outputs": [{"Name": "y", "Dimensions": [1, 2], "Format/Datatype": "Float"}],
        }
        for i, kind in enumerate(kinds)
    ]
    half = [{"Name": "x", "Format/Datatype": "Half"}]
    moves = [{"Name": "cast", "LayerType": "Reformat", "Inputs": half, "Outputs": half}]
    ids = {"Name": "gather", "LayerType": "Gather", "Inputs": [{"Format/Datatype": "Int32"}], "Outputs": []}
    return json.dumps({"Layers": [*moves, *layers, ids], "Bindings": ["title_ids", "logits"]})


class FakeBuilder:
    """No TensorRT: its "plan" is the graph it was given, which ONNX Runtime runs on the CPU."""

    def __init__(self, host: Host = HOST, layers: Sequence[str] = ("fp16", "fp32"), off: float = 0) -> None:
        self.host, self.layers, self.off = host, layers, off
        self.asked: list[dict[str, Any]] = []

    def build(
        self, graph: bytes, *, flags: Sequence[str], profile: Mapping[str, Any], timing: bytes
    ) -> tuple[bytes, bytes]:
        self.asked.append({"flags": flags, "profile": profile, "timing": timing})
        return graph, timing + b"+"

    def run(self, plan: bytes, feeds: Feeds) -> np.ndarray:
        return run_graph(plan, feeds) + np.float32(self.off)

    def inspect(self, plan: bytes) -> str:
        return inspected(*self.layers)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "bundle"
    write_both(path)
    return path


@pytest.fixture(params=[CategoryNetwork, Ranking])
def network(request: pytest.FixtureRequest, bundle: Path) -> Network:
    made: Network = request.param()
    made.open(bundle, {})
    return made


def operators(graph: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(graph).graph.node}


@pytest.mark.parametrize("major", [10, 11])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graph_of_a_precision(network: Network, precision: str, major: int) -> None:
    feeds = network.feeds(network.samples(64))
    graph = plan_graph(network.graph(), precision, major, feeds)
    model = onnx.load_model_from_string(graph)
    assert [output.name for output in model.graph.output] == ["logits"]
    # inputs and outputs keep their types
    assert {t.type.tensor_type.elem_type for t in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert ("QuantizeLinear" in operators(graph)) == (precision == "int8")
    halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert bool(halves) == (precision == "fp16" and major == 11)
    check_answers(network.name, run_graph(network.graph(), feeds), run_graph(graph, feeds), precision)


@pytest.mark.parametrize("major", [10, 11])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_input_that_may_be_left_out(precision: str, major: int) -> None:
    rng = np.random.default_rng(0)
    graph = OnnxGraph({"layer.weight": rng.normal(size=(4, 3)), "layer.bias": rng.normal(size=4)})
    zero = graph.constant("zero", np.zeros(1, np.int64))
    rows = graph.input("rows", 1, kind="int64", default=np.array([2**62]))
    sliced = graph.node("Slice", [graph.input("dense", "n", 3, kind="float32"), zero, rows, zero])
    graph.node("Identity", [graph.dense("layer", sliced)], name="logits")
    graph.output("logits", 4)
    feeds = {"dense": rng.normal(size=(50, 3)).astype(np.float32)}
    plan = plan_graph(graph.model("layer"), precision, major, feeds)
    assert [tensor.name for tensor in onnx.load_model_from_string(plan).graph.input] == ["dense"]
    check_answers("layer", run_graph(graph.model("layer"), feeds), run_graph(plan, feeds), precision)


def test_flags_by_version() -> None:
    assert builder_flags("fp16", 10) == ("FP16",)
    assert builder_flags("int8", 10) == ("INT8", "FP16")
    assert builder_flags("fp16", 11) == builder_flags("int8", 12) == ()


def test_profile_holds_what_the_bundle_asks(network: Network) -> None:
    profile = network.profile()
    assert list(profile) == list(network.graph_inputs)
    for rows in (1, 7, network.max_rows):
        for tensors in (network.samples(rows), *network.examples()):
            for name, array in network.feeds(tensors).items():
                least, usual, most = profile[name]
                assert len(least) == len(usual) == len(most) == array.ndim
                # about so many rows: a ranker's samples are whole users
                assert all(a <= b <= c for a, b, c in zip(least[1:], array.shape[1:], most[1:], strict=True))
                assert len(array) <= network.max_rows
    assert {shapes[0][0] for shapes in profile.values()} == {1}
    assert {shapes[2][0] for shapes in profile.values()} == {network.max_rows}


def test_plan_is_kept_by_what_it_depends_on(network: Network, tmp_path: Path) -> None:
    builder = FakeBuilder()
    first = plan_of(network, builder, tmp_path)
    assert first.new
    assert first.path.name.startswith(f"{network.name}-")
    assert first.layers == {"fp32": 1, "fp16": 1, "int8": 0}
    again = plan_of(network, builder, tmp_path)
    assert again == replace(first, new=False)
    assert len(builder.asked) == 1
    assert builder.asked[0]["profile"] == network.profile()
    others = [replace(HOST, tensorrt="11.2.0"), replace(HOST, gpu="Other"), replace(HOST, driver="551.0")]
    found = [plan_of(network, FakeBuilder(host), tmp_path) for host in others]
    found.append(plan_of(network, FakeBuilder(layers=["int8"]), tmp_path, "int8"))
    network.graph = lambda: Path(network.bundle / network.part).read_bytes() + b"\n\0"  # type: ignore[method-assign]
    found.append(plan_of(network, builder, tmp_path))
    assert all(plan.new for plan in found)
    assert len({first.path, *(plan.path for plan in found)}) == 6
    # builds on one host share a timing cache, those on another do not
    assert builder.asked[1]["timing"] == b"++"
    assert len(list(tmp_path.glob("timing-*"))) == 4
    report = json.loads(first.path.with_suffix(".json").read_text())
    assert report["driver"] == HOST.driver
    assert report["deviation"] <= report["tolerance"] == 2e-2


@pytest.mark.parametrize(
    ("builder", "says"),
    [
        (FakeBuilder(off=0.3), "deviates in fp16: logits"),
        (FakeBuilder(off=float("nan")), "deviates in fp16: logits"),
        (FakeBuilder(layers=["fp32", "fp32"]), r"no layer does \(2 in fp32, 0 in fp16"),
    ],
)
def test_plans_that_are_refused(network: Network, builder: FakeBuilder, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match=says):
        plan_of(network, builder, tmp_path)
    assert not list(tmp_path.glob("*.plan"))


def test_answers_that_are_refused() -> None:
    wanted = np.array([[0.0, 1.0, 0.99], [50.0, 0.0, 0.0]], np.float32)
    assert check_answers("x", wanted, wanted + np.float32([0.01, 0, 0]), "fp16") == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ModelMismatchError, match=r"logits \(1, 3\), ONNX Runtime \(2, 3\)"):
        check_answers("x", wanted, wanted[:1], "fp16")
    with pytest.raises(ModelMismatchError, match=r"finds the best column of ONNX Runtime in 50\.0% of 2 rows"):
        check_answers("x", wanted, wanted + np.float32([0, -0.015, 0.005]), "fp16")


def test_precisions_of_layers() -> None:
    assert layer_precisions(inspected("fp16", "fp16", "fp16", "int8", "int8", "fp32", "fp32")) == {
        "fp32": 2,
        "fp16": 3,
        "int8": 2,
    }
    # of a plan built without details nothing is known, which is not enough
    nothing = layer_precisions('{"Layers": ["n_Gemm_1", "n_Conv_2 + n_Relu_3"]}')
    with pytest.raises(ModelMismatchError, match="no layer does"):
        check_precision("ranker", nothing, "fp16")


def test_a_write_that_fails_leaves_nothing(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("aitems_engine.serving.plans.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        plan_of(network, FakeBuilder(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_precision(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision must be one of fp16, int8, got 'fp8'"):
        plan_of(network, FakeBuilder(), tmp_path, "fp8")


def test_command_says_what_is_missing(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt_builder.shutil, "which", lambda name: None)
    assert main(["compile", "--target", "tensorrt", "--bundle", str(bundle)]) == 1
    told = capsys.readouterr().err
    for words in ("'tensorrt'", "'cuda-bindings'", "pip install 'aitems-engine[tensorrt]'", "nvidia-smi", "--gpus all"):
        assert words in told
    with pytest.raises(MissingExtraError):
        tensorrt_builder.TensorRtBuilder()


def test_command_reports_each_plan(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "TensorRtBuilder", FakeBuilder)
    words = ["compile", "--target", "tensorrt", "--bundle", str(bundle), "--plans", str(tmp_path)]
    assert [main(words), main(words)] == [0, 0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["category_classifier", "ranker"] * 2
    assert ["(new)" in line for line in lines] == [True, True, False, False]
    assert all("1 layers in fp32, 1 layers in fp16" in line for line in lines)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("echo NVIDIA H100, 550.54", ("NVIDIA H100", "550.54")),
        ("echo No devices were found", None),
        ("exit 9", None),
    ],
)
def test_first_gpu(told: str, found: tuple[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\n{told}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tensorrt_builder._first_gpu() == found
