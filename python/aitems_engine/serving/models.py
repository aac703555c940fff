"""What Triton runs: one class a model, from tensors to tensors, around the same engine that is used in process.

A model's `answer` knows no Triton, so it is tested, and its recorded answers are made, without a server; `execute` is
the Python backend's way in and out. The shells in model_repository/ import these classes. `initialize` answers the
recorded requests of its version and refuses to load where an answer differs: a bundle that does not answer here as it
did where it was exported never takes a request.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle
from aitems_engine.errors import AitemsError, InvalidInputError, ModelMismatchError

if TYPE_CHECKING:
    from aitems_engine.category.classifier import CategoryClassifier
    from aitems_engine.recommendation import Recommender

Tensors: TypeAlias = "dict[str, npt.NDArray[Any]]"

# in a model's version directory
BUNDLE, RECORDED, NATIVE_FILE = "bundle", "recorded.json", "classifier.bin"
MAX_TOP_K = 1000
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Call:
    """One inference request: its tensors by name, its parameters, and the outputs it wants."""

    inputs: Mapping[str, npt.NDArray[Any]]
    parameters: Mapping[str, Any]
    outputs: frozenset[str]


class ServedModel(ABC):
    """A model as Triton's Python backend expects one."""

    name: str
    outputs: frozenset[str]

    @abstractmethod
    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open what the model needs of a bundle; `settings` are the parameters of its configuration."""

    def widths(self) -> dict[str, int]:
        """Return the widths of tensors that depend on the bundle."""
        return {}

    def labels(self) -> list[str]:
        """Return the names of an output's columns, which the server gives to who asks for its classification."""
        return []

    @abstractmethod
    def answer(self, calls: Sequence[Call]) -> list[Tensors | AitemsError]:
        """Answer all calls as one batch; a call that cannot be answered gets its error, the others their tensors."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle of this version and answer its recorded requests."""
        import triton_python_backend_utils as backend

        if backend.Tensor("x", np.ones(1, np.float32)).as_numpy().size != 1:
            raise ModelMismatchError(
                f"this Triton's Python backend does not work with NumPy {np.__version__}: its outputs would be empty; "
                "run: pip install 'numpy<2'"
            )
        self._backend = backend
        settings = {k: v["string_value"] for k, v in json.loads(args["model_config"])["parameters"].items()}
        version = Path(args["model_repository"]) / args["model_version"]
        self.open(version / BUNDLE, settings)
        for request in read_recorded(version / RECORDED):
            found = self.answer([Call(request.inputs, {}, self.outputs)])[0]
            if isinstance(found, AitemsError):
                raise found
            request.check(self.name, found)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer what the server's batcher put together."""
        backend = self._backend
        calls = [
            Call(
                {tensor.name(): tensor.as_numpy() for tensor in request.inputs()},
                json.loads(request.parameters() or "{}"),
                frozenset(request.requested_output_names()),
            )
            for request in requests
        ]
        responses = []
        for call, answer in zip(calls, self.answer(calls), strict=True):
            if isinstance(answer, AitemsError):
                error = backend.TritonError(str(answer), backend.TritonError.INVALID_ARG)
                responses.append(backend.InferenceResponse(error=error))
            else:
                wanted = [backend.Tensor(name, answer[name]) for name in answer if name in call.outputs]
                responses.append(backend.InferenceResponse(wanted))
        return responses


class CategoryMatch(ServedModel):
    """TITLE, MALL_CATEGORY -> LEAF_ID, PROBABILITY, ABSTAINED, DETAIL: the same as `Engine.classify`."""

    name = "category_match"
    outputs = frozenset({"LEAF_ID", "PROBABILITY", "ABSTAINED", "DETAIL"})
    _classifier: CategoryClassifier

    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open the classifier of a bundle."""
        from aitems_engine.category.loading import load_classifier

        make = partial(load_classifier, execution=settings["execution"], mode=settings["mode"])
        self._classifier = Bundle.open_as(bundle, make)
        self._top_k, self._threads = int(settings["top_k"]), int(settings["threads"])
        self._leaf_ids = _bytes_array([leaf.encode() for leaf in self._classifier.labels.leaf_ids.tolist()])

    def write_native(self, bundle: Path, path: Path, requests: Sequence[Tensors]) -> None:
        """Write the classifier that is open, of a bundle, as the file that the native backend reads."""
        from aitems_engine.category.loading import write_native

        asked = [(_column(r["TITLE"]), _column(r["MALL_CATEGORY"]) if "MALL_CATEGORY" in r else None) for r in requests]
        write_native(Bundle.open(bundle, verify=False), self._classifier, path, asked, top_k=self._top_k)

    @property
    def label_paths(self) -> tuple[str, ...]:
        """Paths of the leaves it can answer."""
        return self._classifier.labels.paths

    def answer(self, calls: Sequence[Call]) -> list[Tensors | AitemsError]:
        """Classify the titles of all calls at once."""
        answers: list[Tensors | AitemsError] = [NOT_ANSWERED] * len(calls)
        good: list[tuple[int, int, int]] = []  # call, its rows, its top_k
        titles: list[bytes] = []
        malls: list[bytes | None] = []
        for i, call in enumerate(calls):
            try:
                top_k = _top_k(call.parameters.get("top_k", self._top_k))
                own = _texts(call, "TITLE")
                own_malls = _texts(call, "MALL_CATEGORY") if "MALL_CATEGORY" in call.inputs else [None] * len(own)
                if len(own_malls) != len(own):
                    raise InvalidInputError(f"MALL_CATEGORY has {len(own_malls)} rows, TITLE {len(own)}")
            except InvalidInputError as error:
                answers[i] = error
                continue
            titles += own
            malls += own_malls
            good.append((i, len(own), top_k))
        if not good:
            return answers
        result = self._classifier.classify(
            titles, malls if any(malls) else None, top_k=max(k for _, _, k in good), threads=self._threads
        )
        start = 0
        for i, rows, top_k in good:
            own_rows = slice(start, start + rows)
            start += rows
            answer: Tensors = {
                "LEAF_ID": self._leaf_ids[result.label_indices[own_rows, :top_k]],
                "PROBABILITY": result.probabilities[own_rows, :top_k],
                "ABSTAINED": result.abstained[own_rows, None],
            }
            if "DETAIL" in calls[i].outputs:
                paths, indices = self._classifier.labels.paths, result.label_indices[own_rows, :top_k].tolist()
                details = [
                    _json(
                        {
                            "paths": [paths[k] for k in indices[row]],
                            "cause": result.causes[row + own_rows.start],
                            "parent_id": result.parent_ids[row + own_rows.start],
                            "parent_probability": _number(result.parent_probabilities[row + own_rows.start]),
                            "bundle": result.bundle_digest,
                        }
                    )
                    for row in range(rows)
                ]
                answer["DETAIL"] = _bytes_array(details)[:, None]
            answers[i] = answer
        return answers


class Recommend(ServedModel):
    """REQUEST (JSON) -> ITEM_ID, SCORE, TRACE (JSON): the same as `Engine.recommend_many`."""

    name = "recommend"
    outputs = frozenset({"ITEM_ID", "SCORE", "TRACE"})
    _recommender: Recommender

    def open(self, bundle: Path, settings: Mapping[str, str]) -> None:
        """Open the recommender of a bundle."""
        from aitems_engine.recommendation.loading import load_recommender

        self._recommender = Bundle.open_as(bundle, load_recommender)

    def example_requests(self, users: int) -> list[str]:
        """Return requests as JSON that give the same page every time: a stranger and some users at each placement."""
        from aitems_engine.recommendation import Request

        known = self._recommender.histories
        names = [None, *(known.user_ids[:users] if known else [])]
        now = int(time.time() * 1000)
        asked = [(placement, user) for placement in self._recommender.placements for user in names]
        return [
            json.dumps(
                Request(user, placement=placement, timestamp=now, request_id=f"recorded-{i}", deadline_ms=1e8).to_dict()
            )
            for i, (placement, user) in enumerate(asked)
        ]

    def answer(self, calls: Sequence[Call]) -> list[Tensors | AitemsError]:
        """Make the pages of all calls at once."""
        from aitems_engine.recommendation import Request

        answers: list[Tensors | AitemsError] = [NOT_ANSWERED] * len(calls)
        good: list[tuple[int, int]] = []  # call, its rows
        requests: list[Request] = []
        for i, call in enumerate(calls):
            try:
                own = [Request.from_dict(_parsed(text)) for text in _texts(call, "REQUEST")]
            except InvalidInputError as error:
                answers[i] = error
                continue
            requests += own
            good.append((i, len(own)))
        pages = iter(self._recommender.recommend(requests) if requests else [])
        for i, rows in good:
            own_pages = [next(pages) for _ in range(rows)]
            width = max(map(len, own_pages))
            items = np.full((rows, width), b"", object)
            scores = np.full((rows, width), -np.inf, np.float32)
            for row, page in enumerate(own_pages):
                items[row, : len(page)] = [item.encode() for item in page.item_ids]
                scores[row, : len(page)] = page.scores
            answer: Tensors = {"ITEM_ID": items, "SCORE": scores}
            if "TRACE" in calls[i].outputs:
                answer["TRACE"] = _bytes_array([_json(page.to_dict()) for page in own_pages])[:, None]
            answers[i] = answer
        return answers


NOT_ANSWERED = AitemsError("not answered")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A request and what the bundle answered where the repository was written: canary and warm-up.

    Attributes
    ----------
    inputs, outputs : tensors by name
    tolerance : float
        By how much numbers may differ; where they are above 1, by how much of themselves.
    """

    inputs: Tensors
    outputs: Tensors
    tolerance: float = TOLERANCE

    def check(self, model: str, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """Compare an answer with the recorded one.

        Raises
        ------
        ModelMismatchError
            Other ids, or numbers that differ by more than the tolerance; names the first output that does.
        """
        numbers = next(array for array in self.outputs.values() if array.dtype.kind == "f")
        for name, wanted in self.outputs.items():
            got = found[name]
            if got.shape != wanted.shape:
                raise ModelMismatchError(f"{model}: {name} has shape {got.shape}, recorded was {wanted.shape}")
            equal = got == wanted
            if wanted.dtype.kind == "f":
                equal |= self._near(got, wanted)
            elif wanted.dtype.kind == "O" and wanted.shape == numbers.shape:
                # in a batch with others sums are made in another order: what is as good as tied may change places
                near = self._near(numbers[:, 1:], numbers[:, :-1])
                equal[:, 1:] |= near
                equal[:, :-1] |= near
            if not np.all(equal):
                at = tuple(np.argwhere(~equal)[0])
                raise ModelMismatchError(
                    f"{model}: {name}{list(map(int, at))} is {got[at]!r}, recorded was {wanted[at]!r}: "
                    "this server does not answer as the engine did when the repository was written"
                )

    def _near(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        near: npt.NDArray[np.bool_] = np.abs(a - b) <= self.tolerance * np.maximum(1, np.abs(b))
        return near


def write_recorded(path: Path, requests: Sequence[Recorded]) -> None:
    """Write recorded requests as JSON."""
    pack = [{"inputs": _packed(r.inputs), "outputs": _packed(r.outputs), "tolerance": r.tolerance} for r in requests]
    path.write_text(json.dumps(pack, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_recorded(path: Path) -> list[Recorded]:
    """Return what `write_recorded` wrote."""
    pack = json.loads(path.read_text(encoding="utf-8"))
    return [Recorded(_unpacked(r["inputs"]), _unpacked(r["outputs"]), r["tolerance"]) for r in pack]


def _packed(tensors: Tensors) -> dict[str, Any]:
    return {
        name: {
            "dtype": "BYTES" if array.dtype.kind == "O" else array.dtype.name,
            "values": [[v.decode() for v in row] for row in array.tolist()]
            if array.dtype.kind == "O"
            else array.tolist(),
        }
        for name, array in tensors.items()
    }


def _unpacked(tensors: Mapping[str, Any]) -> Tensors:
    found: Tensors = {}
    for name, packed in tensors.items():
        if packed["dtype"] == "BYTES":
            found[name] = np.array([[v.encode() for v in row] for row in packed["values"]], object)
        else:
            found[name] = np.array(packed["values"], packed["dtype"])
    return found


def _texts(call: Call, name: str) -> list[Any]:
    """Return a column of texts; the server itself does not check that it is there where other inputs are optional."""
    array = call.inputs.get(name)
    if array is None or array.ndim != 2 or array.shape[1] != 1:
        raise InvalidInputError(f"{name} must have shape (rows, 1), got {'none' if array is None else array.shape}")
    return _column(array)


def _column(array: npt.NDArray[Any]) -> list[Any]:
    values: list[Any] = array[:, 0].tolist()
    return values


def _bytes_array(values: Sequence[bytes]) -> npt.NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"REQUEST is not JSON: {str(error)[:200]}") from None


def _top_k(value: Any) -> int:
    try:
        top_k = int(value)
    except (TypeError, ValueError):
        top_k = 0
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidInputError(f"the parameter top_k must be a whole number from 1 to {MAX_TOP_K}, got {value!r:.40}")
    return top_k
