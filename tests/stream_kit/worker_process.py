"""`aitems stream classify` as a process of its own, and a writer that never stops: for tests that kill things."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition


class WorkerProcess:
    """One worker; its log goes to `log`."""

    def __init__(self, bundle: Path, bootstrap: str, topics: tuple[str, str, str], group: str, log: Path, *more: str):
        source, target, dead_letters = topics
        command = [sys.executable, "-m", "aitems_engine.cli", "stream", "classify", "--bundle", str(bundle)]
        command += ["--bootstrap", bootstrap, "--input-topic", source, "--output-topic", target]
        command += ["--dead-letter-topic", dead_letters, "--group", group, *more]
        self.log = log
        with open(log, "ab") as sink:
            self.process = subprocess.Popen(
                command, stdout=sink, stderr=sink, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def has_partitions(self) -> bool:
        """Whether its log says that the group gave it some."""
        return re.search(r"assigned: \[\d", self.tail()) is not None

    def kill(self) -> None:
        """SIGKILL: nothing of the worker's own code runs any more."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self, timeout_s: float = 60.0) -> str:
        """SIGTERM, or wait for its own end; returns the log's end. The exit status must be 0."""
        if self.running:
            self.process.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 120.0) -> str:
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the worker did not end within {timeout_s:g} s:\n{self.tail()}") from None
        assert status == 0, self.tail()
        return self.tail()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


class SteadyWriter:
    """Write numbered messages at a steady rate from a thread until `stop`; survives broker outages."""

    def __init__(self, bootstrap: str, topic: str, make: Callable[[int], bytes], per_s: int):
        self.count = 0
        self._make, self._topic, self._per_s = make, topic, per_s
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "reconnect.backoff.max.ms": 500,
            }
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - began) * self._per_s)
            while self.count < due:
                self._producer.produce(self._topic, self._make(self.count), key=str(self.count))
                self.count += 1
            self._producer.poll(0)
            time.sleep(0.01)

    def stop(self) -> int:
        """Return how many messages the topic has got."""
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(120) == 0
        return self.count


class TopicWatch:
    """End offsets of a topic and committed offsets of a group, to see whether a worker is at work."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, group: str = "watch"):
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]

    def end(self) -> int:
        return self._ask(
            lambda: sum(self._consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in self._partitions)
        )

    def committed(self) -> int:
        return self._ask(
            lambda: sum(max(tp.offset, 0) for tp in self._consumer.committed(self._partitions, timeout=10))
        )

    def _ask(self, question: Callable[[], int], timeout_s: float = 60.0) -> int:
        """Repeat while the broker is starting ("not leader", "coordinator load in progress")."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return question()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        self._consumer.close()
