"""A bundle's parts -> a `CategoryClassifier`, with the checks that the parts belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aitems_engine.bundle import Bundle
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.category.classifier import CategoryClassifier
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import BundleError, DataError, InvalidInputError, TaxonomyError, TokenizerFormatError

if TYPE_CHECKING:
    from aitems_engine.runtime import TextScorer

TOKENIZER, TAXONOMY, SETTINGS = "tokenizer.json", "taxonomy.csv", "classifier.json"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
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
