"""The worker on a real broker: round trip, sharing, rebalance under load, transactions, fencing, poison of 10 MB."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from tests.integration.kafka.broker import KafkaBroker
from tests.stream_kit.fake_engine import FakeEngine
from tests.stream_kit.kafka_io import product, read_all, write
from tests.stream_kit.poison import POISON
from tests.stream_kit.worker_process import SteadyWriter, TopicWatch, WorkerProcess

from aitems_engine import Engine
from aitems_engine.errors import StreamError
from aitems_engine.streaming.config import AT_LEAST_ONCE, EXACTLY_ONCE, GUARANTEES, StreamConfig
from aitems_engine.streaming.worker import ClassifyWorker

pytestmark = pytest.mark.kafka
Topics = tuple[str, str, str]


def config(broker: KafkaBroker, topics: Topics, **changes: object) -> StreamConfig:
    settings: dict[str, object] = {
        "bootstrap": broker.bootstrap,
        "input_topic": topics[0],
        "output_topic": topics[1],
        "dead_letter_topic": topics[2],
        "group": f"group-{topics[0]}",
        "exit_when_idle_s": 1.0,
    }
    return StreamConfig(**{**settings, **changes})


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def counted(messages: list) -> Counter[int]:
    return Counter(int(json.loads(m.value())["product_id"]) for m in messages)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_round_trip_equals_the_engine(
    kafka: KafkaBroker, topics: Callable[..., Topics], tiny_bundle: Path, guarantee: str
) -> None:
    names = topics()
    write(kafka.bootstrap, names[0], (product(n) for n in range(3000)))
    engine = Engine.open(tiny_bundle)
    summary = ClassifyWorker(engine, config(kafka, names, guarantee=guarantee)).run()
    assert (summary.read, summary.finished, summary.drained) == (3000, 3000, True)
    records = {int(r["product_id"]): r for r in (json.loads(m.value()) for m in read_all(kafka.bootstrap, names[1]))}
    assert len(records) == 3000
    direct = engine.classify([f"상품 {n}" for n in range(3000)], ["가전 > 소형"] * 3000, top_k=5)
    for number, expected in zip(range(3000), direct.records([str(n) for n in range(3000)]), strict=True):
        assert records[number] == expected


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_poison_of_every_kind(kafka: KafkaBroker, topics: Callable[..., Topics], guarantee: str) -> None:
    names = topics()
    values: list[bytes | None] = []
    for place, (value, _) in enumerate(POISON.values()):
        values += [product(place), value]
    write(kafka.bootstrap, names[0], values, **{"message.max.bytes": 20_000_000})
    summary = ClassifyWorker(FakeEngine(), config(kafka, names, guarantee=guarantee)).run()
    assert (summary.finished, summary.dead_letters) == (len(values), len(POISON))
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter(range(len(POISON)))
    originals = {(m.partition(), m.offset()): m for m in read_all(kafka.bootstrap, names[0])}
    letters = read_all(kafka.bootstrap, names[2])
    assert len(letters) == len(POISON)
    assert max(len(letter.value() or b"") for letter in letters) > 10_000_000
    for letter in letters:
        headers = dict(letter.headers())
        original = originals[int(headers["partition"]), int(headers["offset"])]
        assert letter.value() == original.value()
        assert headers["error"]


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_dead_letter_that_the_topic_refuses_keeps_its_headers(
    kafka: KafkaBroker, topics: Callable[..., Topics], guarantee: str
) -> None:
    names = topics()
    small = f"small-{names[0]}"
    kafka.create_topics({small: 1}, **{"max.message.bytes": "100000"})
    write(kafka.bootstrap, names[0], [product(0), b"x" * 500_000, product(1)])
    settings = config(kafka, names, guarantee=guarantee, dead_letter_topic=small)
    assert ClassifyWorker(FakeEngine(), settings).run().drained
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter([0, 1])
    (letter,) = read_all(kafka.bootstrap, small)
    assert letter.value() is None
    assert dict(letter.headers())["value_omitted_bytes"] == b"500000"


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_workers_come_and_go_under_load(
    kafka: KafkaBroker, topics: Callable[..., Topics], tiny_bundle: Path, tmp_path: Path, guarantee: str
) -> None:
    names = topics(8)
    group = f"group-{names[0]}"
    writer = SteadyWriter(kafka.bootstrap, names[0], product, 3000)

    def start(number: int) -> WorkerProcess:
        more = ("--guarantee", guarantee, "--batch-size", "64")
        return WorkerProcess(tiny_bundle, kafka.bootstrap, names, group, tmp_path / f"{number}.log", *more)

    workers = [start(0), start(1)]
    watch = TopicWatch(kafka.bootstrap, names[0], 8, group)
    wait_until(lambda: watch.committed() > 1000 and all(worker.has_partitions() for worker in workers))
    for number in range(2, 6):  # one joins, one leaves, four times
        workers.append(start(number))
        wait_until(workers[-1].has_partitions)
        time.sleep(1.0)
        workers.pop(0).finish()
    total = writer.stop()
    wait_until(lambda: watch.committed() == total)
    watch.close()
    logs = [worker.finish() for worker in workers]
    assert len(logs) == 2
    found = counted(read_all(kafka.bootstrap, names[1]))
    assert found.keys() == set(range(total))
    repeated = sum(found.values()) - total
    print(f"{guarantee}: {total} messages, 6 workers, 8 rebalances, {repeated} repeated")
    if guarantee == EXACTLY_ONCE:
        assert repeated == 0


def test_two_workers_share_the_partitions(kafka: KafkaBroker, topics: Callable[..., Topics], tiny_bundle: Path) -> None:
    names = topics(4)
    engine = Engine.open(tiny_bundle)
    workers = [ClassifyWorker(engine, config(kafka, names, exit_when_idle_s=3.0)) for _ in range(2)]
    summaries = []
    threads = [threading.Thread(target=lambda w=worker: summaries.append(w.run())) for worker in workers]
    for thread in threads:
        thread.start()
    wait_until(lambda: sorted(len(worker._partitions) for worker in workers) == [2, 2])
    write(kafka.bootstrap, names[0], (product(n) for n in range(8000)))
    for thread in threads:
        thread.join(60)
    assert sum(s.read for s in summaries) == 8000
    assert min(s.read for s in summaries) > 1000
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter(range(8000))


def test_an_aborted_transaction_is_repeated_and_stays_invisible(
    kafka: KafkaBroker, topics: Callable[..., Topics]
) -> None:
    names = topics()
    write(kafka.bootstrap, names[0], (product(n) for n in range(4000)))
    worker = ClassifyWorker(
        FakeEngine(), config(kafka, names, guarantee=EXACTLY_ONCE, batch_size=100, transaction_ms=5)
    )
    calls = 0

    def break_some(delivery: object) -> None:
        commit = delivery._commit

        def sometimes() -> None:
            nonlocal calls
            calls += 1
            if calls in (1, 2, 3, 7):  # each abort brings another call; whether there is a seventh depends on the load
                delivery._producer.flush(10)  # the records are in the log, and must not be seen
                delivery._abort("a test")
            else:
                commit()

        delivery._commit = sometimes

    start = worker._make_delivery

    def make() -> object:
        delivery = start()
        break_some(delivery)
        return delivery

    worker._make_delivery = make
    assert worker.run().drained
    assert worker.metrics.aborts._value.get() >= 3
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter(range(4000))
    assert len(read_all(kafka.bootstrap, names[1], isolation="read_uncommitted")) > 4000


def test_a_fenced_worker_begins_again_and_nothing_is_doubled(kafka: KafkaBroker, topics: Callable[..., Topics]) -> None:
    names = topics()
    settings = config(kafka, names, guarantee=EXACTLY_ONCE, instance_id="one", batch_size=50, exit_when_idle_s=2.0)
    write(kafka.bootstrap, names[0], (product(n) for n in range(4000)))
    worker = ClassifyWorker(FakeEngine(0.01), settings)
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(worker.run()))
    thread.start()
    wait_until(lambda: worker._read > 500)
    usurper = Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{settings.group}.one", "enable.idempotence": True}
    )
    usurper.init_transactions(10)  # gives the id a newer epoch: the worker's producer is fenced
    thread.join(120)
    # Who of the two holds the newest epoch in the end depends on how often the broker asked the usurper to try again.
    assert summaries[0].drained
    assert worker.metrics.aborts._value.get() >= 1
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter(range(4000))


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_worker_whose_name_is_taken_after_an_outage_joins_again(
    kafka: KafkaBroker, topics: Callable[..., Topics], guarantee: str
) -> None:
    names = topics()
    settings = config(kafka, names, guarantee=guarantee, instance_id="one", batch_size=50, exit_when_idle_s=2.0)
    write(kafka.bootstrap, names[0], (product(n) for n in range(4000)))
    worker = ClassifyWorker(FakeEngine(0.01), settings)
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(worker.run()))
    thread.start()
    wait_until(lambda: worker._read > 500)
    worker._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    former = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": settings.group,
            "group.instance.id": f"{settings.group}.one",
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
    )
    former.subscribe([names[0]])
    wait_until(lambda: former.poll(0.05) is not None or worker.metrics.rejoins._value.get() > 0)
    wait_until(lambda: worker.metrics.rejoins._value.get() > 0)
    former.close()
    thread.join(120)
    assert summaries[0].drained
    results = counted(read_all(kafka.bootstrap, names[1]))
    assert results.keys() == set(range(4000))
    assert guarantee != EXACTLY_ONCE or set(results.values()) == {1}


def test_two_owners_of_one_instance_id_are_an_error(kafka: KafkaBroker, topics: Callable[..., Topics]) -> None:
    names = topics()
    settings = config(kafka, names, guarantee=EXACTLY_ONCE, instance_id="same", exit_when_idle_s=None)
    failures: list[BaseException] = []

    def body(worker: ClassifyWorker) -> None:
        try:
            worker.run()
        except StreamError as error:
            failures.append(error)

    workers = [ClassifyWorker(FakeEngine(), settings) for _ in range(2)]
    threads = [threading.Thread(target=body, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    wait_until(lambda: bool(failures))
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(60)
    assert "instance-id" in str(failures[0])


def test_settings_of_the_broker_protocol(kafka: KafkaBroker, topics: Callable[..., Topics]) -> None:
    """KIP-848: the broker assigns the partitions."""
    names = topics()
    write(kafka.bootstrap, names[0], (product(n) for n in range(500)))
    settings = config(kafka, names, guarantee=AT_LEAST_ONCE, kafka={"consumer.group.protocol": "consumer"})
    assert ClassifyWorker(FakeEngine(), settings).run().finished == 500
    assert counted(read_all(kafka.bootstrap, names[1])) == Counter(range(500))


def test_a_missing_topic_says_how_to_create_it(kafka: KafkaBroker) -> None:
    names = (f"no-{uuid.uuid4().hex}", "no-output", "no-dlq")
    with pytest.raises(StreamError, match=r"does not exist .* --create --topic no-"):
        ClassifyWorker(FakeEngine(), config(kafka, names)).run()
