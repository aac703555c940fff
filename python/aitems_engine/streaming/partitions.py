"""Which input messages are finished: a contiguous watermark of delivered results per partition.

Knows nothing of Kafka clients. The poller opens a `Span` for the messages of a partition that arrived together, in
the order of their offsets; acknowledgements close spans in any order; the position moves only over closed spans at
the front. Offsets may have gaps (compaction, transaction markers), so a span carries the offset to continue at.
Losing a partition, or going back to its committed offset, retires its `Partition`; work that still carries a retired
one is dropped. Counting per span and not per message keeps the cost of a message to one decrement.
"""

from __future__ import annotations

import threading
from collections import deque


class Span:
    """Consecutive messages of one partition that arrived in one call."""

    __slots__ = ("count", "next_offset", "open", "partition")

    def __init__(self, partition: Partition, next_offset: int, count: int):
        self.partition = partition
        self.next_offset = next_offset  # where a reader continues once the span is done
        self.count = count
        self.open = count

    def acknowledge(self) -> None:
        """Count one message as delivered; only the delivery thread calls this."""
        self.open -= 1
        if not self.open:
            self.partition.advance()


class Partition:
    """One assigned partition: what was read from it, and up to where its results are delivered.

    Attributes
    ----------
    position : int or None
        Offset to commit: every earlier message that was read has its result delivered. None before the first.
    first_offset : int or None
        The first offset ever read under this assignment: where to go back to without any commit.
    alive : bool
        False once revoked, lost or rewound: results of its messages must no longer be sent.
    lost : bool
        Another worker may have it already: what is sent and not committed must be taken back.
    """

    __slots__ = (
        "_lock",
        "_spans",
        "alive",
        "committed",
        "first_offset",
        "lost",
        "number",
        "position",
        "topic",
        "unacknowledged",
    )

    def __init__(self, topic: str, number: int):
        self.topic = topic
        self.number = number
        self.position: int | None = None
        self.committed: int | None = None
        self.first_offset: int | None = None
        self.alive = True
        self.lost = False
        self.unacknowledged = 0  # sent, answer outstanding; touched by the delivery thread only
        self._spans: deque[Span] = deque()
        self._lock = threading.Lock()

    def open(self, first_offset: int, next_offset: int, count: int) -> Span:
        """Register `count` messages that were read, up to before `next_offset`; in the order of the offsets."""
        if self.first_offset is None:
            self.first_offset = first_offset
        span = Span(self, next_offset, count)
        with self._lock:
            self._spans.append(span)
        return span

    def advance(self) -> None:
        """Move the position over every finished span at the front."""
        with self._lock:
            spans = self._spans
            while spans and not spans[0].open:
                self.position = spans.popleft().next_offset

    @property
    def pending(self) -> int:
        """Messages read whose results are not delivered."""
        with self._lock:
            return sum(span.open for span in self._spans)
