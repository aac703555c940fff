"""Builds an ONNX graph node by node from trained tensors: no tracing, so no torch, and names that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError, require_extra

Tensors = Mapping[str, npt.NDArray[np.float32]]
Part = str | tuple[str, npt.NDArray[np.int64]]
OPSET = 17


class OnnxGraph:
    """Collects nodes, inputs, outputs and initialisers.

    Parameters
    ----------
    tensors : mapping of str to float32 array
        Trained weights by name; those that `weight` asks for become part of the graph.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """

    def __init__(self, tensors: Tensors) -> None:
        require_extra("train", "onnx")
        from onnx import TensorProto, helper, numpy_helper

        self.tensors = tensors
        self._helper, self._numpy = helper, numpy_helper
        self._kinds = {"int32": TensorProto.INT32, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initialisers: dict[str, Any] = {}

    def node(self, op: str, inputs: list[str], name: str = "", *, second: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its (first) output."""
        name = name or f"{op}_{len(self._nodes)}"
        outputs = [name, second] if second else [name]
        self._nodes.append(self._helper.make_node(op, inputs, outputs, name=f"n_{name}", **attributes))
        return name

    def weight(self, name: str) -> str:
        """Return the name of a trained tensor, which becomes part of the graph."""
        if name not in self._initialisers:
            if name not in self.tensors:
                raise InvalidInputError(f"the model needs the tensor '{name}', got {', '.join(sorted(self.tensors))}")
            self.constant(name, np.ascontiguousarray(self.tensors[name], np.float32))
        return name

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self._initialisers[name] = self._numpy.from_array(value, name)
        return name

    def dense(self, name: str, *parts: Part, bias: bool = True) -> str:
        """Add the linear layer of the tensors `name.weight` (out, in) and `name.bias`.

        Its input may come in parts, each with the columns it is of, and a part with one row for all others first.
        """
        total = [self.weight(f"{name}.bias")] if bias else []
        for number, part in enumerate(parts):
            if isinstance(part, str):
                rows, weight = part, self.weight(f"{name}.weight")
            else:
                columns = self.tensors[f"{name}.weight"][:, part[1]]
                rows, weight = part[0], self.constant(f"{name}.{number}", np.ascontiguousarray(columns))
            # Gemm, not MatMul + Add: ONNX Runtime's static quantisation is several times faster on it.
            total = [self.node("Gemm", [rows, weight, *total], transB=1)]
        return total[0]

    def input(self, name: str, *axes: str | int, kind: str = "int32", default: npt.NDArray[Any] | None = None) -> str:
        """Declare an input; a word is an axis of any length. One with a default need not be given."""
        self._inputs.append(self._helper.make_tensor_value_info(name, self._kinds[kind], list(axes)))
        return name if default is None else self.constant(name, default)

    def output(self, name: str, columns: int, kind: str = "float32") -> None:
        """Declare an output of shape (n, columns)."""
        self._outputs.append(self._helper.make_tensor_value_info(name, self._kinds[kind], ["n", columns]))

    def model(self, title: str, opset: int = OPSET, facts: Mapping[str, str] | None = None) -> bytes:
        """Return the checked, serialised model; `facts` are kept as its metadata."""
        import onnx

        graph = self._helper.make_graph(
            self._nodes, title, self._inputs, self._outputs, list(self._initialisers.values())
        )
        model = self._helper.make_model(graph, opset_imports=[self._helper.make_opsetid("", opset)], ir_version=8)
        self._helper.set_model_props(model, dict(facts or {}))
        onnx.checker.check_model(model)
        serialised: bytes = model.SerializeToString()
        return serialised
