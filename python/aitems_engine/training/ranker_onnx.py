"""A ranking network as an ONNX graph: `codes` int32 (n, F), `dense` float32 (n, D) -> `logits` float32 (n, T).

The last codes of a row are those of its request (`FieldSpec.request_codes`), the same for all its candidates. What the
first layers make of them is computed apart and added to what they make of the candidate. `request_rows`, an input that
may be left out, says how many rows have them read: all, or with 1 the first one for all, which then costs next to
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.ranking.ranker import REQUEST_ROWS
from aitems_engine.training.onnx_builder import OnnxGraph, Part
from aitems_engine.training.rankers import DLRM, ESMM, DCNv2, DeepFM, Layers, RankingNetwork

_END = np.iinfo(np.int64).max


def build_ranker_onnx(model: RankingNetwork) -> bytes:
    """Return the network as a serialised ONNX model; n is free.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """
    graph = OnnxGraph({name: value.cpu().numpy() for name, value in model.state_dict().items()})
    inputs = _Inputs.of(graph, model)
    if isinstance(model, DeepFM):
        logits = _deepfm(graph, model, inputs)
    elif isinstance(model, DLRM):
        logits = _dlrm(graph, model, inputs)
    elif isinstance(model, DCNv2):
        logits = _dcn_v2(graph, model, inputs)
    else:
        assert isinstance(model, ESMM)
        towers = [_layers(graph, "ctr", model.ctr, inputs.flat), _layers(graph, "cvr", model.cvr, inputs.flat)]
        logits = graph.node("Concat", towers, axis=1)
    graph.node("Identity", [logits], name="logits")
    graph.output("logits", len(model.targets))
    return graph.model(model.shape.name, facts={"ranker": model.shape.name, "targets": ",".join(model.targets)})


@dataclass(frozen=True)
class _Codes:
    """Some fields of all rows, or of those that tell of a request: rows of the table (n, f), vectors (n, f, dim)."""

    rows: str
    vectors: str
    flat: str

    @classmethod
    def of(cls, graph: OnnxGraph, codes: str, table: str, offsets: npt.NDArray[Any], side: str) -> _Codes:
        # 32-bit rows: a table has fewer than 2 ** 31
        rows = graph.node("Add", [codes, graph.constant(f"{side}_offsets", offsets.astype(np.int32))])
        vectors = graph.node("Gather", [table, rows])
        return cls(rows, vectors, graph.node("Flatten", [vectors], axis=1))


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a graph: of the candidates, and where some codes are of the request, of the requests."""

    item: _Codes
    request: _Codes | None
    dense: list[str]
    flat: list[Part]
    """Vectors and dense columns side by side, as parts of their sum in a linear layer."""

    @classmethod
    def of(cls, graph: OnnxGraph, model: RankingNetwork) -> _Inputs:
        fields, dim = model.fields, model.shape.dim
        count = len(fields.cardinalities)
        # dot products of all pairs gain nothing, and a request alone makes no row
        shared = 0 if isinstance(model, DLRM) or fields.request_codes == count else fields.request_codes
        codes = graph.input("codes", "n", count)
        given = graph.input("dense", "n", fields.dense, kind="float32")
        dense = [given] if fields.dense else []
        offsets = graph.tensors["features.offsets"]
        table = graph.constant("vectors", np.ascontiguousarray(graph.tensors["features.table.weight"][:, :dim]))
        request = None
        if shared:
            rows = graph.input(REQUEST_ROWS, 1, kind="int64", default=np.array([_END]))
            zero, axis0 = (graph.constant(name, np.zeros(1, np.int64)) for name in ("zero", "axis_0"))
            told = graph.node("Slice", [codes, zero, rows, axis0])
            axis1 = graph.constant("axis_1", np.array([1], np.int64))
            begin, end = (graph.constant(f"at_{at}", np.array([at], np.int64)) for at in (count - shared, count))
            told = graph.node("Slice", [told, begin, end, axis1])
            codes = graph.node("Slice", [codes, zero, begin, axis1])
            request = _Codes.of(graph, told, table, offsets[-shared:], "request")
        item = _Codes.of(graph, codes, table, offsets[: count - shared], "item")
        flat = graph.node("Concat", [item.flat, *dense], axis=1) if dense else item.flat
        if request is None:
            return cls(item, None, dense, [flat])
        columns, of_request = np.arange(model.flat_width), slice((count - shared) * dim, count * dim)
        return cls(item, request, dense, [(request.flat, columns[of_request]), (flat, np.delete(columns, of_request))])

    def rows(self, graph: OnnxGraph) -> str:
        """Return vectors and dense columns side by side, (n, width)."""
        if self.request is None:
            return str(self.flat[0])
        shape = graph.node("Shape", [self.item.rows], start=0, end=1)
        shape = graph.node("Concat", [shape, graph.constant("one", np.ones(1, np.int64))], axis=0)
        repeated = graph.node("Expand", [self.request.flat, shape])
        return graph.node("Concat", [self.item.flat, repeated, *self.dense], axis=1)


def _deepfm(graph: OnnxGraph, model: DeepFM, inputs: _Inputs) -> str:
    weights = np.ascontiguousarray(graph.tensors["features.table.weight"][:, -1])
    axis1 = graph.constant("axis_1", np.array([1], np.int64))

    def total(of: list[str], keepdims: int) -> str:
        """Return the sum over the fields of both sides."""
        sums = [graph.node("ReduceSum", [one, axis1], keepdims=keepdims) for one in of]
        return graph.node("Add", sums) if len(sums) == 2 else sums[0]

    sides = [inputs.item, *([inputs.request] if inputs.request else [])]
    table = graph.constant("first_order", weights)
    first = total([graph.node("Gather", [table, side.rows]) for side in sides], 1)
    if inputs.dense:
        first = graph.node("Add", [first, graph.dense("first_order", inputs.dense[0], bias=False)])
    summed = total([side.vectors for side in sides], 0)
    squares = total([graph.node("Mul", [side.vectors, side.vectors]) for side in sides], 0)
    doubled = graph.node("Sub", [graph.node("Mul", [summed, summed]), squares])
    pairs = graph.node("ReduceSum", [doubled, axis1], keepdims=1)
    pairs = graph.node("Mul", [pairs, graph.constant("half", np.array(0.5, np.float32))])
    return graph.node("Add", [graph.node("Add", [first, pairs]), _layers(graph, "deep", model.deep, inputs.flat)])


def _dlrm(graph: OnnxGraph, model: DLRM, inputs: _Inputs) -> str:
    first, vectors = [], inputs.item.vectors
    if model.bottom is not None:
        first = [_layers(graph, "bottom", model.bottom, [inputs.dense[0]])]
        axis1 = graph.constant("axis_1", np.array([1], np.int64))
        vectors = graph.node("Concat", [graph.node("Unsqueeze", [first[0], axis1]), vectors], axis=1)
    products = graph.node("MatMul", [vectors, graph.node("Transpose", [vectors], perm=[0, 2, 1])])
    products = graph.node("Flatten", [products], axis=1)
    count = len(model.fields.cardinalities) + bool(model.fields.dense)
    lower = np.ravel_multi_index(model.lower.cpu().numpy(), (count, count)).astype(np.int64)
    dots = graph.node("Gather", [products, graph.constant("lower", lower)], axis=1)
    return _layers(graph, "top", model.top, [graph.node("Concat", [*first, dots], axis=1)])


def _dcn_v2(graph: OnnxGraph, model: DCNv2, inputs: _Inputs) -> str:
    start = x = inputs.rows(graph)
    for number in range(len(model.cross)):
        name = f"cross.{number}"
        inner = [x] if number else inputs.flat
        if model.shape.cross_rank:
            inner = [graph.dense(f"{name}.reduce", *inner, bias=False)]
        x = graph.node("Add", [graph.node("Mul", [start, graph.dense(f"{name}.expand", *inner)]), x])
    deep = _layers(graph, "deep", model.deep, inputs.flat) if model.shape.hidden else start
    crossed, deeper = np.split(np.arange(model.output.in_features), [model.flat_width])
    return graph.dense("output", (deep, deeper), (x, crossed))


def _layers(graph: OnnxGraph, name: str, layers: Layers, inputs: Sequence[Part]) -> str:
    rows = ""
    for number, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind == "Linear":
            rows = graph.dense(f"{name}.{number}", *([rows] if rows else inputs))
        elif kind == "ReLU":
            rows = graph.node("Relu", [rows])
    return rows
