"""A trained classifier as a bundle, and the bundle against the network it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog.products import Products
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.category.loading import load_classifier
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import ModelMismatchError
from aitems_engine.runtime import safetensors_bytes
from aitems_engine.text import Tokenizer
from aitems_engine.training.calibration import Thresholds
from aitems_engine.training.combination import Combination
from aitems_engine.training.encode import TextLimits
from aitems_engine.training.onnx_graph import build_onnx

# the largest difference between torch, ONNX Runtime and the native scorer that a written bundle may show
EXECUTION_TOLERANCE = 1e-4


def write_classifier(
    out: str | Path,
    tensors: dict[str, npt.NDArray[np.float32]],
    tokenizer: Tokenizer,
    taxonomy: Taxonomy,
    label_ids: Sequence[str],
    limits: TextLimits,
    thresholds: Thresholds,
    combination: Combination,
    training: dict[str, Any],
) -> str:
    """Write the bundle and return its digest; `training` is what is worth knowing about it, its settings among it."""
    classifier = ClassifierSettings(
        labels=tuple(label_ids),
        max_title_length=limits.max_title_length,
        max_mall_length=limits.max_mall_length,
        gram_min=limits.gram_min,
        gram_max=limits.gram_max,
        gram_buckets=limits.gram_buckets,
        temperature=combination.temperature,
        threshold_default=thresholds.default,
        threshold_by_top=thresholds.by_top,
        training={
            **training,
            "combination": {
                "weights": dict(zip(combination.parts, combination.weights.tolist(), strict=True)),
                "prior": combination.prior,
            },
        },
    )
    graph = build_onnx(tensors)
    parts: dict[str, bytes | str | Path] = {
        "tokenizer.json": tokenizer.to_str(),
        "taxonomy.csv": taxonomy.to_csv(),
        "classifier.json": json_text(classifier.to_json()),
        "model.safetensors": safetensors_bytes(tensors),
        "model.onnx": graph if isinstance(graph, bytes) else graph.SerializeToString(),
    }
    return write_bundle(out, parts, config=training["settings"])


def verify_bundle(path: Path, products: Products, expected: npt.NDArray[np.float64]) -> float:
    """Reopen a bundle and compare both executions with the probabilities torch gave for these products.

    Returns the largest difference of a probability; raises ModelMismatchError where it exceeds 1e-4.
    """
    bundle = Bundle.open(path)
    largest = 0.0
    for execution in ("native", "onnx"):
        classifier = load_classifier(bundle, execution=execution, mode="exact")
        inputs = classifier.prepare(products.title, products.mall_category)
        difference = float(np.abs(classifier.scorer.probabilities(inputs) - expected).max())
        if not difference <= EXECUTION_TOLERANCE:
            raise ModelMismatchError(
                f"bundle '{path}' is not usable: its {execution} execution differs from the trained network by "
                f"{difference:.1e} (allowed {EXECUTION_TOLERANCE:g}); please report this"
            )
        largest = max(largest, difference)
    return largest


def json_text(value: dict[str, Any]) -> str:
    """Return JSON as bundles hold it."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def json_ready(value: Any) -> Any:
    """Return nested settings with lists for tuples."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    return [json_ready(item) for item in value] if isinstance(value, tuple) else value
