"""ISA levels: forcing one really runs it, and the linker can never mix their code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aitems_engine._native import isa

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {
    "baseline": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mavx512vnni"],
    "amx": ["-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
}


def doctor(level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aitems_engine.cli", "doctor", "--json"],
        env={**os.environ, "AITEMS_ISA": level},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("level", isa.compiled())
def test_a_forced_level_runs_or_says_what_can(level: str) -> None:
    done = doctor(level)
    if level in isa.runnable():
        report = json.loads(done.stdout)["isa"]
        assert report["active"] == level
        assert report["compiled_for"] == level  # from the macros of the object file that ran
    else:
        assert done.returncode == 1
        assert f"'{level}' cannot run here" in done.stderr
        assert ", ".join(isa.runnable()) in done.stderr


def test_an_unknown_level_is_an_error() -> None:
    done = doctor("v9")
    assert done.returncode == 1
    assert "ISA level 'v9' cannot run here" in done.stderr
    assert "Traceback" not in done.stderr


KERNELS = sorted(p for level in FLAGS for p in (ROOT / "csrc" / "simd").glob(f"*_{level}.cpp"))


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the flags are x86-64's")
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernel_objects_have_no_weak_symbols(source: Path, tmp_path: Path) -> None:
    # At -O0 every inline function that is used gets emitted: a weak one could be merged with another level's copy.
    level = source.stem.rsplit("_", 1)[1]
    target = tmp_path / "kernel.o"
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-c", "-I", str(ROOT / "csrc"), *FLAGS[level], str(source), "-o", str(target)],
        check=True,
    )
    symbols = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout
    weak = [line for line in symbols.splitlines() if line[17:18] in {"W", "V", "u"} and line[:16].strip()]
    assert not weak, "\n".join(weak)
