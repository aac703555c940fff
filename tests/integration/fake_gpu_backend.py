"""A fake of the server's backends for a GPU: runs the graph that lies in the version by ONNX Runtime on the CPU.

It is loaded by the server's Python backend in the place of a graph or plan (triton_kit.run_on_a_fake).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        version = Path(args["model_repository"]) / args["model_version"]
        graph = next(p for p in (version / "model.onnx", version / "model.plan") if p.exists())
        self._session = onnxruntime.InferenceSession(str(graph))

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            (logits,) = self._session.run(["logits"], feeds)
            responses.append(backend.InferenceResponse([backend.Tensor("logits", logits.astype(np.float32))]))
        return responses
