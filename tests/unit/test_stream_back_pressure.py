"""The gate: reads below the limit, waits at it, pauses when waiting does not help, resumes at the low mark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.errors import ConfigError
from aitems_engine.streaming.back_pressure import BackPressure, Gate


def test_hysteresis() -> None:
    gate = BackPressure(high=100, low=50, patience_s=0.2)
    assert gate.decide(99, 0.0) is Gate.READ
    assert gate.decide(100, 1.0) is Gate.WAIT
    assert gate.decide(120, 1.19) is Gate.WAIT
    assert gate.decide(100, 1.25) is Gate.PAUSED
    assert gate.decide(51, 1.3) is Gate.PAUSED  # below the high mark, above the low one
    assert gate.decide(50, 1.4) is Gate.READ
    assert gate.decide(99, 1.5) is Gate.READ


def test_room_in_time_never_pauses() -> None:
    gate = BackPressure(high=100, low=50, patience_s=0.2)
    for step in range(1000):
        assert gate.decide(100 if step % 2 else 90, step * 0.19) is not Gate.PAUSED


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1)), max_size=100))
def test_never_reads_above_the_limit_and_changes_only_at_the_marks(steps: list[tuple[int, float]]) -> None:
    gate, now, before = BackPressure(100, 50, 0.2), 0.0, Gate.READ
    for in_flight, elapsed in steps:
        now += elapsed
        state = gate.decide(in_flight, now)
        if state is Gate.READ:
            assert in_flight < 100
        if before is Gate.PAUSED and state is not Gate.PAUSED:
            assert in_flight <= 50
        if before is not Gate.PAUSED and state is Gate.PAUSED:
            assert in_flight >= 100
        before = state


def test_marks_the_wrong_way_round() -> None:
    with pytest.raises(ConfigError, match="low 5 and high 5"):
        BackPressure(5, 5)
