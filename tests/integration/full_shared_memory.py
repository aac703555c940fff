"""What happens when /dev/shm is full, told as JSON; fills it, so it runs where /dev/shm is its own: see test_triton.py.

unshare -m sh -c 'mount -t tmpfs -o size=24m tmpfs /dev/shm && exec python -m tests.integration.full_shared_memory'
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.integration.triton_kit import write_both

from aitems_engine.errors import ServingError
from aitems_engine.serving import Client
from aitems_engine.serving.repository import export_repository
from aitems_engine.serving.server import TritonServer

SHARED, SIZE_MAX = Path("/dev/shm"), 64 << 20


def fill() -> Path:
    """Take all that is free."""
    filler = SHARED / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def told(client: Client, title: str) -> str:
    """Return how an inference ends, in words."""
    try:
        return f"{len(client.classify([title]))} answered"
    except ServingError as error:
        return str(error)


def main() -> None:
    """Fill it under a running server, ask, make room, ask again."""
    if shutil.disk_usage(SHARED).total > SIZE_MAX:
        raise SystemExit(f"{SHARED} is not for this process alone")
    title, found = "나이키 에어맥스 " * 100_000, {}
    with tempfile.TemporaryDirectory() as folder:
        write_both(Path(folder) / "bundle")
        export_repository(Path(folder) / "bundle", Path(folder) / "models", backend="python")
        with (
            TritonServer(Path(folder) / "models", grpc_port=0) as server,
            Client(server.address, retries=0) as plain,
            Client(server.address, retries=0, shared_memory=True) as shared,
        ):
            filler = fill()
            found["full"] = {"short": told(plain, "apple"), "long": told(plain, title), "shared": told(shared, title)}
            filler.unlink()
            began = time.monotonic()
            found["repaired"] = server.guard()
            found["after"] = {"short": told(plain, "apple"), "long": told(plain, title), "shared": told(shared, title)}
            found["after_s"] = time.monotonic() - began
    found["left"] = sorted(os.listdir(SHARED))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
