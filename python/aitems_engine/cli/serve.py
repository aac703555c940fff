"""Serve a bundle with Triton: gRPC, and HTTP and metrics where a port is given.

It says "ready" when recorded requests come back as recorded. A model whose process dies is loaded again, a server that
dies is started again. Write another bundle to the same path, as the commands that make bundles do, and it takes over
without a failed request; one that is damaged or answers wrongly does not. SIGTERM and Ctrl-C let requests in flight
finish. The server listens on this machine only unless --host says otherwise, and knows neither users nor encryption.
HTTP is off unless asked for: a request that announces a huge tensor ends the server (it is started again).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import tempfile
import threading
from pathlib import Path

EXAMPLES = """  aitems serve --bundle bundle
  aitems serve --bundle bundle --grpc-port 8001 --http-port 8000 --metrics-port 8002 --instances 4
"""
GUARD_EVERY_S, AFTER_FAILURE_S = 0.5, 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems serve`."""
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="directory written by `aitems train category` or `bundle build`")
    add("--grpc-port", type=int, default=8001, metavar="PORT", help="0 = a free one (default 8001)")
    add("--http-port", type=int, metavar="PORT", help="0 = a free one (default: no HTTP)")
    add("--metrics-port", type=int, metavar="PORT", help="0 = a free one (default: no metrics)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--instances", type=int, default=1, metavar="N", help="processes for each model (default 1)")
    add("--quiet", action="store_true", help="log warnings only")
    add("--server-log", action="store_true", help="show what tritonserver writes")


def run(args: argparse.Namespace) -> None:
    """Serve until a signal."""
    from aitems_engine.bundle import Bundle
    from aitems_engine.errors import AitemsError
    from aitems_engine.serving.repository import export_repository
    from aitems_engine.serving.server import TritonServer

    level = logging.WARNING if args.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    folder = _folder_beside(args.bundle)
    try:
        digest = Bundle.open(args.bundle).digest
        export_repository(args.bundle, folder / "models", instances=args.instances)
        server = TritonServer(
            folder / "models",
            grpc_port=args.grpc_port,
            http_port=args.http_port,
            metrics_port=args.metrics_port,
            host=args.host,
            log=(lambda line: print(line, flush=True)) if args.server_log else None,
        )
        with server:
            ports = {"grpc": server.grpc_port, "http": server.http_port, "metrics": server.metrics_port}
            listening = ", ".join(f"{name} {args.host}:{port}" for name, port in ports.items() if port)
            print(f"ready: {', '.join(server.models)}; {listening}; bundle {digest[:12]}", flush=True)
            while not ended.wait(GUARD_EVERY_S):
                try:
                    for repaired in server.guard():
                        logging.warning("%s", repaired)
                    newest = _digest(args.bundle, digest)
                    if newest != digest:
                        digest = newest
                        server.swap(args.bundle)
                        logging.info("bundle %s took over", digest[:12])
                except AitemsError as error:
                    logging.error("%s", error)
                    ended.wait(AFTER_FAILURE_S)
            logging.info("draining")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest(bundle: Path, present: str) -> str:
    """Return the digest of the bundle that is at the path now; `present` while there is none.

    Looks at the manifest alone, twice a second; whoever takes the bundle over checks its parts.
    """
    from aitems_engine.bundle import Bundle
    from aitems_engine.errors import BundleError

    try:
        return Bundle.open(bundle, verify=False).digest
    except BundleError:
        return present


def _folder_beside(bundle: Path) -> Path:
    """Return a new folder, on the bundle's file system where that is possible: its parts are linked there."""
    try:
        return Path(tempfile.mkdtemp(prefix=f".{bundle.name}.serve-", dir=bundle.absolute().parent))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="aitems-serve-"))
