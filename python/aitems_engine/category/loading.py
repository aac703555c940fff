"""A bundle's parts -> a `CategoryClassifier`, with the checks that the parts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from aitems_engine.bundle import Bundle
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.category.classifier import CategoryClassifier
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import BundleError, DataError, InvalidInputError, TaxonomyError, TokenizerFormatError

if TYPE_CHECKING:
    from aitems_engine.runtime import TextScorer

TOKENIZER, TAXONOMY, SETTINGS = "tokenizer.json", "taxonomy.csv", "classifier.json"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
Request: TypeAlias = "tuple[Sequence[bytes], Sequence[bytes | None] | None]"
EXECUTIONS, MODES = ("native", "onnx"), ("int8", "exact")


def load_classifier(bundle: Bundle, *, execution: str, mode: str) -> CategoryClassifier:
    """Return the classifier of an opened bundle; see `Engine.open`."""
    if execution not in EXECUTIONS or mode not in MODES:
        raise InvalidInputError(
            f"execution must be one of {', '.join(EXECUTIONS)} and mode one of {', '.join(MODES)}, "
            f"got '{execution}' and '{mode}'"
        )
    from aitems_engine.text import Tokenizer

    settings = ClassifierSettings.from_json(bundle.read_json(SETTINGS))
    try:
        taxonomy = Taxonomy.from_csv(_utf8(bundle, TAXONOMY), source=TAXONOMY)
        tokenizer = Tokenizer.from_str(_utf8(bundle, TOKENIZER))
    except (TaxonomyError, TokenizerFormatError) as error:
        raise BundleError(f"bundle '{bundle.path}': {error}") from error
    return CategoryClassifier(
        tokenizer, _scorer(bundle, execution, mode), taxonomy, settings, bundle_digest=bundle.digest
    )


def write_native(
    bundle: Bundle, classifier: CategoryClassifier, path: Path, requests: Sequence[Request], *, top_k: int
) -> None:
    """Write a classifier as one file that is read without Python, by the native backend of Triton.

    Parameters
    ----------
    bundle : Bundle
        Opened; what the classifier was loaded from, with the native execution.
    classifier : CategoryClassifier
    path : Path
        The file.
    requests : sequence of (titles, mall categories or None)
        Asked here and recorded with their answers: whoever opens the file must answer the same.
    top_k : int
        Of the recorded answers.
    """
    from aitems_engine._native.category import write_classifier
    from aitems_engine.runtime import read_safetensors

    recorded = []
    for titles, malls in requests:
        answer = classifier.classify(titles, malls, top_k=top_k)
        recorded.append(
            {
                "titles": list(titles),
                "malls": [mall or b"" for mall in malls or ()],
                "labels": answer.label_indices,
                "probabilities": answer.probabilities,
                "abstained": answer.abstained.view(np.uint8),
            }
        )
    tensors = {n: t for n, t in read_safetensors(bundle.file(WEIGHTS)).items() if not n.startswith("aux.")}
    write_classifier(str(path), {**classifier.native_parts(), "tensors": tensors}, recorded)


def _utf8(bundle: Bundle, name: str) -> str:
    try:
        return bundle.read(name).decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"bundle '{bundle.path}': part '{name}' is not UTF-8") from None


def _scorer(bundle: Bundle, execution: str, mode: str) -> TextScorer:
    from aitems_engine.runtime import NativeScorer, OnnxScorer, read_safetensors

    part = GRAPH if execution == "onnx" else WEIGHTS
    try:
        if execution == "onnx":
            return OnnxScorer(bundle.file(part))
        return NativeScorer(read_safetensors(bundle.file(part)), mode=mode)
    except OSError as error:
        raise BundleError(f"bundle '{bundle.path}': part '{part}' cannot be read: {error.strerror}") from error
    except (DataError, InvalidInputError) as error:
        raise BundleError(f"bundle '{bundle.path}': part '{part}': {error}") from error
