"""`TritonServer`: starts the real server on a repository, guards it, swaps bundles under it, and drains it.

What the server does not do by itself (docs/deploy.md has what was seen):
- it says that it is ready as soon as models are loaded; here it is ready when recorded requests come back as recorded;
- a Python process of it that dies is never started again while health stays green; here the model is loaded anew;
- an instance whose process has died never ends, so that the server would wait for it until its exit times out; here
  the server is ended as soon as no request is in flight, and what it leaves in shared memory is removed;
- whoever reaches its ports may load models, and with them code; here that needs a key that only this process has.
"""

from __future__ import annotations

import ctypes
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aitems_engine.errors import AitemsError, InvalidInputError, ServingError
from aitems_engine.serving.client import Client
from aitems_engine.serving.installation import Installation
from aitems_engine.serving.models import RECORDED, read_recorded
from aitems_engine.serving.repository import CONFIG, add_version, remove_version, versions_of

LOOPBACK = "127.0.0.1"
CANARY_DEADLINE_S = 5.0
CANARY_EVERY_S, CANARY_FAILURES = 2.0, 3
DRAIN_S, AFTER_DRAIN_S = 30, 5
DRAINED = "All models are stopped"
LOG_LINES, ERROR_LINES = 60, 2
KEY_HEADER = "aitems-key"
STUB = "triton_python_backend_stub"
_LIBC = ctypes.CDLL(None)


class TritonServer:
    """A server on one repository; a context manager that starts and drains it.

    Parameters
    ----------
    repository : path
        Written by `aitems export triton`.
    grpc_port, http_port, metrics_port : int, optional
        0 takes a free one; None leaves the service out (gRPC is always there).
    host : str
        Address to listen on; the server knows no users and no encryption, so anything else than loopback belongs
        behind something that does.
    start_timeout_s : float
        Seconds until the recorded requests must have been answered.
    log : callable, optional
        Takes every line that the server writes.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        grpc_port: int = 8001,
        http_port: int | None = None,
        metrics_port: int | None = None,
        host: str = LOOPBACK,
        start_timeout_s: float = 120.0,
        log: Callable[[str], Any] | None = None,
    ) -> None:
        self.repository, self.host = Path(repository).absolute(), host
        self.models = sorted(p.parent.name for p in self.repository.glob(f"*/{CONFIG}"))
        if not self.models:
            raise ServingError(f"'{repository}' is no repository of models; write one: aitems export triton")
        self.grpc_port = grpc_port or _free_port(host)
        self.http_port = _free_port(host) if http_port == 0 else http_port
        self.metrics_port = _free_port(host) if metrics_port == 0 else metrics_port
        self._timeout_s, self._log = start_timeout_s, log or (lambda line: None)
        self._key, self._resources = secrets.token_hex(16), ExitStack()
        self.memory_prefix = f"aitems-{secrets.token_hex(6)}-"
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._errors: deque[str] = deque(maxlen=ERROR_LINES)  # what unloads many models writes more than LOG_LINES
        self._drained = threading.Event()
        self._expected: dict[str, int] = {}
        self._failures: Counter[str] = Counter()
        self._next_canary = 0.0

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until every model answers its recorded requests as recorded.

        Raises
        ------
        ServingError
            It ended, or was not ready in time; the message holds its last lines.
        MissingExtraError
            There is no server here.
        """
        self._drained.clear()
        self._failures.clear()
        command, environment = self._resources.enter_context(Installation.find().prepared())
        self._process = subprocess.Popen(
            [*command, *self._options()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which drains
            preexec_fn=_die_with_parent,
        )
        threading.Thread(target=self._read_log, args=(self._process,), daemon=True).start()
        self._client = self._resources.enter_context(Client(self.address, deadline_s=CANARY_DEADLINE_S, retries=0))
        try:
            self._wait_for_canaries()
        except BaseException:
            self.stop(drain=False)
            raise
        self._expect()

    def _options(self) -> list[str]:
        def service(name: str, port: int | None) -> list[str]:
            if port is None:
                return [f"--allow-{name}=false"]
            return [f"--allow-{name}=true", f"--{name}-address={self.host}", f"--{name}-port={port}"]

        return [
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.models),
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            "--exit-on-error=true",
            f"--exit-timeout-secs={DRAIN_S}",
            "--allow-gpu-metrics=false",
            "--metrics-config=summary_latencies=true",
            *service("grpc", self.grpc_port),
            *service("http", self.http_port),
            *service("metrics", self.metrics_port),
            f"--backend-config=python,shm-region-prefix-name={self.memory_prefix}",
            f"--grpc-restricted-protocol=model-repository:{KEY_HEADER}={self._key}",
            *([f"--http-restricted-api=model-repository:{KEY_HEADER}={self._key}"] if self.http_port else []),
        ]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line)
            if re.match(r"E\d{4} ", line):
                self._errors.append(line)
            if DRAINED in line:
                self._drained.set()
            self._log(line.rstrip("\n"))

    def _last_words(self) -> str:
        """Return the error with which the server ended, or else its last lines, without tables."""
        lines = [line for line in self._lines if line[:1] not in "|+\n"]
        ends = [i for i, line in enumerate(lines) if line.startswith("error:")]
        return "".join([*self._errors, *lines[ends[-1] if ends else -10 :]]).strip()

    def _wait_for_canaries(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self._timeout_s
        while True:
            if self._process.poll() is not None:
                raise ServingError(f"tritonserver ended with status {self._process.returncode}: {self._last_words()}")
            try:
                if self._client.ready():
                    for model in self.models:
                        self.canary(model)
                    return
            except ServingError:
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                raise ServingError(f"tritonserver was not ready after {self._timeout_s:.0f} s: {self._last_words()}")
            time.sleep(0.05)

    def canary(self, model: str, version: int | None = None) -> None:
        """Ask a model its recorded requests.

        Raises
        ------
        ServingError, InvalidInputError
            It does not answer.
        ModelMismatchError
            It answers something else than recorded.
        """
        folder = self.repository / model
        version = max(versions_of(folder)) if version is None else version
        for request in read_recorded(folder / str(version) / RECORDED):
            found = self._client.infer(model, request.inputs, outputs=tuple(request.outputs), version=str(version))
            request.check(model, found)

    def guard(self) -> list[str]:
        """Look once whether all is well and repair what is not; return what was done, in words.

        Notes
        -----
        To be called about twice a second. A dead process is seen at once; a model that does not answer its recorded
        requests is loaded anew after three tries, two seconds apart, so that a full queue alone does not do it.
        """
        if self._process is None or self._process.poll() is not None:
            status = "unknown" if self._process is None else self._process.returncode
            self.stop(drain=False)
            self.start()
            return [f"tritonserver had ended with status {status} and was started again"]
        done = []
        lost = [model for model, alive in self.processes().items() if len(alive) < self._expected[model]]
        if time.monotonic() >= self._next_canary:
            self._next_canary = time.monotonic() + CANARY_EVERY_S
            for model in self.models:
                try:
                    self.canary(model)
                    self._failures[model] = 0
                except AitemsError:
                    self._failures[model] += 1
            lost += [model for model in self.models if self._failures[model] >= CANARY_FAILURES and model not in lost]
        for model in lost:
            self._control("unload_model", model)
            self._control("load_model", model)
            self.canary(model)
            self._failures[model] = 0
            done.append(f"model '{model}' did not answer any more and was loaded again")
        if lost:
            self._expect()
        return done

    def swap(self, bundle: str | Path) -> None:
        """Serve another bundle: loaded beside the present one, asked its recorded requests, then alone.

        Raises
        ------
        BundleError
            It is damaged or cannot do what the repository serves; the present bundle goes on.
        ServingError, ModelMismatchError
            It does not load or answers wrongly; the present bundle goes on.

        Notes
        -----
        Requests in flight finish on the old bundle. Each model refuses, while it loads, to take over where it does
        not answer as recorded; for a moment one model may answer from the new bundle and another from the old.
        """
        added = add_version(self.repository, Path(bundle))
        try:
            for model, version in added.items():
                self._control("load_model", model)
                self.canary(model, version)
        except BaseException:
            for model, version in added.items():
                remove_version(self.repository, model, version)
                self._control("load_model", model)
            raise
        for model, version in added.items():
            for old in versions_of(self.repository / model):
                if old != version:
                    remove_version(self.repository, model, old)
        self._expect()

    def _control(self, what: str, model: str) -> None:
        try:
            self._client.control(what, model, {f"triton-grpc-protocol-{KEY_HEADER}": self._key})
        except (ServingError, InvalidInputError) as error:
            raise ServingError(f"{what.replace('_', ' ')}: {error}") from None

    def _expect(self) -> None:
        self._expected = {model: len(alive) for model, alive in self.processes().items()}

    def processes(self) -> dict[str, list[int]]:
        """Return the ids of the Python processes of each model, in its newest version, that are alive."""
        found: dict[str, list[int]] = {model: [] for model in self.models}
        newest = {str(self.repository / m / str(max(versions_of(self.repository / m)))): m for m in self.models}
        for children in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for child in _read(children).split():
                # of a process that has ended nothing is left to read
                words = _read(Path(f"/proc/{child}/cmdline")).split("\0")
                if len(words) > 1 and words[0].endswith(STUB) and (folder := str(Path(words[1]).parent)) in newest:
                    found[newest[folder]].append(int(child))
        return found

    def stop(self, *, drain: bool = True) -> None:
        """Stop accepting requests, let those in flight finish, and end the server; stopping twice is fine."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            if drain:
                self._drained.wait(DRAIN_S)
            try:
                process.wait(AFTER_DRAIN_S if drain else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for left in Path("/dev/shm").glob(self.memory_prefix + "*"):
            left.unlink(missing_ok=True)
        self._resources.close()
        self._resources = ExitStack()

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _die_with_parent() -> None:
    set_parent_death_signal = 1
    _LIBC.prctl(set_parent_death_signal, signal.SIGTERM)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
