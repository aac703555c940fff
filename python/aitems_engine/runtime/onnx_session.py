"""An ONNX Runtime session on the CPU, made the same way for every kind of model."""

from __future__ import annotations

from typing import Any

from aitems_engine.errors import InvalidInputError


def open_session(model: str | bytes, threads: int) -> Any:
    """Return a session of a file or its bytes; `threads` 0 = all cores.

    Raises
    ------
    InvalidInputError
        Not a model that ONNX Runtime can load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: a warning about inputs that may be left out says nothing new
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base class for these
        raise InvalidInputError(f"ONNX Runtime cannot load the model: {error}") from error
