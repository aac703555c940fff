"""docs/ranking.md is true: its examples run, its declaration is one, its table names every kind of feature."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import aitems_engine.ranking.objective
from aitems_engine.ranking import FeatureConfig
from aitems_engine.ranking.declaration import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ranking.md").read_text(encoding="utf-8")


def test_examples() -> None:
    failed, tried = doctest.testmod(aitems_engine.ranking.objective)
    assert (failed, tried) == (0, 2)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/ranking.md", "exec"), {})  # noqa: S102 - our own page


def test_declaration_and_kinds() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(FeatureConfig.from_json(json.loads(block)).features) == 6
    rows = [
        line.split("|")[1] for line in PAGE.split("## Features")[1].split("## ")[0].splitlines() if line[:3] == "| `"
    ]
    assert {kind for row in rows for kind in re.findall(r"`(\w+)`", row)} == KINDS.keys()
