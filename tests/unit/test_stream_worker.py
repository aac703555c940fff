"""The worker on the embedded broker: at least once, poison, rebalance, back-pressure, faults, drain, errors."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from tests.stream_kit.fake_engine import FakeEngine
from tests.stream_kit.kafka_io import product, read_all, write
from tests.stream_kit.poison import POISON

from aitems_engine.errors import ConfigError, StreamError
from aitems_engine.streaming.config import StreamConfig
from aitems_engine.streaming.embedded_broker import CLIENT_SETTINGS, EmbeddedBroker, embedded_broker_process
from aitems_engine.streaming.worker import ClassifyWorker, StreamSummary

TOPICS = {"products": 4, "categories": 3, "products.dlq": 1}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(TOPICS) as running:
        yield running


def config(broker: EmbeddedBroker, **changes: object) -> StreamConfig:
    settings: dict[str, object] = {
        "bootstrap": broker.bootstrap,
        "input_topic": "products",
        "output_topic": "categories",
        "group": "classify",
        "exit_when_idle_s": 0.3,
        "commit_interval_ms": 50,
        "kafka": {f"consumer.{name}": value for name, value in CLIENT_SETTINGS.items()},
    }
    return StreamConfig(**{**settings, **changes})


@contextmanager
def running(worker: ClassifyWorker) -> Iterator[list[StreamSummary]]:
    """Run a worker in a thread; the block's end stops it and raises what it raised."""
    result: list[StreamSummary] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(worker.run())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield result
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()
    if failure:
        raise failure[0]


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def ids(messages: list) -> list[str]:
    return [json.loads(m.value())["product_id"] for m in messages]


def test_every_product_gets_its_record(broker: EmbeddedBroker) -> None:
    count = write(broker.bootstrap, "products", (product(n) for n in range(3000)))
    summary = ClassifyWorker(FakeEngine(), config(broker)).run()
    assert (summary.read, summary.finished, summary.dead_letters, summary.drained) == (count, count, 0, True)
    records = read_all(broker.bootstrap, "categories")
    assert sorted(ids(records), key=int) == [str(n) for n in range(count)]
    for message in records[:50]:
        record = json.loads(message.value())
        title = f"상품 {record['product_id']}"
        assert message.key() == record["product_id"].encode()
        assert record["bundle"] == "sha256:fake"
        assert record["abstained"] is (len(title) % 2 == 1)
        assert record["cause"] == ("odd" if len(title) % 2 else None)
        assert record["categories"][0] == {
            "leaf_id": f"{len(title)}-0",
            "path": f"top > {len(title)}-0",
            "probability": 0.5,
        }
        assert len(record["categories"]) == 5


def test_a_second_run_begins_where_the_first_ended(broker: EmbeddedBroker) -> None:
    write(broker.bootstrap, "products", (product(n) for n in range(500)))
    ClassifyWorker(FakeEngine(), config(broker)).run()
    write(broker.bootstrap, "products", (product(n) for n in range(500, 700)))
    assert ClassifyWorker(FakeEngine(), config(broker)).run().read == 200
    assert sorted(ids(read_all(broker.bootstrap, "categories")), key=int) == [str(n) for n in range(700)]


def test_poison_is_put_aside_and_the_stream_goes_on(broker: EmbeddedBroker) -> None:
    values: list[bytes | None] = []
    for place, (value, _) in enumerate(POISON.values()):
        if len(value or b"") < 4_000_000:  # the embedded broker keeps 5 MiB; 10 MB is tested on the real one
            values += [product(place), value]
    values.append(b'{"product_id": "9", "title": "!refuse me"}')
    values += [product(n) for n in range(1000, 1100)]
    poison = [value for value in values if value is None or value not in {product(n) for n in range(1100)}]
    write(broker.bootstrap, "products", values, **{"message.max.bytes": 20_000_000})
    summary = ClassifyWorker(FakeEngine(), config(broker)).run()
    assert (summary.finished, summary.dead_letters) == (len(values), len(poison))
    assert len(read_all(broker.bootstrap, "categories")) == len(values) - len(poison)
    originals = {(m.partition(), m.offset()): m for m in read_all(broker.bootstrap, "products")}
    letters = read_all(broker.bootstrap, "products.dlq")
    assert len(letters) == len(poison)
    for letter in letters:
        headers = dict(letter.headers())
        assert set(headers) == {"error", "topic", "partition", "offset"}
        original = originals[int(headers["partition"]), int(headers["offset"])]
        assert headers["topic"] == b"products"
        assert headers["error"]
        assert (letter.value(), letter.key()) == (original.value(), original.key())


@pytest.mark.slow
def test_two_workers_share_and_nothing_is_lost_when_one_leaves(broker: EmbeddedBroker) -> None:
    settings = config(broker, exit_when_idle_s=None, batch_size=64)
    first, second = (ClassifyWorker(FakeEngine(0.002), settings) for _ in range(2))
    with running(first) as done_first:
        with running(second) as done_second:
            wait_until(lambda: len(first._partitions) == 2 and len(second._partitions) == 2)
            write(broker.bootstrap, "products", (product(n) for n in range(2000)))
            wait_until(lambda: first._read + second._read >= 1500)
        write(broker.bootstrap, "products", (product(n) for n in range(2000, 4000)))
        wait_until(lambda: set(ids(read_all(broker.bootstrap, "categories"))) == {str(n) for n in range(4000)})
    assert done_first[0].drained
    assert done_second[0].drained
    assert done_second[0].read > 200


def test_a_slow_engine_pauses_reading_and_loses_nothing(broker: EmbeddedBroker) -> None:
    write(broker.bootstrap, "products", (product(n) for n in range(400)))
    worker = ClassifyWorker(
        FakeEngine(0.1), config(broker, batch_size=50, max_in_flight=100, pause_after_ms=50, exit_when_idle_s=2)
    )
    most = 0
    with running(worker) as done:
        while not done:
            most = max(most, worker.in_flight if hasattr(worker, "_delivery") else 0)
            time.sleep(0.005)
    assert most <= 100
    assert worker.metrics.pauses._value.get() >= 1
    assert sorted(ids(read_all(broker.bootstrap, "categories")), key=int) == [str(n) for n in range(400)]


def test_small_reads_are_joined_while_scoring_is_busy(broker: EmbeddedBroker) -> None:
    engine = FakeEngine(0.1)
    worker = ClassifyWorker(engine, config(broker, linger_ms=0, exit_when_idle_s=None))
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    with running(worker):
        wait_until(lambda: worker._partitions)
        for n in range(100):
            producer.produce("products", product(n))
            producer.flush()
            time.sleep(0.005)
        wait_until(lambda: sum(engine.batch_sizes) == 100)
    assert max(engine.batch_sizes) > 1
    assert len(engine.batch_sizes) < 60


@pytest.mark.slow
def test_the_broker_goes_away_and_comes_back(broker: EmbeddedBroker) -> None:
    worker = ClassifyWorker(FakeEngine(), config(broker, exit_when_idle_s=None, batch_size=64))
    with running(worker) as done:
        for outage in range(3):
            write(broker.bootstrap, "products", (product(n) for n in range(outage * 1000, (outage + 1) * 1000)))
            broker.set_down()
            time.sleep(0.3)
            broker.set_up()
            wanted = {str(n) for n in range((outage + 1) * 1000)}
            wait_until(lambda wanted=wanted: set(ids(read_all(broker.bootstrap, "categories"))) == wanted, 30)
    assert done[0].drained


def test_produce_errors_are_repeated(broker: EmbeddedBroker) -> None:
    write(broker.bootstrap, "products", (product(n) for n in range(200)))
    not_leader, timed_out, not_enough_replicas = 6, 7, 19
    broker.push_errors(0, [not_leader, timed_out, not_enough_replicas])
    ClassifyWorker(FakeEngine(), config(broker)).run()
    assert set(ids(read_all(broker.bootstrap, "categories"))) == {str(n) for n in range(200)}


@pytest.mark.slow
def test_stop_finishes_what_was_read(broker: EmbeddedBroker) -> None:
    write(broker.bootstrap, "products", (product(n) for n in range(2000)))
    engine = FakeEngine(0.05)
    worker = ClassifyWorker(engine, config(broker, exit_when_idle_s=None, batch_size=50, max_in_flight=300))
    with running(worker) as done:
        wait_until(lambda: len(engine.batch_sizes) >= 2)
    assert done[0].drained
    assert done[0].read == done[0].finished
    seen = ids(read_all(broker.bootstrap, "categories"))
    assert len(seen) == len(set(seen)) == done[0].read < 2000
    assert ClassifyWorker(FakeEngine(), config(broker)).run().read == 2000 - done[0].read


def test_metrics_are_served_on_loopback(broker: EmbeddedBroker) -> None:
    write(broker.bootstrap, "products", [product(1), b"bad"])
    worker = ClassifyWorker(FakeEngine(), config(broker, exit_when_idle_s=None))
    server = worker.metrics.serve(0)
    try:
        with running(worker):
            wait_until(lambda: hasattr(worker, "_delivery") and worker._delivery.finished == 2)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            page = answer.read().decode()
    finally:
        server.shutdown()
    assert "aitems_stream_messages_read_total 2.0" in page
    assert "aitems_stream_dead_letters_total 1.0" in page


def test_an_engine_that_breaks_ends_the_worker_and_commits_nothing(broker: EmbeddedBroker) -> None:
    class Broken(FakeEngine):
        def classify(self, *_: object, **__: object) -> None:
            raise RuntimeError("broken model")

    write(broker.bootstrap, "products", (product(n) for n in range(100)))
    with pytest.raises(RuntimeError, match="broken model"):
        ClassifyWorker(Broken(), config(broker)).run()
    assert ClassifyWorker(FakeEngine(), config(broker)).run().read == 100


def test_missing_topics_are_named(broker: EmbeddedBroker) -> None:
    with pytest.raises(StreamError, match=r"topic 'nothing' and 'nothing\.dlq' does not exist .* --create"):
        ClassifyWorker(FakeEngine(), config(broker, input_topic="nothing")).run()


def test_no_broker() -> None:
    settings = StreamConfig(
        bootstrap="127.0.0.1:1", input_topic="a", output_topic="b", group="g", startup_timeout_s=1.5
    )
    with pytest.raises(StreamError, match=r"no Kafka broker answered at 127\.0\.0\.1:1 within 1\.5 s"):
        ClassifyWorker(FakeEngine(), settings).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guarantee": "at-most-once"}, "guarantee must be one of"),
        ({"output_topic": "products"}, "three different topics"),
        ({"batch_size": 0}, "batch_size must lie between"),
        ({"max_in_flight": 600}, "twice the batch size"),
        ({"group": ""}, "group is empty"),
        ({"kafka": {"enable.auto.commit": "true"}}, "belongs to the worker"),
        ({"kafka": {"producer.acks": "1"}}, "belongs to the worker"),
    ],
)
def test_settings_that_cannot_work(broker: EmbeddedBroker, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(broker, **changes)


def test_unknown_kafka_settings_and_secrets(broker: EmbeddedBroker) -> None:
    settings = config(broker, kafka={"no.such.setting": "1", "sasl.password": "hunter2"})
    assert "hunter2" not in repr(settings)
    assert settings.redact("a hunter2 b") == "a *** b"
    with pytest.raises(StreamError, match=r"no\.such\.setting"):
        ClassifyWorker(FakeEngine(), settings).run()


@pytest.mark.slow
def test_the_embedded_broker_as_a_process() -> None:
    with embedded_broker_process({"products": 2, "categories": 1, "products.dlq": 1}) as bootstrap:
        write(bootstrap, "products", (product(n) for n in range(10)))
        assert len(read_all(bootstrap, "products")) == 10


def test_a_closed_embedded_broker_says_so() -> None:
    broker = EmbeddedBroker()
    broker.close()
    broker.close()
    with pytest.raises(StreamError, match="closed"):
        broker.create_topic("a")
