"""A bundle's parts -> a `CategoryClassifier`, with the checks that the parts belong together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
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


def load_classifier(path: Path, *, execution: str, mode: str, verify: bool) -> tuple[Bundle, CategoryClassifier]:
    """Open a bundle and build its classifier; see `Engine.open`.

    Notes
    -----
    A bundle may be swapped while it is read. All parts come from the directory that was there at the start; when it is
    removed before they are read, reading starts again with the new one.
    """
    if execution not in EXECUTIONS or mode not in MODES:
        raise InvalidInputError(
            f"execution must be one of {', '.join(EXECUTIONS)} and mode one of {', '.join(MODES)}, "
            f"got '{execution}' and '{mode}'"
        )
    for _ in range(5):
        with _pinned(path) as directory:
            try:
                bundle = Bundle.open(path, verify=verify, directory=directory)
                return bundle, _build(bundle, execution, mode)
            except BundleError:
                if not _replaced(path, directory):
                    raise
    raise BundleError(f"bundle '{path}' keeps changing while it is opened")


@contextlib.contextmanager
def _pinned(path: Path) -> Iterator[Path]:
    """Hold the directory that is at `path` now, so that its parts are read from no other one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield path  # `Bundle.open` says what is wrong
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _replaced(path: Path, directory: Path) -> bool:
    if directory == path:
        return False
    try:
        return not os.path.samefile(path, directory)
    except OSError:
        return True


def _build(bundle: Bundle, execution: str, mode: str) -> CategoryClassifier:
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
