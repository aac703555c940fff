"""Kill -9, again and again: the worker at random moments, the broker under load. Nothing may be lost.

AITEMS_SEED chooses the moments, AITEMS_KILLS how many (50), AITEMS_OUTAGES the broker's (10).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.integration.conftest import unavailable
from tests.integration.kafka.broker import BrokerUnavailableError, KafkaBroker, kafka_broker
from tests.stream_kit.kafka_io import product, read_all
from tests.stream_kit.worker_process import SteadyWriter, TopicWatch, WorkerProcess

from aitems_engine.streaming.config import EXACTLY_ONCE, GUARANTEES

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]
SEED = int(os.environ.get("AITEMS_SEED", "1"))
KILLS = int(os.environ.get("AITEMS_KILLS", "50"))
OUTAGES = int(os.environ.get("AITEMS_OUTAGES", "10"))
PARTITIONS = 4
POISON_EVERY = 97


def message(number: int) -> bytes:
    return b'{"title": %d}' % number if number % POISON_EVERY == 0 else product(number)


def check(bootstrap: str, topics: tuple[str, str, str], total: int) -> int:
    """Every message has its result or its dead letter; returns how many were repeated."""
    results = Counter(int(json.loads(m.value())["product_id"]) for m in read_all(bootstrap, topics[1], timeout_s=120))
    letters = Counter(int(m.key()) for m in read_all(bootstrap, topics[2], timeout_s=120))
    poison = {number for number in range(total) if number % POISON_EVERY == 0}
    lost = set(range(total)) - results.keys() - letters.keys()
    assert not lost, f"{len(lost)} of {total} lost, the first {sorted(lost)[:10]}"
    assert letters.keys() == poison
    assert results.keys() == set(range(total)) - poison
    return sum(results.values()) + sum(letters.values()) - total


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_worker_killed_at_random_moments(
    kafka: KafkaBroker, topics: object, tiny_bundle: Path, tmp_path: Path, guarantee: str
) -> None:
    names = topics(PARTITIONS)
    group = f"group-{names[0]}"
    chance = random.Random(SEED)
    arguments = ("--guarantee", guarantee, "--instance-id", "worker-0", "--batch-size", "64", "--max-in-flight", "512")
    arguments += ("--commit-interval-ms", "100", "--transaction-ms", "50")

    def start(number: int, *more: str) -> WorkerProcess:
        log = tmp_path / f"worker-{number}.log"
        return WorkerProcess(tiny_bundle, kafka.bootstrap, names, group, log, *arguments, *more)

    output = TopicWatch(kafka.bootstrap, names[1], PARTITIONS)
    source = TopicWatch(kafka.bootstrap, names[0], PARTITIONS, group)
    writer = SteadyWriter(kafka.bootstrap, names[0], message, 1000 if guarantee == EXACTLY_ONCE else 3000)
    at_work = unfinished = 0
    began = time.monotonic()
    for number in range(KILLS):
        before = output.end()
        worker = start(number)
        if chance.random() < 0.15:  # at any moment of the start
            time.sleep(chance.uniform(0.0, 1.0))
        else:
            deadline = time.monotonic() + 60
            while output.end() == before:
                assert worker.running, worker.tail()
                assert time.monotonic() < deadline, f"the worker does nothing:\n{worker.tail()}"
            time.sleep(chance.uniform(0.0, 0.4))
        assert worker.running, worker.tail()
        at_work += output.end() > before
        worker.kill()
        unfinished += source.committed() < source.end()
    total = writer.stop()
    last = start(KILLS, "--exit-when-idle-s", "2", "--max-in-flight", "8192", "--batch-size", "512").wait()
    assert source.committed() == source.end() == total
    repeated = check(kafka.bootstrap, names, total)
    print(
        f"\n{guarantee}: seed {SEED}, {KILLS} kills -9 in {time.monotonic() - began:.0f} s, {at_work} of them while "
        f"results were written, {unfinished} with work left; {total} messages, 0 lost, "
        f"{repeated} repeated\n{last[-200:]}"
    )
    assert at_work >= KILLS * 0.7
    assert unfinished >= KILLS * 0.7
    if guarantee == EXACTLY_ONCE:
        assert repeated == 0
    output.close()
    source.close()


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_broker_killed_and_restarted_under_load(
    tiny_bundle: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, guarantee: str
) -> None:
    outages = OUTAGES if guarantee != EXACTLY_ONCE else max(1, OUTAGES // 2)
    chance = random.Random(SEED)
    names = ("products", "categories", "products.dlq")
    try:
        with kafka_broker(tmp_path_factory.mktemp("outage")) as broker:
            broker.create_topics({names[0]: PARTITIONS, names[1]: PARTITIONS, names[2]: 1})
            arguments = ("--guarantee", guarantee, "--instance-id", "worker-0", "--batch-size", "64")
            worker = WorkerProcess(tiny_bundle, broker.bootstrap, names, "group", tmp_path / "worker.log", *arguments)
            writer = SteadyWriter(broker.bootstrap, names[0], message, 2000)
            under_load = 0
            began = time.monotonic()
            for _ in range(outages):
                watch = TopicWatch(broker.bootstrap, names[1], PARTITIONS)
                before, deadline = watch.end(), time.monotonic() + 60
                while watch.end() == before:  # results flow again
                    assert worker.running, worker.tail()
                    assert time.monotonic() < deadline, f"the worker does not recover:\n{worker.tail()}"
                    time.sleep(0.02)
                time.sleep(chance.uniform(0.0, 1.0))
                now = watch.end()
                watch.close()
                broker.kill()
                under_load += now > before
                broker.start()
            total = writer.stop()
            source = TopicWatch(broker.bootstrap, names[0], PARTITIONS, "group")
            deadline = time.monotonic() + 120
            while source.committed() < total:
                assert worker.running, worker.tail()
                assert time.monotonic() < deadline, f"{source.committed()} of {total}:\n{worker.tail()}"
                time.sleep(0.1)
            source.close()
            worker.finish()
            repeated = check(broker.bootstrap, names, total)
    except BrokerUnavailableError as error:
        unavailable(error)
    print(
        f"\n{guarantee}: the broker killed -9 and restarted {outages} times in {time.monotonic() - began:.0f} s, "
        f"{under_load} times under load; {total} messages, 0 lost, {repeated} repeated by one and the same worker"
    )
    assert under_load == outages
    if guarantee == EXACTLY_ONCE:
        assert repeated == 0
