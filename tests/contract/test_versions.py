"""One version everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import aitems_engine

ROOT = Path(__file__).resolve().parents[2]


def test_versions_agree() -> None:
    pyproject = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    changelog = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    assert pyproject is not None
    assert changelog is not None
    version = pyproject[1]
    assert aitems_engine.__version__ == version
    assert changelog[1] == version
    assert presets["configurePresets"][0]["cacheVariables"]["SKBUILD_PROJECT_VERSION"] == version
