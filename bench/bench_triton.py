"""What the way through Triton costs beside the embedded engine: closed-loop clients, one title a request.

The bundle is tiny, so that what is measured is the way and not the model: sockets, the server's batcher, and the
Python process that holds the engine. Processor time is that of the server and of that process, from /proc; latencies
are those that the clients see, which share the machine with both. Needs the extra `triton`: run it in an environment
with that (docs/deploy.md). AITEMS_BENCH_SECONDS sets the length of a run, AITEMS_BENCH_SWAPS the number of swaps.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.integration.triton_kit import needs_triton, resident_kilobytes, under_load
from tests.tiny_bundle import write_tiny_bundle

from aitems_engine import Engine
from aitems_engine.serving.client import Client
from aitems_engine.serving.repository import export_repository
from aitems_engine.serving.server import TritonServer

SECONDS = float(os.environ.get("AITEMS_BENCH_SECONDS", 3))
SWAPS = int(os.environ.get("AITEMS_BENCH_SWAPS", 100))
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


@needs_triton
def test_a_hundred_swaps_under_load(tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    digests = [write_tiny_bundle(tmp_path / f"bundle-{seed}", seed=seed) for seed in (1, 2)]
    export_repository(tmp_path / "bundle-1", tmp_path / "models")
    seen: Counter[str] = Counter()

    def ask() -> None:
        seen[client.classify([TITLE]).bundle_digest] += 1

    resident = []
    rows = ["| swaps | requests | failed | server MB | its Python processes MB | their number | MB in /dev/shm |"]
    rows.append("|---|---|---|---|---|---|---|")
    with TritonServer(tmp_path / "models", grpc_port=0) as server, Client(server.address, retries=0) as client:
        begin = time.monotonic()
        with under_load(ask, threads=2) as found:
            for swap in range(SWAPS + 1):
                if swap:
                    server.swap(tmp_path / f"bundle-{1 + swap % 2}")
                if swap % max(1, SWAPS // 5) == 0:
                    stubs = [pid for pids in server.processes().values() for pid in pids]
                    shared = sum(f.stat().st_blocks * 512 for f in Path("/dev/shm").glob(server.memory_prefix + "*"))
                    resident.append(resident_kilobytes([server.pid]))
                    sizes = f"{resident[-1] / 1e3:.0f} | {resident_kilobytes(stubs) / 1e3:.0f}"
                    failed = found.total() - found["ok"]
                    rows.append(
                        f"| {swap} | {found['ok']:,} | {failed} | {sizes} | {len(stubs)} | {shared / 1e6:.1f} |"
                    )
        taken = (time.monotonic() - begin) / SWAPS
    assert set(found) == {"ok"}, found
    assert set(seen) == set(digests)
    assert resident[-1] < 1.1 * resident[1]
    rows.append(f"\nEach swap took {taken:.1f} s on average, of two models, with two clients that asked all the time.")
    publish("triton-swaps", "\n".join(rows))
