"""What README shows is true: the file tree exists and the code blocks run, in the order they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)


def tree_entries() -> list[str]:
    """Return the paths of the README's file tree (a ```text block whose lines are `indent name/  comment`)."""
    block = next(body for language, body in BLOCKS if language == "text" and "csrc/" in body)
    entries: list[str] = []
    parents: list[str] = []
    for line in block.splitlines():
        name = line.split()[0] if line.strip() else ""
        if not name:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name.rstrip("/")]
        entries.append("/".join(parents))
    return entries


def test_every_entry_of_the_tree_exists() -> None:
    entries = tree_entries()
    assert len(entries) > 20
    missing = [e for e in entries if not (ROOT / e).exists()]
    assert not missing


def test_the_tree_names_every_room() -> None:
    entries = set(tree_entries())
    rooms = {
        str(p.relative_to(ROOT))
        for parent in (ROOT, ROOT / "csrc", ROOT / "python" / "aitems_engine")
        for p in parent.iterdir()
        if p.is_dir() and not p.name.startswith((".", "__")) and p.name not in {"build", "dist", "demo-output"}
    }
    assert rooms <= entries, sorted(rooms - entries)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_code_blocks_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for language, body in BLOCKS:
        if language == "bash" and not re.search(r"^(make|git|pip) ", body, re.M):
            command = ["bash", "-euo", "pipefail", "-c", body]
        elif language == "python":
            command = [sys.executable, "-c", body]
        else:
            continue
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 2
