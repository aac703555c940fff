"""`make bench-compare`: a ratio that fell is named, an equal one passes, a processor without baseline is told."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.ratios import TOLERANCE, Baselines, measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def baselines(tmp_path: Path) -> Baselines:
    stored = Baselines(tmp_path / "baselines.json", "some processor, level v3")
    stored.update("mmr", 4.0, "numpy")
    return Baselines(tmp_path / "baselines.json", "some processor, level v3")


@pytest.mark.parametrize("factor", [1.0, 1 - TOLERANCE + 0.001, 1.5])
def test_equal_or_better_passes(baselines: Baselines, factor: float) -> None:
    assert baselines.regression("mmr", 4.0 * factor, "numpy") is None


def test_worse_is_named(baselines: Baselines) -> None:
    found = baselines.regression("mmr", 4.0 * 0.8, "numpy")
    assert found == "mmr: 3.20 times as fast as numpy, was 4.00: fell by 20%, more than 15%"
    baselines.stored[baselines.processor]["mmr"]["peer"] = "numpy 0.1"
    assert "was numpy 0.1" in str(baselines.regression("mmr", 3.2, "numpy"))


def test_other_processor(baselines: Baselines) -> None:
    other = Baselines(baselines.path, "some processor, level amx")
    assert other.regression("mmr", 0.1, "numpy") is None
    assert "for some processor, level amx; run with --update-baselines" in str(other.missing("mmr"))
    other.update("mmr", 9.0, "numpy")
    assert {k: v["mmr"]["ratio"] for k, v in json.loads(other.path.read_text()).items()} == {
        "some processor, level v3": 4.0,
        "some processor, level amx": 9.0,
    }


def test_measure_calls_with_new_arguments() -> None:
    seen: list[object] = []
    ratio = measure(lambda x: seen.append(x), lambda x: sum(range(20_000)), object, rounds=3)
    assert ratio > 1
    assert len(set(map(id, seen))) == len(seen)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pytest_benchmark") is None, reason="needs pytest-benchmark")
def test_the_command(tmp_path: Path) -> None:
    """A baseline a hundred times too high fails, one a hundred times too low passes, on any machine."""
    path = tmp_path / "baselines.json"
    command = [sys.executable, "-m", "pytest", "bench/bench_ratios.py", "-k", "mmr", "-p", "no:cacheprovider"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--baselines", str(path), *more], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = run()
    assert done.returncode == 0
    assert "no baseline of variety_mmr" in done.stdout
    assert run("--update-baselines").returncode == 0
    stored = json.loads(path.read_text())
    (ratio,) = (entry["variety_mmr"] for entry in stored.values())
    for factor, status in ((0.01, 0), (100.0, 1)):
        changed = {name: {"variety_mmr": {**ratio, "ratio": ratio["ratio"] * factor}} for name in stored}
        path.write_text(json.dumps(changed))
        done = run()
        assert done.returncode == status, done.stdout
    assert "FAILED" in done.stdout
    assert "variety_mmr: " in done.stdout
    assert "more than 15%" in done.stdout
