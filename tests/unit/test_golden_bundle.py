"""Bundles of every format version there ever was open and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aitems_engine import Engine
from aitems_engine.bundle import FORMAT_VERSION

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize(("execution", "mode"), [("native", "exact"), ("native", "int8"), ("onnx", "exact")])
def test_golden_bundle(version: int, execution: str, mode: str) -> None:
    expected = json.loads((GOLDEN / f"bundle-{version}.json").read_text(encoding="utf-8"))
    with Engine.open(GOLDEN / f"bundle-{version}", execution=execution, mode=mode) as engine:
        assert engine.bundle_digest == expected["digest"]
        result = engine.classify(expected["titles"], expected["mall_categories"], top_k=6)
    tolerance = 0.03 if mode == "int8" else 1e-4
    for row, leaves in enumerate(result.leaf_ids.tolist()):
        ours = dict(zip(leaves, result.probabilities[row].tolist(), strict=True))
        wanted = dict(zip(expected["leaf_ids"][row], expected["probabilities"][row], strict=True))
        np.testing.assert_allclose([ours[leaf] for leaf in wanted], list(wanted.values()), atol=tolerance)
    assert result.abstained.tolist() == expected["abstained"]
    if mode == "exact":
        assert result.leaf_ids.tolist() == expected["leaf_ids"]
        assert result.parent_ids == expected["parent_ids"]
        assert result.causes == expected["causes"]
