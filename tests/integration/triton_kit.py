"""What the tests of the real Triton server share: a bundle that classifies and recommends, and raw requests."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_bundle import tiny_parts
from tests.unit.test_ranker import network
from tests.unit.test_recommender import NOW, catalogue, histories, made

from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.errors import ServingError
from aitems_engine.ranking import FeatureConfig, FeatureQuery, FeatureSet, ranker_parts
from aitems_engine.serving import AsyncClient
from aitems_engine.serving.repository import CONFIG, versions_of
from aitems_engine.serving.server import TritonServer

MISSING = None
if importlib.util.find_spec("tritonclient") is None:
    MISSING = "tritonclient is not installed: pip install 'aitems-engine[triton]'"
elif shutil.which("tritonserver") is None and importlib.util.find_spec("pytriton") is None:
    MISSING = "there is no tritonserver: pip install 'aitems-engine[triton]'"
if MISSING and os.environ.get("AITEMS_REQUIRE_TRITON") == "1":
    raise RuntimeError(f"AITEMS_REQUIRE_TRITON=1, and {MISSING}")
KINDS = ["grpc", "http", "grpc-shared", "http-shared"]
needs_triton = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


def write_both(path: Path, *, seed: int = 3) -> str:
    """Write a bundle with a classifier of random weights and a recommender; return its digest."""
    items = catalogue()
    known = histories(items)
    query = FeatureQuery.of(
        known, known.items, known.splits, np.full(len(known), NOW), {"placement": ["home"] * len(known)}
    )
    counts = np.ones((len(items), 3), np.int64)
    features = FeatureSet.fit(
        FeatureConfig.default(items), items, replace(query, counts=counts[query.candidates]), counts
    )
    write_bundle(path.with_suffix(".ranker"), ranker_parts(features, network(features)))
    parts = {**tiny_parts(seed=seed), **made(items, known, Bundle.open(path.with_suffix(".ranker")))}
    return write_bundle(path, parts, config={"seed": seed})


def run_on_a_fake(model: Path) -> None:
    """Let a network that is configured for a GPU run on a CPU, in a fake of the backend that would run its graph.

    Everything else of the configuration stays: tensors and their shapes, batching, warm-up, labels, versions.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse((model / CONFIG).read_text(), model_config_pb2.ModelConfig())
    config.backend = "python"
    config.ClearField("optimization")
    for group in config.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    (model / CONFIG).write_text(text_format.MessageToString(config))
    for version in versions_of(model):
        shutil.copy(Path(__file__).with_name("fake_gpu_backend.py"), model / str(version) / "model.py")


def resident_kilobytes(pids: Sequence[int]) -> int:
    """Return the resident memory of processes."""
    sizes = (re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in pids)
    return sum(int(size[1]) for size in sizes if size)


def post(port: int, model: str, body: Any, *, timeout: float = 5.0) -> tuple[int, dict[str, Any]]:
    """POST an inference as KServe JSON; return the status and the answer; status 0 where the connection broke."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError as error:
        return 0, {"error": repr(error)}


def kinds(server: TritonServer) -> dict[str, dict[str, Any]]:
    """Return the arguments of a client for each protocol, with and without shared memory."""
    ports = {"grpc": server.grpc_port, "http": server.http_port}
    return {
        protocol + suffix: {"address": f"127.0.0.1:{port}", "protocol": protocol, "shared_memory": bool(suffix)}
        for protocol, port in ports.items()
        for suffix in ("", "-shared")
    }


class Waiting:
    """An `AsyncClient` that is asked from code that is not asynchronous, so that tests of `Client` run on it."""

    def __init__(self, **options: Any) -> None:
        async def connect() -> AsyncClient:
            return AsyncClient(**options)

        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(connect())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self._loop.run_until_complete(getattr(self._client, name)(*args, **options))

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


def repaired(server: TritonServer, seconds: float = 10.0) -> list[str]:
    """Look after the server, as `aitems serve` does, until something was repaired; return what."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if done := server.guard():
                return done
        except ServingError:
            pass  # a server that is about to be gone; `aitems serve` looks again, too
        time.sleep(0.1)
    raise AssertionError(f"nothing was repaired in {seconds} s")


@contextmanager
def under_load(ask: Callable[[], object], *, threads: int = 3) -> Iterator[Counter[str]]:
    """Call `ask` from several threads all the time; yield what came of it: "ok" or the kind of error, counted."""
    ended, found = threading.Event(), Counter[str]()

    def work() -> None:
        while not ended.is_set():
            try:
                ask()
                found["ok"] += 1
            except Exception as error:
                found[f"{type(error).__name__}: {error}"[:200]] += 1

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield found
    finally:
        ended.set()
        for worker in workers:
            worker.join()
