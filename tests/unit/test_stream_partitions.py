"""The contiguous watermark, against its slow twin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.reference.watermark import SlowWatermark

from aitems_engine.streaming.partitions import Partition


@given(st.data())
def test_position_equals_the_slow_twin(data: st.DataObject) -> None:
    partition, slow = Partition("products", 0), SlowWatermark()
    span_ends: dict[int, int] = {}
    outstanding: list[tuple[object, int]] = []
    offset = data.draw(st.integers(0, 1000), label="first offset")
    for _ in range(data.draw(st.integers(1, 30), label="steps")):
        if not outstanding or data.draw(st.booleans(), label="read"):
            offsets = []
            for _ in range(data.draw(st.integers(1, 5), label="count")):
                offset += data.draw(st.sampled_from([0, 0, 0, 1, 7]), label="gap")
                offsets.append(offset)
                offset += 1
            span = partition.open(offsets[0], offsets[-1] + 1, len(offsets))
            span_ends[offsets[-1]] = offsets[-1] + 1
            slow.read += [(o, span.next_offset) for o in offsets]
            outstanding += [(span, o) for o in offsets]
        else:
            place = data.draw(st.integers(0, len(outstanding) - 1), label="acknowledge")
            span, answered = outstanding.pop(place)
            span.acknowledge()
            slow.delivered.add(answered)
        assert partition.position == slow.position(span_ends)
        assert partition.pending == len(outstanding)


def test_nothing_is_committed_before_the_first_delivery() -> None:
    partition = Partition("products", 3)
    span = partition.open(17, 19, 2)
    assert partition.position is None
    assert partition.first_offset == 17
    span.acknowledge()
    assert partition.position is None
    span.acknowledge()
    assert partition.position == 19
