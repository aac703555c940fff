"""Running the stages of a request: timed, within the deadline, and never with an exception to the caller.

A stage that fails or is late is replaced by what the caller has instead of it; its outcome stands in the trace. On
replay the outcomes are given, and the stages that did not make it then are not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import TypeVar

from aitems_engine.recommendation.response import Stage

T = TypeVar("T")

OK = "ok"
LATE = "late: past the deadline"
_MESSAGE_CHARS = 200


class StageRun:
    """The stages of one batch of requests.

    Parameters
    ----------
    pool : executor
        Runs the stages when there is a deadline; a late one ends there, its result unused.
    deadline_ms : float, optional
        From now. None: stages run one after the other in this thread, however long they take.
    outcomes : mapping of stage name to outcome, optional
        Of the run that is replayed.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        deadline_ms: float | None = None,
        outcomes: Mapping[str, str] | None = None,
    ) -> None:
        self.stages: list[Stage] = []
        self._pool = pool
        self._outcomes = outcomes
        self._until = None if deadline_ms is None or outcomes is not None else time.perf_counter() + deadline_ms / 1e3

    def together(
        self, calls: Mapping[str, Callable[[], T]], entered: int, size: Callable[[T], int], *, share: float = 1.0
    ) -> dict[str, T]:
        """Run stages that do not need one another; return the results of those that made it.

        `size` says how much a result holds, for the trace; `share` of the time that is left is theirs.
        """
        outcomes = self._outcomes or {}
        wanted = {name: call for name, call in calls.items() if outcomes.get(name, OK) == OK}
        running: dict[str, Future[tuple[T, float]]] = {}
        if self._until is not None:
            running = {name: self._pool.submit(timed, call) for name, call in wanted.items()}
        results: dict[str, T] = {}
        now = time.perf_counter()
        until = None if self._until is None else now + share * (self._until - now)
        for name in calls:
            if name not in wanted:
                self.stages.append(Stage(name, 0.0, entered, 0, outcomes[name]))
                continue
            begin = time.perf_counter()
            try:
                if until is None:
                    result, taken = timed(wanted[name])
                else:
                    result, taken = running[name].result(max(until - begin, 0))
                results[name] = result
                self.stages.append(Stage(name, taken, entered, size(result)))
            except TimeoutError:
                running[name].cancel()
                self.stages.append(Stage(name, (time.perf_counter() - begin) * 1e6, entered, 0, LATE))
            except Exception as error:
                outcome = f"failed: {type(error).__name__}: {error}"[:_MESSAGE_CHARS]
                self.stages.append(Stage(name, (time.perf_counter() - begin) * 1e6, entered, 0, outcome))
        return results

    def one(self, name: str, call: Callable[[], T], entered: int, size: Callable[[T], int]) -> T | None:
        """Run one stage; None where it did not make it."""
        return self.together({name: call}, entered, size).get(name)

    def inline(self, name: str, call: Callable[[], T], entered: int, size: Callable[[T], int]) -> T:
        """Run a stage that nothing can stand in for, whatever the deadline."""
        result, taken = timed(call)
        self.stages.append(Stage(name, taken, entered, size(result)))
        return result


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return what a call returns, and the microseconds it took."""
    begin = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - begin) * 1e6


def outcomes_of(stages: Iterable[Stage]) -> dict[str, str]:
    """Return the outcome of each stage, for a replay."""
    return {stage.name: stage.outcome for stage in stages}
