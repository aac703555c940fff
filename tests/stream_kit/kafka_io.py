"""Write products to a topic and read everything back, for tests."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition


def product(number: int, title: str | None = None) -> bytes:
    return json.dumps(
        {
            "product_id": str(number),
            "title": title or f"상품 {number}",
            "mall_category": "가전 > 소형",
            "price": 1000.5,
        },
        ensure_ascii=False,
    ).encode()


def write(bootstrap: str, topic: str, values: Iterable[bytes | None], **settings: object) -> int:
    """Write values with keys 0, 1, ... and return how many."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5, **settings})
    count = 0
    for count, value in enumerate(values, start=1):
        while True:
            try:
                producer.produce(topic, value, key=str(count - 1))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    return count


def read_all(bootstrap: str, topic: str, *, timeout_s: float = 30.0, isolation: str = "read_committed") -> list[Any]:
    """Return every message that the topic holds now, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=timeout_s).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        waiting, found = set(partitions), []
        deadline = time.monotonic() + timeout_s
        while waiting:
            assert time.monotonic() < deadline, f"topic {topic}: no end of partitions {waiting} in {timeout_s} s"
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    waiting.discard(message.partition())
        return found
    finally:
        consumer.close()
