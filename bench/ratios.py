"""Ratios of the peer's processor time to ours, measured in turns, against stored ones: bench/baselines.json.

An absolute time says little on another machine or beside other work; a ratio of two calls that ran in turns says more.
Stored for each processor and ISA level with what the peer was, so that a new version of the peer is not taken for a
regression of ours. A ratio that fell by more than `TOLERANCE` counts as a regression when it did so every time it was
measured, up to `ATTEMPTS` times.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BASELINES = Path(__file__).with_name("baselines.json")
TOLERANCE, ATTEMPTS = 0.15, 3
ROUNDS, SAMPLE_S = 15, 0.01

Call = Callable[[Any], object]


def measure(ours: Call, peer: Call, make: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median over rounds of the peer's processor time by ours.

    Parameters
    ----------
    ours, peer : callable
        Take what `make` returns, new for each call; making it is not measured.
    make : callable
    rounds : int
        In each, both are called as often as takes about 10 ms.
    """
    counts = [max(1, round(SAMPLE_S / min(_seconds(call, [make()]) for _ in range(2)))) for call in (ours, peer)]
    ratios = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            ours_s, peer_s = (
                _seconds(call, [make() for _ in range(count)]) / count
                for call, count in zip((ours, peer), counts, strict=True)
            )
            ratios.append(peer_s / ours_s)
    finally:
        gc.enable()
    return float(np.median(ratios))


def _seconds(call: Call, arguments: list[Any]) -> float:
    begin = time.process_time()
    for argument in arguments:
        call(argument)
    return max(time.process_time() - begin, 1e-9)


class Baselines:
    """The stored ratios of one processor.

    Parameters
    ----------
    path : Path
    processor : str
        With the ISA level: see `bench.conftest.processor`.
    """

    def __init__(self, path: Path, processor: str) -> None:
        self.path, self.processor = path, processor
        self.stored: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}

    def before(self, name: str) -> str:
        """Return what is stored, in words."""
        entry = self._entry(name)
        return f"was {entry['ratio']:.2f} with {entry['peer']}" if entry else "nothing stored"

    def missing(self, name: str) -> str | None:
        """Return what to do where nothing is stored for this processor; None where something is."""
        return None if self._entry(name) else f"no baseline of {name} for {self.processor}; run with --update-baselines"

    def regression(self, name: str, ratio: float, peer: str) -> str | None:
        """Return what to say about a ratio that is too low; None where it is not, or nothing is stored."""
        entry = self._entry(name)
        if entry is None or (fell := 1 - ratio / entry["ratio"]) <= TOLERANCE:
            return None
        now, before = f"{peer} {version(peer)}", entry["peer"]
        changed = "" if now == before else f"; the peer is {now} now and was {before}"
        return (
            f"{name}: {ratio:.2f} times as fast as {peer}, was {entry['ratio']:.2f}: fell by {fell:.0%}, more than"
            f" {TOLERANCE:.0%}{changed}"
        )

    def _entry(self, name: str) -> dict[str, Any] | None:
        return self.stored.get(self.processor, {}).get(name)

    def update(self, name: str, ratio: float, peer: str) -> None:
        """Store a ratio."""
        entry = {"ratio": round(ratio, 3), "peer": f"{peer} {version(peer)}"}
        self.stored.setdefault(self.processor, {})[name] = entry
        self.path.write_text(json.dumps(self.stored, indent=1, sort_keys=True) + "\n")
