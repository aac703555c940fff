"""The examples of the docstrings and of docs/ann.md run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import aitems_engine.ann.index

DOCS = Path(__file__).resolve().parents[2] / "docs" / "ann.md"


def test_docstring_examples() -> None:
    failed, tried = doctest.testmod(aitems_engine.ann.index)
    assert tried > 3
    assert failed == 0


def test_page_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), names)  # noqa: S102 - our own page
