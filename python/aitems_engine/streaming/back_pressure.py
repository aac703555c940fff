"""When to stop reading: a gate with hysteresis over the number of messages in flight.

Pausing a partition makes librdkafka throw away what it has prefetched, and its fetch thread needs up to a second to
notice a resumed one (measured: .8 s), so that pausing at every full queue would be slow. The gate therefore has two
steps: at the limit the poller reads nothing for a moment (and looks again within milliseconds); only when no room
appears for `patience_s` the partitions are paused, and they stay paused until the work in flight has fallen to the
low mark.
"""

from __future__ import annotations

from enum import Enum

from aitems_engine.errors import ConfigError


class Gate(Enum):
    """What the poller does next."""

    READ = "read"
    WAIT = "wait"  # full, but for a short time only: look again soon
    PAUSED = "paused"  # partitions are paused; keep polling for events


class BackPressure:
    """Decide from the messages in flight whether to read, wait or pause.

    Parameters
    ----------
    high : int
        Messages in flight at which reading stops.
    low : int
        Paused partitions resume at or below this.
    patience_s : float
        How long to wait at the limit before pausing.
    """

    def __init__(self, high: int, low: int, patience_s: float = 1.0):
        if not 0 <= low < high:
            raise ConfigError(f"the low mark must lie below the high mark, got low {low} and high {high}")
        self.high = high
        self.low = low
        self.patience_s = patience_s
        self.paused = False
        self._full_since: float | None = None

    def decide(self, in_flight: int, now_s: float) -> Gate:
        """Return the gate's state for `in_flight` messages at time `now_s` (any monotonic clock)."""
        if self.paused:
            if in_flight > self.low:
                return Gate.PAUSED
            self.paused = False
            self._full_since = None
            return Gate.READ
        if in_flight < self.high:
            self._full_since = None
            return Gate.READ
        if self._full_since is None:
            self._full_since = now_s
        if now_s - self._full_since < self.patience_s:
            return Gate.WAIT
        self.paused = True
        return Gate.PAUSED
