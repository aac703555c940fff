"""The graph that a plan is built from: logits only, and the precision in the graph where TensorRT wants it there.

TensorRT 10 takes the precision from flags and lowers what it likes; from 11 on it does what the graph says
(https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api-patterns.html).
INT8 stands in the graph for both, as quantise and dequantise nodes, with ranges from sample rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import require_extra

PRECISIONS = ("fp16", "int8")
TYPED_FROM = 11  # major version of TensorRT from which on the graph says the precision
QUANTISED = ["Conv", "Gemm", "MatMul"]
Feeds = Mapping[str, npt.NDArray[Any]]


def builder_flags(precision: str, major: int) -> tuple[str, ...]:
    """Return the names of TensorRT's builder flags for a precision; from version 11 on there are none."""
    if major >= TYPED_FROM:
        return ()
    return ("FP16",) if precision == "fp16" else ("INT8", "FP16")


def plan_graph(graph: bytes, precision: str, major: int, samples: Feeds) -> bytes:
    """Return the ONNX graph that TensorRT of a major version builds a plan of a precision from.

    Parameters
    ----------
    graph : bytes
        ONNX with an output `logits`; others are cut off, and inputs that may be left out.
    precision : "fp16" or "int8"
    major : int
        Of TensorRT's version.
    samples : mapping of input name to array
        For INT8 the ranges of activations are taken from these rows.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """
    require_extra("tensorrt", "onnx")
    import onnx
    from onnx.utils import Extractor

    model = onnx.load_model_from_string(graph)
    # an input with a default becomes a constant
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor.name for tensor in model.graph.input if tensor.name not in defaults]
    model = Extractor(model).extract_model(inputs, ["logits"])
    if precision == "int8":
        model = _quantised(model, samples)
    elif major >= TYPED_FROM:
        model = _halved(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _halved(model: Any) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    # inputs and outputs keep their type; the converter leaves its casts at the end, where no parser takes them
    halved = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    halved.topological_sort()
    return halved.model


def _quantised(model: Any, samples: Feeds) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Feeds] = iter([samples])

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        # TensorRT: symmetric, 8 bits signed, biases in floats
        quantize_static(
            model,
            path,
            Rows(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return onnx.load(path)


def run_graph(graph: bytes, feeds: Feeds) -> npt.NDArray[np.float32]:
    """Return the logits that ONNX Runtime gives on the CPU: what a plan is compared with."""
    from aitems_engine.runtime.onnx_session import open_session

    logits: npt.NDArray[np.float32] = open_session(graph, threads=1).run(["logits"], dict(feeds))[0]
    return logits
