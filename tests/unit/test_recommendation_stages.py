"""Stages that fail, hang or are late: replaced, noted, and left out again on replay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aitems_engine.recommendation.stages import LATE, StageRun, outcomes_of


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def fail() -> list[int]:
    raise ZeroDivisionError("nothing to divide")


@pytest.mark.parametrize("deadline_ms", [None, 60_000])
def test_a_failing_stage_does_not_stop_the_others(pool: ThreadPoolExecutor, deadline_ms: float | None) -> None:
    run = StageRun(pool, deadline_ms)
    results = run.together({"good": lambda: [1, 2], "bad": fail}, entered=1, size=len)
    assert results == {"good": [1, 2]}
    good, bad = run.stages
    assert (good.name, good.outcome, good.left) == ("good", "ok", 2)
    assert bad.outcome == "failed: ZeroDivisionError: nothing to divide"


def test_a_hanging_stage_is_left_behind(pool: ThreadPoolExecutor) -> None:
    let_go = threading.Event()

    def hang() -> list[int]:
        let_go.wait(60)
        return [1]

    try:
        run = StageRun(pool, deadline_ms=30)
        results = run.together({"hung": hang, "quick": lambda: [3]}, entered=1, size=len)
        assert results == {"quick": [3]}
        assert outcomes_of(run.stages) == {"hung": LATE, "quick": "ok"}
        # the deadline is that of the whole run
        assert run.one("next", hang, 1, len) is None
    finally:
        let_go.set()


def test_replay_leaves_out_what_did_not_make_it(pool: ThreadPoolExecutor) -> None:
    called: list[str] = []
    outcomes = {"a": "ok", "b": LATE, "c": "failed: ValueError: x"}
    run = StageRun(pool, deadline_ms=1e-6, outcomes=outcomes)
    calls = {name: lambda name=name: called.append(name) or [name] for name in outcomes}
    assert run.together(calls, 1, len) == {"a": ["a"]}
    assert called == ["a"]
    assert outcomes_of(run.stages) == outcomes


def test_long_messages_are_cut(pool: ThreadPoolExecutor) -> None:
    def shout() -> list[int]:
        raise ValueError("x" * 10_000)

    run = StageRun(pool)
    run.one("loud", shout, 1, len)
    assert len(run.stages[0].outcome) <= 200
