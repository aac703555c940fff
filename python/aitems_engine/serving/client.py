"""`Client` and `AsyncClient`: ask a Triton server, with the types and the answers of the embedded engine.

with Client("127.0.0.1:8001") as client:
    result = client.classify(titles=["나이키 에어맥스 270"], top_k=3)
    page = client.recommend(Request(user_id="u1"))

async with AsyncClient("127.0.0.1:8001") as client:
    pages = await asyncio.gather(*(client.recommend(request) for request in requests))

Requests, answers and retries are written once, in `_Asking`, as coroutines. `Client` runs them to their end on the
spot: what it awaits has blocked instead of waiting.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError, ServingError, require_extra
from aitems_engine.recommendation import Request, Response
from aitems_engine.serving.shared_memory import SharedTensors
from aitems_engine.types import Classification, LabelTable

# rows of one inference: `max_batch_size` in model_repository/
CLASSIFY_ROWS, RECOMMEND_ROWS = 256, 64
PROTOCOLS = ("grpc", "http")
RETRY_FIRST_S, RETRY_LONGEST_S = 0.02, 0.5
# of the connection itself: gRPC would wait up to two minutes before it looks for a server that has been started again
RECONNECT_MS = 500
FORGET_S = 1.0
# what a server answers while it starts, drains or has lost a process; the same request may succeed in a moment
TRANSIENT = {"StatusCode.UNAVAILABLE", "503"}
REFUSED = {"StatusCode.INVALID_ARGUMENT", "400"}
Answer = TypeVar("Answer")
Texts = Sequence["str | bytes | None"]
Tensors = Mapping[str, npt.NDArray[Any]]


class _Asking(ABC):
    """What `Client` and `AsyncClient` share; parameters: see `Client`."""

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        protocol: str = "grpc",
        deadline_s: float = 10.0,
        retries: int = 3,
        shared_memory: bool = False,
    ) -> None:
        require_extra("triton", "tritonclient")
        if protocol not in PROTOCOLS:
            raise InvalidInputError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'")
        self.address, self.deadline_s, self.retries, self.shared_memory = address, deadline_s, retries, shared_memory
        self._grpc = protocol == "grpc"
        self._unforgotten: set[str] = set()
        # errors of the connection that are no OSError
        self._broken: tuple[type[Exception], ...] = (ConnectionError,)
        if self._grpc:
            from tritonclient import grpc as api
        else:
            from tritonclient import http as api
        self._api: Any = api
        self._client: Any = self._connect()

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    async def _call(self, method: str, *args: Any, timeout_s: float | None, **options: Any) -> Any: ...

    @abstractmethod
    async def _pause(self, seconds: float) -> None: ...

    def _grpc_options(self) -> dict[str, Any]:
        """Return the client library's own options for the connection, but for when to connect again."""
        size = self._api.MAX_GRPC_MESSAGE_SIZE
        options = {"max_send_message_length": size, "max_receive_message_length": size}
        reconnect = dict.fromkeys(
            ("initial_reconnect_backoff_ms", "min_reconnect_backoff_ms", "max_reconnect_backoff_ms"), RECONNECT_MS
        )
        return {"channel_args": [(f"grpc.{name}", value) for name, value in {**options, **reconnect}.items()]}

    async def _classify(self, titles: Texts, mall_categories: Texts | None, top_k: int) -> Classification:
        if mall_categories is not None and len(mall_categories) != len(titles):
            raise InvalidInputError(
                f"mall_categories must have one entry a title ({len(titles)}), got {len(mall_categories)}"
            )
        columns = {"TITLE": _column(titles)}
        if mall_categories is not None:
            columns["MALL_CATEGORY"] = _column(mall_categories)
        answers = [
            await self._infer(
                "category_match",
                {n: c[at : at + CLASSIFY_ROWS] for n, c in columns.items()},
                parameters={"top_k": top_k},
            )
            for at in range(0, len(titles), CLASSIFY_ROWS)
        ]
        return _classification(answers, top_k)

    async def _recommend(self, requests: Sequence[Request]) -> list[Response]:
        column = _column([json.dumps(request.to_dict()) for request in requests])
        pages: list[Response] = []
        for at in range(0, len(requests), RECOMMEND_ROWS):
            answer = await self._infer("recommend", {"REQUEST": column[at : at + RECOMMEND_ROWS]}, outputs=("TRACE",))
            pages += [Response.from_dict(json.loads(text)) for text in answer["TRACE"].ravel().tolist()]
        return pages

    async def _infer(
        self,
        model: str,
        tensors: Tensors,
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        from tritonclient.utils import np_to_triton_dtype

        inputs = [self._api.InferInput(n, list(a.shape), np_to_triton_dtype(a.dtype)) for n, a in tensors.items()]
        if not self.shared_memory:
            for tensor, array in zip(inputs, tensors.values(), strict=True):
                tensor.set_data_from_numpy(array)
        wanted = [self._api.InferRequestedOutput(name) for name in outputs] or None
        options = {"model_version": version, "outputs": wanted, "parameters": dict(parameters or {})}
        end = time.monotonic() + self.deadline_s
        wait = RETRY_FIRST_S
        for attempt in range(self.retries + 1):
            try:
                if self.shared_memory:
                    result = await self._infer_shared(model, inputs, tensors, end, options)
                else:
                    result = await self._call("infer", model, inputs, timeout_s=_left(end), **options)
                break
            except Exception as error:
                # half of it at random: clients that failed together do not come back together
                pause = wait * random.uniform(0.5, 1.0)
                if not self._transient(error) or attempt == self.retries or time.monotonic() + pause >= end:
                    raise self._failed(model, error) from None
                await self._pause(pause)
                wait = min(2 * wait, RETRY_LONGEST_S)
        response = result.get_response()
        names = [output.name for output in response.outputs] if self._grpc else [o["name"] for o in response["outputs"]]
        return {name: result.as_numpy(name) for name in names}

    async def _infer_shared(
        self, model: str, inputs: Sequence[Any], tensors: Tensors, end: float, options: dict[str, Any]
    ) -> Any:
        """Run one inference on tensors in shared memory; none of it stays there, whatever happens."""
        with SharedTensors(tensors.values()) as shared:
            try:
                await self._register(shared, end)
                for tensor, (offset, size) in zip(inputs, shared.places, strict=True):
                    tensor.set_shared_memory(shared.name, size, offset)
                return await self._call("infer", model, inputs, timeout_s=_left(end), **options)
            finally:
                await self._forget(shared.name)

    async def _register(self, shared: SharedTensors, end: float) -> None:
        try:
            await self._call(
                "register_system_shared_memory", shared.name, shared.key, shared.size, timeout_s=_left(end)
            )
        except Exception as error:
            if self._transient(error) or not _status(error):
                raise
            raise ServingError(
                f"server {self.address}: {error}; shared memory needs a server that runs as the same user with the same"
                " /dev/shm (a container: started with --ipc); otherwise use shared_memory=False"
            ) from None
        # the server has opened it: without a name it goes with the last who has it, even where this process is killed
        shared.unlink()

    async def _forget(self, *names: str) -> None:
        """Let the server give up regions, and those that it refused to give up because an inference still read them."""
        self._unforgotten.update(names)
        for name in list(self._unforgotten):
            try:
                await self._call("unregister_system_shared_memory", name, timeout_s=FORGET_S)
            except Exception as error:
                # a server that is gone has given up all of them
                if not self._transient(error):
                    continue
            self._unforgotten.discard(name)

    async def _close(self) -> None:
        end = time.monotonic() + FORGET_S
        await self._forget()
        while self._unforgotten and time.monotonic() < end:
            await self._pause(0.05)
            await self._forget()

    async def _ready(self, model: str) -> bool:
        try:
            if model:
                return bool(await self._call("is_model_ready", model, timeout_s=self.deadline_s))
            return bool(await self._call("is_server_ready", timeout_s=self.deadline_s))
        except Exception as error:
            self._failed(model, error)
            return False

    def _failed(self, model: str, error: Exception) -> Exception:
        """Return the error of this package for one of the client library's; raise it where it is none of those."""
        if not isinstance(error, self._broken) and _status(error) is None:
            raise error
        text = str(getattr(error, "message", lambda: error)() or error)
        if _status(error) in REFUSED:
            return InvalidInputError(f"{model}: {text}")
        return ServingError(f"server {self.address}, model '{model}': {text}")

    def _transient(self, error: Exception) -> bool:
        return isinstance(error, self._broken) or _status(error) in TRANSIENT


class Client(_Asking):
    """Asks one server.

    Parameters
    ----------
    address : str
        HOST:PORT; 8001 is the default port of gRPC, 8000 of HTTP.
    protocol : "grpc" or "http"
    deadline_s : float
        For a call, with its retries. Seconds. `Client` with HTTP: for each try, and for connecting.
    retries : int
        Further tries after an answer that says "not now": the server starts, drains, or has lost a process.
    shared_memory : bool
        Input tensors go through /dev/shm instead of the connection, for a server on this machine that runs as the same
        user. Costs two short calls an inference; pays for large tensors only (docs/deploy.md).

    Notes
    -----
    With gRPC threads may share a client; with HTTP every thread needs its own.
    """

    def _connect(self) -> Any:
        if self._grpc:
            return self._api.InferenceServerClient(self.address, **self._grpc_options())
        from geventhttpclient.response import HTTPConnectionClosed

        self._broken = (ConnectionError, HTTPConnectionClosed)
        return self._api.InferenceServerClient(
            self.address, concurrency=1, connection_timeout=self.deadline_s, network_timeout=self.deadline_s
        )

    async def _call(self, method: str, *args: Any, timeout_s: float | None, **options: Any) -> Any:
        timeout = {"client_timeout": timeout_s} if self._grpc else {}
        return getattr(self._client, method)(*args, **options, **timeout)

    async def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def classify(
        self, titles: Texts, mall_categories: Texts | None = None, *, top_k: int = 5, threads: int = 1
    ) -> Classification:
        """Return the categories of each product; see `Engine.classify`. Not used: `threads`, the server has its own.

        Raises
        ------
        InvalidInputError
            The lists have different lengths, or the server refuses the request.
        ServingError
            The server cannot be reached, has no such model, or does not answer in time; /dev/shm is full.

        Notes
        -----
        `labels` of the result holds the leaves that stand in it, in the order in which they come up, not all leaves
        of the bundle. More than 256 titles are several inferences.
        """
        return _run(self._classify(titles, mall_categories, top_k))

    def recommend(self, request: Request) -> Response:
        """Return one page of items; see `Engine.recommend`. Raises as `classify`."""
        return _run(self._recommend([request]))[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Response]:
        """Return one page a request; see `Engine.recommend_many`. Raises as `classify`."""
        return _run(self._recommend(requests))

    def infer(
        self, model: str, tensors: Tensors, *, outputs: Sequence[str] = (), version: str = "", **parameters: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Run one inference and return the outputs, all of them where none is named.

        Parameters
        ----------
        model : str
        tensors : mapping of name to array
            Object arrays hold bytes.
        outputs : sequence of str
        version : str
            The newest where it is empty.
        **parameters
            Of the request.
        """
        return _run(self._infer(model, tensors, outputs=outputs, version=version, parameters=parameters))

    def ready(self, model: str = "") -> bool:
        """Return whether the server, or a model, says that it is ready; a model may say so and not answer."""
        return _run(self._ready(model))

    def control(self, what: str, model: str, headers: Mapping[str, str]) -> None:
        """Call `load_model` or `unload_model` of the server; the headers hold the key that allows it."""
        try:
            _run(self._call(what, model, headers=dict(headers), timeout_s=None))
        except Exception as error:
            raise self._failed(model, error) from None

    def close(self) -> None:
        """Close the connections."""
        _run(self._close())
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Asking):
    """Asks one server from coroutines; parameters and methods are those of `Client`, to be awaited.

    Notes
    -----
    To be made inside a running event loop, and used in that one only; any number of calls at a time. A call that is
    cancelled is cancelled at the server too with gRPC, before its inference has begun.
    """

    def _connect(self) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidInputError("make an AsyncClient inside a running event loop, in a coroutine") from None
        if self._grpc:
            from tritonclient.grpc import aio as grpc_aio

            return grpc_aio.InferenceServerClient(self.address, **self._grpc_options())
        import aiohttp
        from tritonclient.http import aio as http_aio

        self._broken = (ConnectionError, aiohttp.ClientError)
        return http_aio.InferenceServerClient(self.address, conn_timeout=self.deadline_s)

    async def _call(self, method: str, *args: Any, timeout_s: float | None, **options: Any) -> Any:
        call = getattr(self._client, method)
        if self._grpc:
            return await call(*args, **options, client_timeout=timeout_s)
        try:
            return await asyncio.wait_for(call(*args, **options), timeout_s)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer in {timeout_s:.3g} s") from None

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def classify(
        self, titles: Texts, mall_categories: Texts | None = None, *, top_k: int = 5, threads: int = 1
    ) -> Classification:
        """Return the categories of each product; see `Client.classify`."""
        return await self._classify(titles, mall_categories, top_k)

    async def recommend(self, request: Request) -> Response:
        """Return one page of items; see `Client.recommend`."""
        return (await self._recommend([request]))[0]

    async def recommend_many(self, requests: Sequence[Request]) -> list[Response]:
        """Return one page a request; see `Client.recommend_many`."""
        return await self._recommend(requests)

    async def infer(
        self, model: str, tensors: Tensors, *, outputs: Sequence[str] = (), version: str = "", **parameters: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Run one inference; see `Client.infer`."""
        return await self._infer(model, tensors, outputs=outputs, version=version, parameters=parameters)

    async def ready(self, model: str = "") -> bool:
        """Return whether the server, or a model, says that it is ready; see `Client.ready`."""
        return await self._ready(model)

    async def close(self) -> None:
        """Close the connections."""
        await self._close()
        await self._client.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _run(call: Coroutine[Any, Any, Answer]) -> Answer:
    """Return what a coroutine returns that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    call.close()
    raise RuntimeError("a call of Client waited")


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.001)


def _status(error: Exception) -> str | None:
    """Return the status that the server gave, "" where it gave none; None for an error that is not about serving."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        return str(error.status() or "")
    return "" if isinstance(error, OSError) else None


def _column(texts: Sequence[str | bytes | None]) -> npt.NDArray[Any]:
    column = np.empty((len(texts), 1), object)
    column[:, 0] = [_utf8(text) if isinstance(text, str) else text or b"" for text in texts]
    return column


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # as the tokeniser reads them
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


def _classification(answers: Sequence[Mapping[str, npt.NDArray[Any]]], top_k: int) -> Classification:
    """Return the answers of several inferences as one result."""
    details = [json.loads(text) for answer in answers for text in answer["DETAIL"].ravel().tolist()]
    places: dict[tuple[bytes, str], int] = {}
    leaves = [leaf for answer in answers for row in answer["LEAF_ID"].tolist() for leaf in row]
    paths = [path for detail in details for path in detail["paths"]]
    indices = [places.setdefault(both, len(places)) for both in zip(leaves, paths, strict=True)]
    parents = [detail["parent_probability"] for detail in details]
    return Classification(
        label_indices=np.array(indices, np.int32).reshape(len(details), -1 if indices else top_k),
        probabilities=np.concatenate([a["PROBABILITY"] for a in answers] or [np.zeros((0, top_k), np.float32)]),
        abstained=np.concatenate([a["ABSTAINED"].ravel() for a in answers] or [np.zeros(0, np.bool_)]),
        causes=[detail["cause"] for detail in details],
        parent_ids=[detail["parent_id"] for detail in details],
        parent_probabilities=np.array([np.nan if p is None else p for p in parents], np.float32),
        bundle_digest=details[0]["bundle"] if details else "",
        labels=LabelTable(
            np.array([leaf.decode() for leaf, _ in places], dtype=np.str_), tuple(path for _, path in places)
        ),
    )
