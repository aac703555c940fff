"""`TensorRtBuilder`: the only part that touches TensorRT and the GPU. For TensorRT 10 and newer.

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/index.html. What of it was run, and what
was not, stands in docs/tensorrt.md.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import MissingExtraError, ServingError
from aitems_engine.serving.networks import Shapes
from aitems_engine.serving.plan_graph import Feeds
from aitems_engine.serving.plans import Host

WORKSPACE_BYTES = 1 << 30
OLDEST = 10
_PIP = "pip install 'aitems-engine[tensorrt]', or use NVIDIA's container nvcr.io/nvidia/tensorrt"


class TensorRtBuilder:
    """Builds plans on this host's first GPU and runs them there.

    Raises
    ------
    MissingExtraError
        TensorRT, CUDA's bindings or a GPU is missing; the message names all that is.
    """

    def __init__(self) -> None:
        missing = [
            f"the Python package '{package}' ({_PIP})"
            for package, module in (("tensorrt", "tensorrt"), ("cuda-bindings", "cuda"), ("onnx", "onnx"))
            if find_spec(module) is None
        ]
        gpu = _first_gpu()
        if gpu is None:
            missing.append(
                "an NVIDIA GPU and its driver (nvidia-smi shows none; in a container: docker run --gpus all)"
            )
        if missing or gpu is None:
            raise MissingExtraError(
                "a TensorRT plan is built on the host that serves it, and this host lacks "
                + "; ".join(missing)
                + ". Without it: aitems export triton --target cpu"
            )
        import tensorrt
        from cuda.bindings import runtime

        self._trt, self._cuda = tensorrt, runtime
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self.host = Host(tensorrt.__version__, *gpu)
        if self.host.major < OLDEST:
            raise MissingExtraError(f"plans need TensorRT {OLDEST} or newer, found {tensorrt.__version__}; run: {_PIP}")

    def build(
        self, graph: bytes, *, flags: Sequence[str], profile: Mapping[str, Shapes], timing: bytes
    ) -> tuple[bytes, bytes]:
        """See `PlanBuilder.build`."""
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network()  # with explicit batch: since TensorRT 10 there is no other
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(graph):
            errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise ServingError(f"TensorRT {self.host.tensorrt} cannot read the graph: {errors}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        # without details the inspector cannot say in which precision a layer computes
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        for flag in flags:
            config.set_flag(getattr(trt.BuilderFlag, flag))
        shapes = builder.create_optimization_profile()
        for name, (least, usual, most) in profile.items():
            shapes.set_shape(name, least, usual, most)
        config.add_optimization_profile(shapes)
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ServingError(f"TensorRT {self.host.tensorrt} builds no plan; what it wrote above says why")
        return bytes(plan), bytes(config.get_timing_cache().serialize())

    def run(self, plan: bytes, feeds: Feeds) -> npt.NDArray[np.float32]:
        """See `PlanBuilder.run`."""
        cuda = self._cuda
        context = self._engine(plan).create_execution_context()
        pointers: list[int] = []

        def on_gpu(array: npt.NDArray[Any]) -> int:
            pointers.append(_checked(cuda.cudaMalloc(array.nbytes)))
            return pointers[-1]

        try:
            for name, array in feeds.items():
                values = np.ascontiguousarray(array)
                context.set_input_shape(name, values.shape)
                pointer = on_gpu(values)
                to_gpu = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
                _checked(cuda.cudaMemcpy(pointer, values.ctypes.data, values.nbytes, to_gpu))
                context.set_tensor_address(name, pointer)
            logits = np.empty(tuple(context.get_tensor_shape("logits")), np.float32)
            pointer = on_gpu(logits)
            context.set_tensor_address("logits", pointer)
            if not context.execute_async_v3(0):
                raise ServingError("TensorRT does not run the plan; what it wrote above says why")
            _checked(cuda.cudaDeviceSynchronize())
            to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            _checked(cuda.cudaMemcpy(logits.ctypes.data, pointer, logits.nbytes, to_host))
            return logits
        finally:
            for pointer in pointers:
                cuda.cudaFree(pointer)

    def inspect(self, plan: bytes) -> str:
        """See `PlanBuilder.inspect`."""
        inspector = self._engine(plan).create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _engine(self, plan: bytes) -> Any:
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise ServingError("TensorRT does not load the plan that it has built; what it wrote above says why")
        return engine


def _first_gpu() -> tuple[str, str] | None:
    """Return name and driver version of the first GPU, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    name, comma, driver = (told.stdout.splitlines() or [""])[0].partition(", ")
    return (name, driver) if told.returncode == 0 and comma else None


def _checked(result: Any) -> Any:
    """Return the value of a call of CUDA's bindings: (error, value) or (error,)."""
    error, *value = result
    if int(error):
        raise ServingError(f"CUDA: {error.name}")
    return value[0] if value else None
