"""`Engine`: read this first. One opened bundle that answers; the rest of the package builds, feeds or measures it.

    engine = Engine.open("bundle")
    result = engine.classify(titles=["나이키 에어맥스 270 남성 운동화 280"], mall_categories=["패션잡화 > 신발"])
    result.leaf_ids[0, 0], result.probabilities[0, 0], result.abstained[0]
    page = engine.recommend(Request(user_id="u1", history=["p1", "p2"], placement="home", k=20))
    page.item_ids, page.items[0].provenance, page.trace

The way of a title: bytes -> tokens and character n-grams (text/, csrc/text) -> scores of all leaves (runtime/,
csrc/textcnn) -> calibrated probabilities -> accept or abstain (category/classifier.py) -> `Classification`
(types.py). The way of a request: recommendation/recommender.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aitems_engine import __version__
from aitems_engine.bundle import Bundle
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError
from aitems_engine.types import Classification

if TYPE_CHECKING:
    from aitems_engine.category.classifier import CategoryClassifier, Texts
    from aitems_engine.recommendation import Recommender, Request, Response, Trace

# the parts that say what a bundle can do
CLASSIFIER, RECOMMENDER = "classifier.json", "recommender.json"


@dataclass(frozen=True, eq=False)
class _Opened:
    """A bundle and what it can do: swapped as one, so that a request never sees two of them."""

    bundle: Bundle
    classifier: CategoryClassifier | None
    recommender: Recommender | None


@dataclass(eq=False)
class Engine:
    """One bundle, opened and ready; threads may share it.

    Made by `Engine.open`. A context manager: leaving it closes it. Requests in flight finish on what they began with;
    the next one after `close` is an error.
    """

    _opened: _Opened | None
    _options: dict[str, Any]
    _path: Path = field(default_factory=Path)

    @classmethod
    def open(cls, path: str | Path, *, execution: str = "native", mode: str = "int8", verify: bool = True) -> Engine:
        """Open a bundle.

        Parameters
        ----------
        path : path
            Directory written by `aitems train category` or `aitems bundle build`.
        execution : "native" or "onnx"
            Of the classifier: native folded scorer, or ONNX Runtime on the same weights.
        mode : "int8" or "exact"
            For native execution: int8 is fastest, exact is fp32 and equals ONNX within 1e-4. Ignored by ONNX, which
            is fp32.
        verify : bool
            Check the SHA-256 of every part first (about 1 s per GB).

        Raises
        ------
        BundleError, ModelMismatchError
            Damaged, mixed, newer or missing; names the part.
        """
        options: dict[str, Any] = {"execution": execution, "mode": mode, "verify": verify}
        return cls(_open(Path(path), **options), options, Path(path))

    def reload(self, path: str | Path | None = None, *, warm: Sequence[Request] = ()) -> str:
        """Open a bundle beside the present one, try it, and answer with it from then on; return its digest.

        Parameters
        ----------
        path : path, optional
            The present path again where it is not given.
        warm : sequence of Request
            Answered by the new bundle before it takes over.

        Raises
        ------
        BundleError, ModelMismatchError
            As `open`; the present bundle goes on.

        Notes
        -----
        Requests in flight finish on the old bundle. Both are in memory until they have.
        """
        target = self._path if path is None else Path(path)
        opened = _open(target, **self._options)
        if warm and opened.recommender is not None:
            opened.recommender.recommend(warm)
        self._opened, self._path = opened, target
        return opened.bundle.digest

    def classify(
        self, titles: Texts, mall_categories: Texts | None = None, *, top_k: int = 5, threads: int = 1
    ) -> Classification:
        """Return the categories of each product, best first.

        Parameters
        ----------
        titles : list of str, bytes or None, or PackedText
            None and "" are empty titles. Bytes are UTF-8; invalid sequences are replaced by U+FFFD.
        mall_categories : the same, or None
            Path of the product in its own mall, " > " between levels; None where unknown.
        top_k : int >= 1
            Fewer come back where the bundle has fewer leaves.
        threads : int
            For the native code; 0 = all cores.

        Returns
        -------
        Classification

        Raises
        ------
        InvalidInputError
            Lists of different length, a wrong type, `top_k` < 1, the bundle has no classifier, or the engine is closed.

        Notes
        -----
        A row never raises: an empty title is abstained with the cause "empty title", a long one is cut after the
        number of tokens the model was trained on. Rows do not influence one another.
        """
        return self._classifier.classify(titles, mall_categories, top_k=top_k, threads=threads)

    def probabilities(
        self, titles: Texts, mall_categories: Texts | None = None, *, threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every leaf, float32 (n, len(labels)), for measuring; arguments as in `classify`."""
        return self._classifier.probabilities(titles, mall_categories, threads=threads)

    def recommend(self, request: Request) -> Response:
        """Return one page of items for a request.

        Parameters
        ----------
        request : Request

        Returns
        -------
        Response
            Items, scores, where each item came from, and a trace that `replay` takes.

        Raises
        ------
        InvalidInputError
            The bundle has no recommender, or the engine is closed. What is unusual in the request never raises: it
            stands in `Response.flags`.
        """
        return self._recommender.recommend([request])[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Response]:
        """Return one page a request, the same as `recommend` gives, faster: every stage takes them as one batch."""
        return self._recommender.recommend(requests)

    def replay(self, trace: Trace) -> Response:
        """Make the page of a trace again: equal items and scores.

        Raises
        ------
        InvalidInputError
            The trace is of another bundle.
        """
        return self._recommender.replay(trace)

    @property
    def labels(self) -> tuple[str, ...]:
        """Ids of the leaves it can answer, in the order of the model's output."""
        return self._classifier.settings.labels

    @property
    def taxonomy(self) -> Taxonomy:
        """The category tree of the bundle."""
        return self._classifier.taxonomy

    @property
    def _classifier(self) -> CategoryClassifier:
        classifier = self._present().classifier
        if classifier is None:
            raise InvalidInputError("this bundle has no category classifier; build it with one: aitems bundle build")
        return classifier

    @property
    def _recommender(self) -> Recommender:
        recommender = self._present().recommender
        if recommender is None:
            raise InvalidInputError("this bundle has no recommender; build it with one: aitems bundle build")
        return recommender

    def _present(self) -> _Opened:
        opened = self._opened
        if opened is None:
            raise InvalidInputError("this engine is closed; open the bundle again")
        return opened

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle: it stands in every result."""
        return self._present().bundle.digest

    def describe(self) -> dict[str, Any]:
        """Return what is loaded, as plain values for logs and `/health` pages."""
        opened = self._opened
        if opened is None:
            return {"engine_version": __version__, "bundle": str(self._path), "closed": True}
        bundle, native = opened.bundle, self._options["execution"] == "native"
        return {
            "engine_version": __version__,
            "bundle": str(bundle.path),
            "bundle_digest": bundle.digest,
            "bundle_created_at": bundle.created_at,
            "bundle_engine_version": bundle.engine_version,
            "parts": {part.name: part.bytes for part in bundle.parts.values()},
            "execution": self._options["execution"],
            "mode": self._options["mode"] if native else "exact",
            "closed": False,
            **(opened.classifier.describe() if opened.classifier else {}),
            **({"recommender": opened.recommender.describe()} if opened.recommender else {}),
        }

    def close(self) -> None:
        """Let go of the weights; closing twice is fine."""
        self._opened = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        opened = self._opened
        state = "closed" if opened is None else f"digest {opened.bundle.digest[:12]}"
        return f"Engine('{self._path}', {self._options['execution']}, {self._options['mode']}, {state})"


def _open(path: Path, *, execution: str, mode: str, verify: bool) -> _Opened:
    def make(bundle: Bundle) -> _Opened:
        classifier = recommender = None
        # what a bundle has no part for is not imported
        if CLASSIFIER in bundle.parts or RECOMMENDER not in bundle.parts:
            from aitems_engine.category.loading import load_classifier

            classifier = load_classifier(bundle, execution=execution, mode=mode)
        if RECOMMENDER in bundle.parts:
            from aitems_engine.recommendation.loading import load_recommender

            recommender = load_recommender(bundle)
        return _Opened(bundle, classifier, recommender)

    return Bundle.open_as(path, make, verify=verify)
