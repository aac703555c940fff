"""The Kafka clients' own log lines, each kind at most once in ten seconds: an outage says the same a hundred times."""

from __future__ import annotations

import logging
import re
import time

INTERVAL_S = 10.0


class Seldom(logging.Filter):
    """Drop a line whose text, numbers apart, was let through a moment ago."""

    def __init__(self, interval_s: float = INTERVAL_S):
        super().__init__()
        self._interval_s = interval_s
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = re.sub(r"\d+", "#", record.getMessage())
        now = time.monotonic()
        if now - self._last.get(kind, -self._interval_s) < self._interval_s:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[kind] = now
        return True


client_log = logging.getLogger("aitems_engine.streaming.client")
client_log.addFilter(Seldom())
