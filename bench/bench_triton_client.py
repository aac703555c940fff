"""From which size on input tensors should go through shared memory: the time of one inference, both ways interleaved.

The payload is the input `IMAGE`, which the model takes and does not read. Needs the extra `triton`, as bench_triton.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tests.integration.triton_kit import needs_triton
from tests.tiny_bundle import write_tiny_bundle

from aitems_engine.serving import Client
from aitems_engine.serving.repository import export_repository
from aitems_engine.serving.server import TritonServer

SIZES = (1_000, 100_000, 1_000_000, 10_000_000, 50_000_000)


@needs_triton
def test_shared_memory(tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    export_repository(tmp_path / "bundle", tmp_path / "models")
    rows = ["| bytes of input | gRPC ms | with shared memory | HTTP ms | with shared memory |", "|---|---|---|---|---|"]
    with TritonServer(tmp_path / "models", grpc_port=0, http_port=0) as server, ExitStack() as stack:
        clients = [
            stack.enter_context(Client(f"127.0.0.1:{port}", protocol=protocol, shared_memory=shared))
            for protocol, port in (("grpc", server.grpc_port), ("http", server.http_port))
            for shared in (False, True)
        ]
        for size in SIZES:
            tensors = {"TITLE": np.array([[b"apple"]], object), "IMAGE": np.array([[bytes(size)]], object)}
            taken = np.zeros((9 if size > 10**6 else 60, len(clients)))
            for row in taken:
                for i, client in enumerate(clients):
                    begin = time.perf_counter()
                    found = client.infer("category_match", tensors, top_k=3)
                    row[i] = time.perf_counter() - begin
                    assert found["LEAF_ID"].shape == (1, 3)
            rows.append(f"| {size:,} | " + " | ".join(f"{ms:.1f}" for ms in np.median(taken, 0) * 1e3) + " |")
    publish("triton_shared_memory", "\n".join(rows))
