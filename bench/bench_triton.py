"""What the way through Triton costs beside the embedded engine: closed-loop clients, one title a request.

The bundle is tiny, so that what is measured is the way and not the model: sockets, the server's batcher, and the
Python process that holds the engine. Processor time is that of the server and of that process, from /proc; latencies
are those that the clients see, which share the machine with both. Needs the extra `triton`: run it in an environment
with that (docs/deploy.md). AITEMS_BENCH_SECONDS sets the length of a run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.integration.triton_kit import needs_triton
from tests.tiny_bundle import write_tiny_bundle

from aitems_engine import Engine
from aitems_engine.serving.client import Client
from aitems_engine.serving.repository import export_repository
from aitems_engine.serving.server import TritonServer

SECONDS = float(os.environ.get("AITEMS_BENCH_SECONDS", 3))
CLIENTS = (1, 8, 32)
TITLE = "[국내배송] 비도딘 몬소 대용량 게이밍데스크톱 PKE90-F24 86"
OUTPUTS = ("LEAF_ID", "PROBABILITY", "ABSTAINED")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_clients(count: int, protocol: str, port: int, right: list[str]) -> list[float]:
    """Return the seconds that each request took."""
    taken: list[float] = []
    end = time.monotonic() + SECONDS
    title = {"TITLE": np.array([[TITLE.encode()]], object)}

    def work() -> None:
        with Client(f"127.0.0.1:{port}", protocol=protocol) as client:
            while time.monotonic() < end:
                begin = time.perf_counter()
                found = client.infer("category_match", title, outputs=OUTPUTS)
                taken.append(time.perf_counter() - begin)
                assert [leaf.decode() for leaf in found["LEAF_ID"][0]] == right

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


@needs_triton
def test_way_through_the_server(tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    export_repository(tmp_path / "bundle", tmp_path / "models")
    engine = Engine.open(tmp_path / "bundle")
    right = engine.classify([TITLE]).leaf_ids[0].tolist()
    rows = ["| | clients | requests/s | p50 ms | p99 ms | processor us a request | times embedded |"]
    rows.append("|---|---|---|---|---|---|---|")
    with TritonServer(tmp_path / "models", grpc_port=0, http_port=0) as server:
        (model,) = server.processes()["category_match"]
        for protocol, port in (("grpc", server.grpc_port), ("http", server.http_port or 0)):
            for count in CLIENTS:
                begin = time.process_time()
                for _ in range(2000):
                    engine.classify([TITLE])
                embedded = (time.process_time() - begin) / 2000
                begin = processor_seconds(server.pid) + processor_seconds(model)
                taken = run_clients(count, protocol, port, right)
                each = (processor_seconds(server.pid) + processor_seconds(model) - begin) / len(taken)
                p50, p99 = np.percentile(taken, [50, 99]) * 1e3
                rows.append(
                    f"| {protocol} | {count} | {len(taken) / SECONDS:,.0f} | {p50:.2f} | {p99:.2f} "
                    f"| {each * 1e6:.0f} | {each / embedded:.1f} |"
                )
    publish("triton", "\n".join(rows))
