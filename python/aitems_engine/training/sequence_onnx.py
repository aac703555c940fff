"""A transformer over histories as an ONNX graph: what serving asks about a history is its vector at the end.

Inputs are `vectors` float32 (n, L, dim), those of the items of each history, oldest first, anything behind its end, and
`lengths` int32 (n,); the output is `queries` float32 (n, dim). Item vectors are gathered outside, so that they are
stored once; where the network has a vector of the mask, it takes the place of the last item. In the last block only the
end of a history asks, which halves the work.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from aitems_engine.training.onnx_builder import OnnxGraph
from aitems_engine.training.transformer import NORM_EPSILON, Transformer

_HIDDEN = -1e9


def build_encoder_onnx(model: Transformer) -> bytes:
    """Return the network but for its item vectors as a serialised ONNX model; n and L <= `longest` are free.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """
    graph = OnnxGraph({name: value.cpu().numpy() for name, value in model.state_dict().items()})
    vectors = graph.input("vectors", "n", "length", model.items.shape[1], kind="float32")
    lengths = graph.input("lengths", "n")
    return _Encoder(graph, model).build(vectors, lengths)


class _Encoder:
    def __init__(self, graph: OnnxGraph, model: Transformer) -> None:
        self._graph, self._model = graph, model
        self._dim, self._heads = model.items.shape[1], model.heads
        self._axis = {i: graph.constant(f"axis_{i}", np.array([i], np.int64)) for i in range(2)}
        self._apart = graph.constant("apart", np.array([0, 0, self._heads, self._dim // self._heads], np.int64))
        self._joined = graph.constant("joined", np.array([0, 0, self._dim], np.int64))

    def build(self, vectors: str, lengths: str) -> bytes:
        graph, node, model = self._graph, self._graph.node, self._model
        length = node("Shape", [vectors], start=1, end=2)
        places = node("Slice", [graph.weight("places"), self._axis[0], length, self._axis[0]])
        ends = node("Sub", [lengths, graph.constant("one", np.array(1, np.int32))])
        ends = node("Cast", [ends], to=7)
        at = graph.constant("places_of", np.arange(model.longest))
        at = node("Slice", [at, self._axis[0], length, self._axis[0]])
        if model.extra:
            at_end = node("Equal", [at, node("Unsqueeze", [ends, self._axis[1]])])
            mask = graph.constant("mask", model.table()[-1].detach().cpu().numpy())
            at_end = node("Unsqueeze", [at_end, graph.constant("axis_2", np.array([2], np.int64))])
            vectors = node("Where", [at_end, mask, vectors])
        x = node("Add", [vectors, places])
        behind = node("Cast", [node("Greater", [at, node("Unsqueeze", [ends, self._axis[1]])])], to=1)
        behind = node("Mul", [behind, self._scalar("hidden", _HIDDEN)])
        behind = node("Unsqueeze", [behind, graph.constant("axes_12", np.array([1, 2], np.int64))])
        hidden = behind
        if model.causal:
            later = np.triu(np.full((model.longest, model.longest), _HIDDEN, np.float32), 1)
            hidden = node("Slice", [graph.constant("later", later), *self._square(length)])
        for number in range(len(model.blocks)):
            last = number == len(model.blocks) - 1
            x = self._block(f"blocks.{number}", x, behind if last else hidden, ends if last else "")
        if not len(model.blocks):
            x = self._at(x, ends)
        x = node("Squeeze", [self._norm("norm", x), self._axis[1]])
        node("Identity", [x], "queries")
        graph.output("queries", self._dim)
        return graph.model("history_encoder", facts={"longest": str(model.longest)})

    def _square(self, length: str) -> list[str]:
        both = self._graph.node("Concat", [length, length], axis=0)
        zeros = self._graph.constant("zeros", np.zeros(2, np.int64))
        return [zeros, both, self._graph.constant("axes_01", np.array([0, 1], np.int64))]

    def _block(self, name: str, x: str, hidden: str, ends: str) -> str:
        """Add a block; with `ends` its output is that of the end of each history alone, (n, 1, dim)."""
        graph, node = self._graph, self._graph.node
        y = self._norm(f"{name}.norm1", x)
        own = self._at(y, ends) if ends else y
        x = self._at(x, ends) if ends else x
        weights, biases = (np.split(graph.tensors[f"{name}.attention.{part}"], 3) for part in ("weight", "bias"))
        # the scale of the products belongs to the queries' weights
        scale = np.float32(1 / math.sqrt(self._dim // self._heads))
        q, k, v = (
            node("Reshape", [self._linear(f"{name}.{part}", rows, weight * factor, bias * factor), self._apart])
            for part, rows, weight, bias, factor in zip(
                "qkv", (own, y, y), weights, biases, (scale, np.float32(1), np.float32(1)), strict=True
            )
        )
        q, v = (node("Transpose", [rows], perm=[0, 2, 1, 3]) for rows in (q, v))
        shares = node("MatMul", [q, node("Transpose", [k], perm=[0, 2, 3, 1])])
        shares = node("Softmax", [node("Add", [shares, hidden])], axis=-1)
        mixed = node("Transpose", [node("MatMul", [shares, v])], perm=[0, 2, 1, 3])
        x = node("Add", [x, self._trained(f"{name}.mix", node("Reshape", [mixed, self._joined]))])
        wide = self._trained(f"{name}.wide", self._norm(f"{name}.norm2", x))
        return node("Add", [x, self._trained(f"{name}.narrow", self._gelu(wide))])

    def _at(self, x: str, ends: str) -> str:
        """Add what takes the row `ends` of each history, (n, 1, dim)."""
        rows = self._graph.node("Unsqueeze", [ends, self._graph.constant("axes_12", np.array([1, 2], np.int64))])
        return self._graph.node("GatherND", [x, rows], batch_dims=1)

    def _norm(self, name: str, x: str) -> str:
        weights = [self._graph.weight(f"{name}.{part}") for part in ("weight", "bias")]
        return self._graph.node("LayerNormalization", [x, *weights], axis=-1, epsilon=NORM_EPSILON)

    def _trained(self, name: str, x: str) -> str:
        return self._linear(name, x, *(self._graph.tensors[f"{name}.{part}"] for part in ("weight", "bias")))

    def _linear(self, name: str, x: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> str:
        matrix = self._graph.constant(f"{name}.matrix", np.ascontiguousarray(weight.T))
        product = self._graph.node("MatMul", [x, matrix])
        return self._graph.node("Add", [product, self._graph.constant(f"{name}.bias", bias)])

    def _gelu(self, x: str) -> str:
        """Add x / 2 * (1 + erf(x / sqrt(2))), in the form that ONNX Runtime makes one operator of."""
        node, scalar = self._graph.node, self._scalar
        erf = node("Erf", [node("Div", [x, scalar("root_two", math.sqrt(2))])])
        doubled = node("Mul", [x, node("Add", [erf, scalar("one_f", 1)])])
        return node("Mul", [doubled, scalar("half", 0.5)])

    def _scalar(self, name: str, value: float) -> str:
        return self._graph.constant(name, np.array(value, np.float32))
