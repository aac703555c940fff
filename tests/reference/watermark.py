"""The obvious form of the watermark: every message on its own, looked at from the front."""

from __future__ import annotations


class SlowWatermark:
    def __init__(self) -> None:
        self.read: list[tuple[int, int]] = []  # (offset, where a reader continues after its span)
        self.delivered: set[int] = set()

    def position(self, span_ends: dict[int, int]) -> int | None:
        """Return the commit position: past the last span all of whose messages, and all earlier ones, are delivered."""
        result = None
        for offset, _ in self.read:
            if offset not in self.delivered:
                break
            if offset in span_ends:
                result = span_ends[offset]
        return result
