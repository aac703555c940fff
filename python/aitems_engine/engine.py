"""`Engine`: read this first. One opened bundle that answers; the rest of the package builds, feeds or measures it.

    engine = Engine.open("bundle")
    result = engine.classify(titles=["나이키 에어맥스 270 남성 운동화 280"], mall_categories=["패션잡화 > 신발"])
    result.leaf_ids[0, 0], result.probabilities[0, 0], result.abstained[0]

The way of a title: bytes -> tokens and character n-grams (text/, csrc/text) -> scores of all leaves (runtime/,
csrc/textcnn) -> calibrated probabilities -> accept or abstain (category/classifier.py) -> `Classification`
(types.py).
"""

from __future__ import annotations

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


class Engine:
    """One bundle, opened and ready; threads may share it.

    Made by `Engine.open`. A context manager: leaving it closes it. Requests in flight finish on the old weights; the
    next one after `close` is an error.
    """

    def __init__(self, bundle: Bundle, classifier: CategoryClassifier, *, execution: str, mode: str) -> None:
        self._bundle = bundle
        self._classifier: CategoryClassifier | None = classifier
        self._execution, self._mode = execution, mode

    @classmethod
    def open(cls, path: str | Path, *, execution: str = "native", mode: str = "int8", verify: bool = True) -> Engine:
        """Open a bundle.

        Parameters
        ----------
        path : path
            Directory written by `aitems train category`.
        execution : "native" or "onnx"
            Native folded scorer, or ONNX Runtime on the same weights.
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
        from aitems_engine.category.loading import load_classifier

        bundle, classifier = load_classifier(Path(path), execution=execution, mode=mode, verify=verify)
        return cls(bundle, classifier, execution=execution, mode=mode)

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
            Lists of different length, a wrong type, `top_k` < 1, or the engine is closed.

        Notes
        -----
        A row never raises: an empty title is abstained with the cause "empty title", a long one is cut after the
        number of tokens the model was trained on. Rows do not influence one another.
        """
        return self._open_classifier().classify(titles, mall_categories, top_k=top_k, threads=threads)

    def probabilities(
        self, titles: Texts, mall_categories: Texts | None = None, *, threads: int = 1
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every leaf, float32 (n, len(labels)), for measuring; arguments as in `classify`."""
        return self._open_classifier().probabilities(titles, mall_categories, threads=threads)

    @property
    def labels(self) -> tuple[str, ...]:
        """Ids of the leaves it can answer, in the order of the model's output."""
        return self._open_classifier().settings.labels

    @property
    def taxonomy(self) -> Taxonomy:
        """The category tree of the bundle."""
        return self._open_classifier().taxonomy

    def _open_classifier(self) -> CategoryClassifier:
        classifier = self._classifier
        if classifier is None:
            raise InvalidInputError("this engine is closed; open the bundle again")
        return classifier

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle: it stands in every result."""
        return self._bundle.digest

    def describe(self) -> dict[str, Any]:
        """Return what is loaded, as plain values for logs and `/health` pages."""
        classifier = self._classifier
        return {
            "engine_version": __version__,
            "bundle": str(self._bundle.path),
            "bundle_digest": self._bundle.digest,
            "bundle_created_at": self._bundle.created_at,
            "bundle_engine_version": self._bundle.engine_version,
            "parts": {part.name: part.bytes for part in self._bundle.parts.values()},
            "execution": self._execution,
            "mode": self._mode if self._execution == "native" else "exact",
            "closed": classifier is None,
            **(classifier.describe() if classifier is not None else {}),
        }

    def close(self) -> None:
        """Let go of the weights; closing twice is fine."""
        self._classifier = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._classifier is None else f"{self._execution}, {self._mode}"
        return f"Engine('{self._bundle.path}', {state}, digest {self._bundle.digest[:12]})"
