"""A real single-node Apache Kafka broker for tests: fetched from Maven artifacts, on loopback, killed at will.

    python tests/integration/kafka/broker.py fetch          # the jars, once, into .kafka/libs (42 MB)
    python tests/integration/kafka/broker.py run --port 19092 --dir .kafka/broker   # until Ctrl-C

Needs Java 17+, and Maven for the first fetch. Sessions of the broker are short (2 s), so that it comes back quickly
after kill -9: the controller takes it as gone only when its session has expired.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".kafka"
LIBS = CACHE / "libs"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/log
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.enable=false
log.segment.bytes=268435456
message.max.bytes=20000000
"""


class BrokerUnavailableError(RuntimeError):
    """The broker cannot be had on this machine; the message says what is missing."""


def fetch() -> Path:
    """Return the folder with the jars, fetched once (several test processes may ask at the same time)."""
    if shutil.which("java") is None:
        raise BrokerUnavailableError("no 'java' on the path: install a Java 17 runtime (Debian: default-jre-headless)")
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (LIBS / ".complete").exists():
            return LIBS
        if shutil.which("mvn") is None:
            raise BrokerUnavailableError("no 'mvn' on the path: install Maven to fetch the broker (Debian: maven)")
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={LIBS}", "-DincludeScope=runtime"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise BrokerUnavailableError(
                f"Maven could not fetch the broker:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        (LIBS / ".complete").touch()
    return LIBS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class KafkaBroker:
    """One broker with its data in `folder`; `start` after `kill` continues with the same data.

    Parameters
    ----------
    folder : path
        Formatted on the first start.
    port : int
        0 picks a free one, kept over restarts.
    """

    def __init__(self, folder: Path, port: int = 0):
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._controller_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        libraries = fetch()
        self._java = ["java", "-XX:+UseSerialGC", "-Xms256m", "-Xmx512m", "-XX:MaxDirectMemorySize=256m"]
        self._java += ["-XX:TieredStopAtLevel=4", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        self._java += ["-cp", f"{libraries}/*"]

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the broker and return once it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(
            PROPERTIES.format(port=self.port, controller_port=self._controller_port, folder=self.folder)
        )
        if not (self.folder / "log" / "meta.properties").exists():
            tool = [*self._java, "kafka.tools.StorageTool"]
            cluster = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True, timeout=60)
            arguments = ["format", "--standalone", "-c", str(properties), "-t", cluster.stdout.strip()]
            subprocess.run([*tool, *arguments], capture_output=True, check=True, timeout=60)
        with open(self.folder / "broker.log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(properties)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        tail = (self.folder / "broker.log").read_bytes()[-2000:].decode(errors="replace")
        raise BrokerUnavailableError(f"the broker did not start within {timeout_s:g} s:\n{tail}")

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the broker in order."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def create_topics(self, topics: dict[str, int], *, timeout_s: float = 60.0, **settings: str) -> None:
        """Create topics (name -> partitions) and return once clients see them."""
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        wanted = [NewTopic(topic, count, 1, config=settings) for topic, count in topics.items()]
        for topic, future in admin.create_topics(wanted, request_timeout=timeout_s).items():
            try:
                future.result(timeout_s)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise RuntimeError(f"topic '{topic}' was not created") from error
        deadline = time.monotonic() + timeout_s
        while not topics.keys() <= admin.list_topics(timeout=timeout_s).topics.keys():
            if time.monotonic() > deadline:
                raise RuntimeError(f"topics {sorted(topics)} did not appear within {timeout_s:g} s")
            time.sleep(0.05)


@contextlib.contextmanager
def kafka_broker(folder: Path, port: int = 0) -> Iterator[KafkaBroker]:
    """Run a broker for a block; its data stays in `folder`."""
    broker = KafkaBroker(folder, port)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fetch", "run"))
    parser.add_argument("--port", type=int, default=19092)
    parser.add_argument("--dir", type=Path, default=CACHE / "broker")
    parser.add_argument("--topics", default="", help="comma-separated name:partitions to create")
    args = parser.parse_args()
    if args.action == "fetch":
        print(fetch())
        return
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    broker = KafkaBroker(args.dir, args.port)
    broker.start()
    try:
        topics = dict(item.partition(":")[::2] for item in filter(None, args.topics.split(",")))
        if topics:
            broker.create_topics({name: int(count or 1) for name, count in topics.items()})
        print(f"Kafka at {broker.bootstrap}, data in {broker.folder}; Ctrl-C ends it", flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        broker.stop()


if __name__ == "__main__":
    main()
