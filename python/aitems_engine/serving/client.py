"""`Client`: asks a Triton server, with the types and the answers of the embedded engine.

with Client("127.0.0.1:8001") as client:
    result = client.classify(titles=["나이키 에어맥스 270"], top_k=3)
    page = client.recommend(Request(user_id="u1"))
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError, ServingError, require_extra
from aitems_engine.recommendation import Request, Response
from aitems_engine.types import Classification, LabelTable

# rows of one inference: `max_batch_size` in model_repository/
CLASSIFY_ROWS, RECOMMEND_ROWS = 256, 64
PROTOCOLS = ("grpc", "http")
RETRY_FIRST_S, RETRY_LONGEST_S = 0.02, 0.5
# what a server answers while it starts, drains or has lost a process; the same request may succeed in a moment
TRANSIENT = {"StatusCode.UNAVAILABLE", "503"}
REFUSED = {"StatusCode.INVALID_ARGUMENT", "400"}


class Client:
    """Asks one server.

    Parameters
    ----------
    address : str
        HOST:PORT; 8001 is the default port of gRPC, 8000 of HTTP.
    protocol : "grpc" or "http"
    deadline_s : float
        For a call, with its retries. Seconds.
    retries : int
        Further tries after an answer that says "not now": the server starts, drains, or has lost a process.

    Notes
    -----
    With gRPC threads may share a client; with HTTP every thread needs its own.
    """

    def __init__(
        self, address: str = "127.0.0.1:8001", *, protocol: str = "grpc", deadline_s: float = 10.0, retries: int = 3
    ) -> None:
        require_extra("triton", "tritonclient")
        if protocol not in PROTOCOLS:
            raise InvalidInputError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'")
        self.address, self.deadline_s, self.retries = address, deadline_s, retries
        self._grpc = protocol == "grpc"
        if self._grpc:
            from tritonclient import grpc as api

            self._client = api.InferenceServerClient(address)
        else:
            from tritonclient import http as api

            self._client = api.InferenceServerClient(
                address, concurrency=1, connection_timeout=deadline_s, network_timeout=deadline_s
            )
        self._api = api

    def classify(
        self,
        titles: Sequence[str | bytes | None],
        mall_categories: Sequence[str | bytes | None] | None = None,
        *,
        top_k: int = 5,
        threads: int = 1,
    ) -> Classification:
        """Return the categories of each product; see `Engine.classify`. Not used: `threads`, the server has its own.

        Raises
        ------
        InvalidInputError
            The lists have different lengths, or the server refuses the request.
        ServingError
            The server cannot be reached, has no such model, or does not answer in time.

        Notes
        -----
        `labels` of the result holds the leaves that stand in it, in the order in which they come up, not all leaves
        of the bundle. More than 256 titles are several inferences.
        """
        if mall_categories is not None and len(mall_categories) != len(titles):
            raise InvalidInputError(
                f"mall_categories must have one entry a title ({len(titles)}), got {len(mall_categories)}"
            )
        columns = {"TITLE": _column(titles)}
        if mall_categories is not None:
            columns["MALL_CATEGORY"] = _column(mall_categories)
        answers = [
            self.infer("category_match", {n: c[at : at + CLASSIFY_ROWS] for n, c in columns.items()}, top_k=top_k)
            for at in range(0, len(titles), CLASSIFY_ROWS)
        ]
        return _classification(answers, top_k)

    def recommend(self, request: Request) -> Response:
        """Return one page of items; see `Engine.recommend`. Raises as `classify`."""
        return self.recommend_many([request])[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Response]:
        """Return one page a request; see `Engine.recommend_many`. Raises as `classify`."""
        column = _column([json.dumps(request.to_dict()) for request in requests])
        pages: list[Response] = []
        for at in range(0, len(requests), RECOMMEND_ROWS):
            answer = self.infer("recommend", {"REQUEST": column[at : at + RECOMMEND_ROWS]}, outputs=("TRACE",))
            pages += [Response.from_dict(json.loads(text)) for text in answer["TRACE"].ravel().tolist()]
        return pages

    def infer(
        self,
        model: str,
        tensors: Mapping[str, npt.NDArray[Any]],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        **parameters: Any,
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
        from tritonclient.utils import np_to_triton_dtype

        inputs = []
        for name, array in tensors.items():
            tensor = self._api.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        wanted = [self._api.InferRequestedOutput(name) for name in outputs] or None
        options: dict[str, Any] = {"model_version": version, "outputs": wanted, "parameters": parameters}
        end = time.monotonic() + self.deadline_s
        wait = RETRY_FIRST_S
        for attempt in range(self.retries + 1):
            if self._grpc:
                options["client_timeout"] = max(end - time.monotonic(), 0.001)
            try:
                result = self._client.infer(model, inputs, **options)
                break
            except Exception as error:
                # half of it at random: clients that failed together do not come back together
                pause = wait * random.uniform(0.5, 1.0)
                if not _transient(error) or attempt == self.retries or time.monotonic() + pause >= end:
                    raise self._failed(model, error) from None
                time.sleep(pause)
                wait = min(2 * wait, RETRY_LONGEST_S)
        response = result.get_response()
        names = [output.name for output in response.outputs] if self._grpc else [o["name"] for o in response["outputs"]]
        return {name: result.as_numpy(name) for name in names}

    def ready(self, model: str = "") -> bool:
        """Return whether the server, or a model, says that it is ready; a model may say so and not answer."""
        try:
            return bool(self._client.is_model_ready(model) if model else self._client.is_server_ready())
        except Exception as error:
            self._failed(model, error)
            return False

    def control(self, what: str, model: str, headers: Mapping[str, str]) -> None:
        """Call `load_model` or `unload_model` of the server; the headers hold the key that allows it."""
        try:
            getattr(self._client, what)(model, headers=dict(headers))
        except Exception as error:
            raise self._failed(model, error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, model: str, error: Exception) -> Exception:
        """Return the error of this package for one of the client library's; raise it where it is none of those."""
        status = _status(error)
        if status is None:
            raise error
        text = str(getattr(error, "message", lambda: error)() or error)
        if status in REFUSED:
            return InvalidInputError(f"{model}: {text}")
        return ServingError(f"server {self.address}, model '{model}': {text}")


def _status(error: Exception) -> str | None:
    """Return the status that the server gave, "" where it gave none; None for an error that is not about serving."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        return str(error.status() or "")
    return "" if isinstance(error, OSError) else None


def _transient(error: Exception) -> bool:
    return isinstance(error, ConnectionError) or _status(error) in TRANSIENT


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
