"""A Kafka broker inside this process, for demos and unit tests: librdkafka's mock cluster, no service needed.

The client wheel of confluent-kafka carries librdkafka, and librdkafka carries a small broker for its own tests. This
file reaches it through ctypes. It listens on loopback only and keeps everything in memory.

What it does not do (use a real broker there): transactions are accepted but `read_committed`, transactional offset
commits and fencing are not implemented; a partition drops its oldest messages past 5 MiB; no topic configuration,
no access control, no admin requests.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import confluent_kafka

from aitems_engine.errors import StreamError

# The mock drops the oldest messages of a partition past this many bytes (rdkafka_mock.c).
PARTITION_CAPACITY_BYTES = 5 * 1024 * 1024
# Consumers of the mock want these: with the default session timeout of 45 s a second start would wait for 44 s.
CLIENT_SETTINGS = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
RD_KAFKA_PRODUCER = 0


def _load_librdkafka() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    libraries = sorted(folder.glob("librdkafka-*.so*"))
    if not libraries:
        raise StreamError(
            f"the embedded broker needs the librdkafka that the confluent-kafka wheel brings, and {folder} has none; "
            "run: pip install --force-reinstall --only-binary confluent-kafka confluent-kafka"
        )
    library = ctypes.CDLL(str(libraries[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_rtt": (number, [pointer, ctypes.c_int32, number]),
        "rd_kafka_mock_push_request_errors_array": (
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
        "rd_kafka_mock_clear_request_errors": (None, [pointer, ctypes.c_int16]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


class EmbeddedBroker:
    """A loopback Kafka cluster in memory, alive between `with` and its end.

    Parameters
    ----------
    topics : mapping of topic name to its number of partitions
        Created at the start; a topic that a client asks for and that is not listed gets 4 partitions.
    brokers : int
        Brokers of the cluster, numbered from 1.
    rebalance_delay_ms : int
        How long a new consumer group waits for more members before the first assignment.

    Raises
    ------
    StreamError
        confluent-kafka is not installed from a wheel, or the cluster cannot start.

    Notes
    -----
    A partition keeps at most `PARTITION_CAPACITY_BYTES` (5 MiB) and silently drops its oldest messages past that.

    Examples
    --------
    >>> from aitems_engine.streaming.embedded_broker import EmbeddedBroker
    >>> with EmbeddedBroker({"products": 4, "categories": 4}) as broker:
    ...     broker.bootstrap.startswith("127.0.0.1:")
    True
    """

    def __init__(self, topics: Mapping[str, int] | None = None, *, brokers: int = 1, rebalance_delay_ms: int = 100):
        self._library = library = _load_librdkafka()
        reason = ctypes.create_string_buffer(512)
        settings = library.rd_kafka_conf_new()
        # The host handle needs no broker of its own; level 4 keeps it from warning about that on stderr.
        for name, value in ((b"client.id", b"embedded-broker"), (b"log_level", b"4")):
            library.rd_kafka_conf_set(settings, name, value, reason, len(reason))
        self._client = library.rd_kafka_new(RD_KAFKA_PRODUCER, settings, reason, len(reason))
        if not self._client:
            raise StreamError(f"the embedded broker cannot start: {reason.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            library.rd_kafka_destroy(self._client)
            raise StreamError(f"the embedded broker cannot start a cluster of {brokers} brokers")
        self.bootstrap: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, rebalance_delay_ms)
        for topic, partitions in (topics or {}).items():
            self.create_topic(topic, partitions)

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create `topic`; an existing one is a `StreamError`."""
        error = self._library.rd_kafka_mock_topic_create(self._open(), topic.encode(), partitions, 1)
        if error:
            raise StreamError(f"the embedded broker cannot create topic '{topic}' (librdkafka error {error})")

    def set_down(self, broker: int = 1) -> None:
        """Drop all connections of this broker and refuse new ones until `set_up`."""
        self._library.rd_kafka_mock_broker_set_down(self._open(), broker)

    def set_up(self, broker: int = 1) -> None:
        """Accept connections again."""
        self._library.rd_kafka_mock_broker_set_up(self._open(), broker)

    def set_round_trip_ms(self, milliseconds: int, broker: int = 1) -> None:
        """Delay every answer of this broker."""
        self._library.rd_kafka_mock_broker_set_rtt(self._open(), broker, milliseconds)

    def push_errors(self, api_key: int, codes: list[int]) -> None:
        """Let the next requests of a kind (Produce 0, Fetch 1, OffsetCommit 8, ...) fail with these protocol codes."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._open(), api_key, len(codes), array)

    def close(self) -> None:
        """Stop the cluster; everything in it is gone. A second call does nothing."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
            self._cluster = self._client = None

    def _open(self) -> object:
        if not self._cluster:
            raise StreamError("this embedded broker is closed; make a new one")
        return self._cluster

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def embedded_broker_process(topics: Mapping[str, int], *, timeout_s: float = 20.0) -> Iterator[str]:
    """Run an embedded broker in a process of its own and yield its bootstrap address; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "bootstrap"
        listed = ",".join(f"{topic}:{partitions}" for topic, partitions in topics.items())
        command = [sys.executable, "-m", __name__, "--topics", listed, "--bootstrap-file", str(address)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + timeout_s
            while not address.exists():
                if process.poll() is not None:
                    raise StreamError(f"the embedded broker process ended with status {process.returncode}")
                if time.monotonic() > deadline:
                    raise StreamError(f"the embedded broker process gave no address within {timeout_s:g} s")
                time.sleep(0.02)
            yield address.read_text()
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aitems_engine.streaming.embedded_broker",
        description="An in-memory Kafka broker on loopback, for demos and tests; runs until SIGTERM or SIGINT.",
    )
    parser.add_argument("--topics", default="", help="comma-separated name:partitions")
    parser.add_argument("--bootstrap-file", type=Path, help="where to write the address, once it is up")
    args = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    topics = {}
    for item in filter(None, args.topics.split(",")):
        name, _, partitions = item.partition(":")
        topics[name] = int(partitions or 1)
    with EmbeddedBroker(topics) as broker:
        print(broker.bootstrap, flush=True)
        if args.bootstrap_file:
            fresh = args.bootstrap_file.with_suffix(".new")
            fresh.write_text(broker.bootstrap)
            os.replace(fresh, args.bootstrap_file)
        while not stopping.wait(1.0):
            pass


if __name__ == "__main__":
    _main()
