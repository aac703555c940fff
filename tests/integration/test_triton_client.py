"""The clients against the real Triton server: deadlines, cancelled calls, shared memory, servers that die, raw calls.

That they answer what the engine answers: test_triton.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.contract.test_deploy import dashboard_metrics
from tests.integration.triton_kit import KINDS, kinds, needs_triton, repaired, write_both
from tests.unit.test_recommender import requests

from aitems_engine import Engine
from aitems_engine.errors import InvalidInputError, ServingError
from aitems_engine.serving import AsyncClient, Client
from aitems_engine.serving.repository import export_repository
from aitems_engine.serving.server import TritonServer

grpc = pytest.importorskip("grpc")
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.triton, needs_triton, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "both"
    write_both(path)
    return path


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return Engine.open(bundle)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    # a process can be made to stand still
    export_repository(bundle, repository, backend="python")
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as running:
        yield running


def test_documented_calls(server: TritonServer, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "deploy.md").read_text(), re.M | re.S)
    with_curl, with_grpcurl = (next(b for b in blocks if word in b) for word in ("curl -s", "grpcurl -plaintext"))
    python = shlex.quote(sys.executable)

    def run(block: str) -> str:
        ports = {"8000": str(server.http_port), "8001": str(server.grpc_port)}
        script = re.sub("127.0.0.1:(800[01])", lambda m: f"127.0.0.1:{ports[m[1]]}", block)
        script = re.sub("^python ", f"{python} ", script, flags=re.M)
        return subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    found = run(with_curl)
    for word in ('"LEAF_ID","datatype":"BYTES","shape":[1,2]', '"ITEM_ID"', "}200\n", '"platform"'):
        assert word in found
    if shutil.which("grpcurl"):
        found = run(with_grpcurl)
        for word in ('"name": "LEAF_ID"', '"raw_output_contents"', '"ready": true'):
            assert word in found
        return
    # what grpcurl would send
    from google.protobuf import json_format
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    made, *calls = with_grpcurl.split("grpcurl ")
    run(made)
    assert (tmp_path / "kserve.protoset").stat().st_size > 1000
    with grpc.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        body, request = (json.loads(re.findall("'(.*?)'", call, re.S)[0]) for call in calls)
        answer = stub.ModelInfer(json_format.ParseDict(body, service_pb2.ModelInferRequest()))
        assert [list(output.shape) for output in answer.outputs if output.name == "LEAF_ID"] == [[1, 2]]
        assert stub.ModelReady(json_format.ParseDict(request, service_pb2.ModelReadyRequest())).ready


def test_metrics_of_the_dashboard_and_probes(server: TritonServer) -> None:
    with Client(server.address) as client:
        client.classify(["apple"])
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        there = set(re.findall(r"^(\w+)[{ ]", answer.read().decode(), re.M))
    assert {name for name in dashboard_metrics() if name.startswith("nv_")} <= there
    # what Kubernetes asks where a probe says `grpc`
    with grpc.insecure_channel(server.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        serving = b"\x08\x01"
        assert check(b"") == serving


@contextmanager
def stopped(server: TritonServer, model: str) -> Iterator[None]:
    """Keep a model from answering: its process stands still."""
    process = server.processes()[model][0]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def left_in_shared_memory(server: TritonServer) -> tuple[list[Path], list[str]]:
    """Return what clients have left in /dev/shm, and what the server has not given up."""
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(server.address) as any_client:
        status = any_client.get_system_shared_memory_status()
    return list(Path("/dev/shm").glob(f"aitems-tensors-{os.getpid()}-*")), sorted(status.regions)


def nothing_left(server: TritonServer, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while any(left_in_shared_memory(server)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(left_in_shared_memory(server))


@pytest.mark.parametrize("kind", KINDS)
def test_deadline(server: TritonServer, engine: Engine, kind: str) -> None:
    with Client(**kinds(server)[kind], deadline_s=0.4) as client:
        began = time.monotonic()
        with stopped(server, "category_match"), pytest.raises(ServingError, match="category_match"):
            client.classify(["apple"])
        assert time.monotonic() - began < 4
    assert nothing_left(server)
    with Client(**kinds(server)[kind]) as client:
        assert client.classify(["apple"]).leaf_ids.tolist() == engine.classify(["apple"]).leaf_ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_many_calls_at_a_time(server: TritonServer, engine: Engine, kind: str) -> None:
    async def ask() -> None:
        async with AsyncClient(**kinds(server)[kind]) as client:
            assert await client.ready()
            assert await client.ready("recommend")
            assert not await client.ready("nothing")
            found = await asyncio.gather(
                *(client.classify([title]) for title in titles), *(client.recommend(request) for request in asked)
            )
        for result, title in zip(found, titles, strict=False):
            assert result.leaf_ids.tolist() == engine.classify([title]).leaf_ids.tolist()
        for page, request in zip(found[len(titles) :], asked, strict=True):
            wanted = engine.recommend(request)
            assert page.item_ids == wanted.item_ids
            assert np.abs(page.scores - wanted.scores).max() <= 1e-4  # requests that come together are ranked together

    titles, asked = [f"title {i} apple" for i in range(60)], requests(20)
    asyncio.run(ask())
    assert nothing_left(server)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_are_cancelled_or_late(server: TritonServer, kind: str) -> None:
    async def ask() -> None:
        async with AsyncClient(**kinds(server)[kind], deadline_s=0.6) as client:
            with stopped(server, "category_match"):
                calls = [asyncio.ensure_future(client.classify([f"title {i}"])) for i in range(8)]
                await asyncio.sleep(0.2)
                for call in calls[:4]:
                    call.cancel()
                found = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(error) for error in found] == [asyncio.CancelledError] * 4 + [ServingError] * 4
        async with AsyncClient(**kinds(server)[kind]) as client:
            assert len(await client.classify(["apple"])) == 1

    asyncio.run(ask())
    assert nothing_left(server)


def test_async_client_outside_a_loop() -> None:
    with pytest.raises(InvalidInputError, match="inside a running event loop"):
        AsyncClient()


@pytest.mark.parametrize("kind", ["grpc-shared", "http-shared"])
def test_more_than_shared_memory_holds(server: TritonServer, kind: str) -> None:
    rows = shutil.disk_usage("/dev/shm").total // 4
    huge = {"codes": np.broadcast_to(np.zeros((1, 1), np.int32), (rows, 1))}
    with Client(**kinds(server)[kind]) as client:
        with pytest.raises(ServingError, match=r"/dev/shm has [\d,]+ bytes free, .* make it larger"):
            client.infer("ranker", huge)
        assert len(client.classify(["apple"])) == 1
    assert nothing_left(server)


def test_full_shared_memory_of_the_server() -> None:
    own = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=24m tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a /dev/shm of its own: unshare --mount, as root")
    command = [*own, sys.executable, "-m", "tests.integration.full_shared_memory"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["full"]["short"] == "1 answered"
    assert "shared memory" in found["full"]["long"]
    assert "No space left" in found["full"]["long"]
    assert "make it larger" in found["full"]["shared"]
    assert set(found["after"].values()) == {"1 answered"}
    assert found["after_s"] < 10
    assert found["left"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_dies_under_an_async_client(server: TritonServer, kind: str) -> None:
    found, ended = Counter[str](), threading.Event()

    async def keep_asking(client: AsyncClient) -> None:
        while not ended.is_set():
            try:
                await client.classify(["apple"])
                found["ok"] += 1
            except Exception as error:
                found[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    async def ask() -> None:
        async with AsyncClient(**kinds(server)[kind], deadline_s=3.0) as client:
            await asyncio.gather(*(keep_asking(client) for _ in range(6)))

    def answers(more: int, seconds: float = 10.0) -> bool:
        wanted, end = found["ok"] + more, time.monotonic() + seconds
        while found["ok"] < wanted and time.monotonic() < end:
            time.sleep(0.05)
        return found["ok"] >= wanted

    # the server in this thread: it ends with the thread that has started it
    asking = threading.Thread(target=lambda: asyncio.run(ask()))
    asking.start()
    try:
        assert answers(20)
        os.kill(server.pid, signal.SIGKILL)
        assert "was started again" in repaired(server)[0]
        assert answers(20)  # the same client finds it again
    finally:
        ended.set()
        asking.join()
    assert set(found) == {"ok", "ServingError"}
    assert nothing_left(server)
