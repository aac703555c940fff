"""A ranking network as an ONNX graph: `codes` int32 (n, F), `dense` float32 (n, D) -> `logits` float32 (n, T)."""

from __future__ import annotations

import numpy as np

from aitems_engine.training.onnx_builder import OnnxGraph
from aitems_engine.training.rankers import DLRM, ESMM, DCNv2, DeepFM, Layers, RankingNetwork


def build_ranker_onnx(model: RankingNetwork) -> bytes:
    """Return the network as a serialised ONNX model; n is free.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """
    tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    graph = OnnxGraph(tensors)
    fields, dim = model.fields, model.shape.dim
    codes = graph.input("codes", "n", len(fields.cardinalities))
    given = graph.input("dense", "n", fields.dense, kind="float32")
    dense = [given] if fields.dense else []
    # 32-bit rows: a table has fewer than 2 ** 31
    rows = graph.node("Add", [codes, graph.constant("offsets", tensors["features.offsets"].astype(np.int32))])
    table = tensors["features.table.weight"]
    vectors = graph.node("Gather", [graph.constant("vectors", np.ascontiguousarray(table[:, :dim])), rows])
    flat = graph.node("Flatten", [vectors], axis=1)
    flat = graph.node("Concat", [flat, *dense], axis=1) if dense else flat
    if isinstance(model, DeepFM):
        logits = _deepfm(graph, model, rows, vectors, flat, dense)
    elif isinstance(model, DLRM):
        logits = _dlrm(graph, model, vectors, dense)
    elif isinstance(model, DCNv2):
        logits = _dcn_v2(graph, model, flat)
    else:
        assert isinstance(model, ESMM)
        towers = [_layers(graph, "ctr", model.ctr, flat), _layers(graph, "cvr", model.cvr, flat)]
        logits = graph.node("Concat", towers, axis=1)
    graph.node("Identity", [logits], name="logits")
    graph.output("logits", len(model.targets))
    return graph.model(model.shape.name, facts={"ranker": model.shape.name, "targets": ",".join(model.targets)})


def _deepfm(graph: OnnxGraph, model: DeepFM, rows: str, vectors: str, flat: str, dense: list[str]) -> str:
    weights = np.ascontiguousarray(graph.tensors["features.table.weight"][:, -1])
    axis1 = graph.constant("axis_1", np.array([1], np.int64))
    first = graph.node("Gather", [graph.constant("first_order", weights), rows])
    first = graph.node("ReduceSum", [first, axis1], keepdims=1)
    if dense:
        first = graph.node("Add", [first, graph.dense("first_order", dense[0], bias=False)])
    total = graph.node("ReduceSum", [vectors, axis1], keepdims=0)
    squares = graph.node("ReduceSum", [graph.node("Mul", [vectors, vectors]), axis1], keepdims=0)
    doubled = graph.node("Sub", [graph.node("Mul", [total, total]), squares])
    pairs = graph.node("ReduceSum", [doubled, axis1], keepdims=1)
    pairs = graph.node("Mul", [pairs, graph.constant("half", np.array(0.5, np.float32))])
    return graph.node("Add", [graph.node("Add", [first, pairs]), _layers(graph, "deep", model.deep, flat)])


def _dlrm(graph: OnnxGraph, model: DLRM, vectors: str, dense: list[str]) -> str:
    first = []
    if model.bottom is not None:
        first = [_layers(graph, "bottom", model.bottom, dense[0])]
        axis1 = graph.constant("axis_1", np.array([1], np.int64))
        vectors = graph.node("Concat", [graph.node("Unsqueeze", [first[0], axis1]), vectors], axis=1)
    products = graph.node("MatMul", [vectors, graph.node("Transpose", [vectors], perm=[0, 2, 1])])
    products = graph.node("Flatten", [products], axis=1)
    count = len(model.fields.cardinalities) + bool(model.fields.dense)
    lower = np.ravel_multi_index(model.lower.cpu().numpy(), (count, count)).astype(np.int64)
    dots = graph.node("Gather", [products, graph.constant("lower", lower)], axis=1)
    return _layers(graph, "top", model.top, graph.node("Concat", [*first, dots], axis=1))


def _dcn_v2(graph: OnnxGraph, model: DCNv2, flat: str) -> str:
    x = flat
    for number in range(len(model.cross)):
        name = f"cross.{number}"
        inner = graph.dense(f"{name}.reduce", x, bias=False) if model.shape.cross_rank else x
        x = graph.node("Add", [graph.node("Mul", [flat, graph.dense(f"{name}.expand", inner)]), x])
    deep = _layers(graph, "deep", model.deep, flat)
    return graph.dense("output", graph.node("Concat", [x, deep], axis=1))


def _layers(graph: OnnxGraph, name: str, layers: Layers, rows: str) -> str:
    for number, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind == "Linear":
            rows = graph.dense(f"{name}.{number}", rows)
        elif kind == "ReLU":
            rows = graph.node("Relu", [rows])
    return rows
