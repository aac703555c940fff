"""What the way through Triton costs beside the embedded engine: closed-loop clients, one title a request.

The bundle is tiny, so that what is measured is the way and not the model: sockets, the server's batcher, and what holds
the classifier, the native backend or a Python process. Both servers stand side by side and are asked by turns. Clients
send requests that are made beforehand, so that what they cost themselves is little. Processor time is that of the
server and of its Python process, from /proc; latencies and throughput are those that the clients see, who share the
machine with the server. Needs the extra `triton`: run it in an environment with that (docs/deploy.md).
AITEMS_BENCH_SECONDS sets the length of a run, AITEMS_BENCH_SWAPS the number of swaps.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
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
CLIENTS, BACKENDS, ROUNDS = (1, 8, 32), ("native", "python"), 3
TITLE = "[국내배송] 비도딘 몬소 대용량 게이밍데스크톱 PKE90-F24 86"
OUTPUTS = ("LEAF_ID", "PROBABILITY", "ABSTAINED")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _texts(values: list[str]) -> bytes:
    return b"".join(len(value.encode()).to_bytes(4, "little") + value.encode() for value in values)


def run_http(count: int, port: int, right: list[str]) -> list[float]:
    """Return the seconds that each request took; all connections in one loop."""
    from tritonclient import http

    title = http.InferInput("TITLE", [1, 1], "BYTES")
    title.set_data_from_numpy(np.array([[TITLE.encode()]], object))
    outputs = [http.InferRequestedOutput(name) for name in OUTPUTS]
    body, header_length = http.InferenceServerClient.generate_request_body([title], outputs=outputs)
    head = f"POST /v2/models/category_match/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    request = f"{head}Inference-Header-Content-Length: {header_length}\r\n\r\n".encode() + body
    selector, started, waiting = selectors.DefaultSelector(), {}, {}
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        waiting[connection], started[connection] = b"", time.perf_counter()
        connection.sendall(request)
    taken, end, wanted = [], time.perf_counter() + SECONDS, _texts(right)
    while waiting:
        for key, _ in selector.select(5):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            got = waiting[connection] = waiting[connection] + connection.recv(1 << 16)
            header, separator, rest = got.partition(b"\r\n\r\n")
            if not separator or len(rest) < int(header.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
                continue
            assert header.startswith(b"HTTP/1.1 200"), got
            now = time.perf_counter()
            taken.append(now - started[connection])
            if now > end:
                assert wanted in rest
                selector.unregister(connection)
                connection.close()
                del waiting[connection]
                continue
            waiting[connection], started[connection] = b"", now
            connection.sendall(request)
    return taken


def run_grpc(count: int, port: int, right: list[str]) -> list[float]:
    """Return the seconds that each request took; each client begins anew when it is answered."""
    import grpc
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="category_match")
    request.inputs.add(name="TITLE", datatype="BYTES", shape=[1, 1])
    for name in OUTPUTS:
        request.outputs.add(name=name)
    request.raw_input_contents.append(_texts([TITLE]))
    data = request.SerializeToString()
    taken: list[float] = []
    end, left, done = time.perf_counter() + SECONDS, [count], threading.Event()
    with ExitStack() as stack:

        def ask(call: Callable[..., grpc.Future]) -> None:
            begin = time.perf_counter()

            def answered(future: grpc.Future) -> None:
                now = time.perf_counter()
                taken.append(now - begin)
                answer = service_pb2.ModelInferResponse.FromString(future.result()) if now > end else None
                if answer is None:
                    ask(call)
                    return
                raw = answer.raw_output_contents[[output.name for output in answer.outputs].index("LEAF_ID")]
                assert raw == _texts(right)
                left[0] -= 1
                if not left[0]:
                    done.set()

            call(data, timeout=10).add_done_callback(answered)

        for number in range(count):
            # a connection of its own each
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=[("client", number)]))
            ask(channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None).future)
        assert done.wait(SECONDS + 30)
    return taken


@needs_triton
def test_way_through_the_server(tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    engine = Engine.open(tmp_path / "bundle")
    right = engine.classify([TITLE]).leaf_ids[0].tolist()
    rows = [
        "| | clients | backend | requests/s | p50 ms | p99 ms | processor us a request | times embedded | clients us |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    gains = ["| | clients | throughput, native / Python | processor time, Python / native |", "|---|---|---|---|"]
    with ExitStack() as stack:
        servers = {}
        for backend in BACKENDS:
            export_repository(tmp_path / "bundle", tmp_path / backend, backend=backend)
            servers[backend] = stack.enter_context(TritonServer(tmp_path / backend, grpc_port=0, http_port=0))
        for protocol, run in (("grpc", run_grpc), ("http", run_http)):
            for count in CLIENTS:
                taken: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
                rates: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
                each: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
                own: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
                embedded = []
                for _ in range(ROUNDS):
                    begin = time.process_time()
                    for _ in range(2000):
                        engine.classify([TITLE])
                    embedded.append((time.process_time() - begin) / 2000)
                    for backend, server in servers.items():
                        pids = [server.pid, *server.processes()["category_match"]]
                        port = server.grpc_port if protocol == "grpc" else server.http_port or 0
                        begin, wall, mine = sum(map(processor_seconds, pids)), time.perf_counter(), time.process_time()
                        found = run(count, port, right)
                        rates[backend].append(len(found) / (time.perf_counter() - wall))
                        each[backend].append((sum(map(processor_seconds, pids)) - begin) / len(found))
                        own[backend].append((time.process_time() - mine) / len(found))
                        taken[backend] += found
                for backend in BACKENDS:
                    p50, p99 = np.percentile(taken[backend], [50, 99]) * 1e3
                    cost = float(np.median(each[backend]))
                    rows.append(
                        f"| {protocol} | {count} | {backend} | {np.median(rates[backend]):,.0f} | {p50:.2f} "
                        f"| {p99:.2f} | {cost * 1e6:.0f} | {cost / np.median(embedded):.1f} "
                        f"| {np.median(own[backend]) * 1e6:.0f} |"
                    )
                faster = np.array(rates["native"]) / np.array(rates["python"])
                cheaper = np.array(each["python"]) / np.array(each["native"])
                gains.append(f"| {protocol} | {count} | {np.median(faster):.2f} | {np.median(cheaper):.2f} |")
    publish("triton", "\n".join([*rows, "", f"Median of {ROUNDS} rounds by turns:", "", *gains]))


def wait_for_the_old(server: TritonServer, seconds: float = 20) -> None:
    """Wait until the processes of versions that were swapped out have ended, which they do after the swap."""
    end = time.monotonic() + seconds
    children = Path(f"/proc/{server.pid}/task")
    while sum(len(c.read_text().split()) for c in children.glob("*/children")) > sum(
        map(len, server.processes().values())
    ):
        assert time.monotonic() < end, "processes of old versions do not end"
        time.sleep(0.2)


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
                    wait_for_the_old(server)
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
