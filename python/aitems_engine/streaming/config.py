"""Settings of a stream worker, checked once, and the client settings that follow from them.

Secrets (passwords, keys, tokens among the extra librdkafka settings) never reach a log, a repr or an error message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aitems_engine.errors import ConfigError

AT_LEAST_ONCE = "at-least-once"
EXACTLY_ONCE = "exactly-once"
GUARANTEES = (AT_LEAST_ONCE, EXACTLY_ONCE)

SECRET = re.compile(r"password|secret|token|jaas|credential|key\.pem|oauthbearer\.config|username", re.IGNORECASE)

# What the guarantees rest on; a setting here would break them silently.
OWNED = {
    "bootstrap.servers": "--bootstrap",
    "metadata.broker.list": "--bootstrap",
    "group.id": "--group",
    "group.instance.id": "--instance-id",
    "transactional.id": "--instance-id",
    "enable.auto.commit": "nothing: offsets follow delivered results",
    "enable.auto.offset.store": "nothing: offsets follow delivered results",
    "enable.idempotence": "nothing: it is always on",
    "isolation.level": "nothing: it is always read_committed",
    "acks": "nothing: it is always all",
    "request.required.acks": "nothing: it is always all",
    "auto.offset.reset": "--from-end",
}


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What a worker reads, writes and promises.

    Attributes
    ----------
    bootstrap : str
        Kafka addresses, ``host:port`` separated by commas.
    input_topic, output_topic, dead_letter_topic : str
        Existing topics; an empty `dead_letter_topic` becomes ``<input_topic>.dlq``.
    group : str
        Consumer group; workers of one group share the partitions.
    guarantee : str
        ``"at-least-once"`` or ``"exactly-once"``.
    instance_id : str
        A name that stays the same when this worker restarts (and that no other worker of the group has). Makes the
        worker a static member of the group and gives it a stable transactional id, so that a restarted worker takes
        over at once. Empty: members come and go, and an unfinished transaction of a killed worker is aborted by the
        broker after `transaction_timeout_ms`.
    batch_size, linger_ms : int
        A batch is classified once it has `batch_size` messages or its first message has waited `linger_ms`.
    max_in_flight : int
        Messages read and not delivered at which reading stops; it resumes at half of it.
    pause_after_ms : int
        How long reading waits at `max_in_flight` for room before it pauses the partitions (resuming takes librdkafka
        up to a second).
    threads, top_k : int
        Given to the engine.
    commit_interval_ms : int
        At-least-once: how often offsets of delivered results are committed.
    transaction_ms, transaction_timeout_ms : int
        Exactly-once: how long a transaction collects results, and when the broker gives up on a silent worker.
    max_message_bytes : int
        Longer messages go to the dead letters unread.
    from_end : bool
        A group without committed offsets begins at messages that arrive from now on; otherwise at the oldest.
    exit_when_idle_s : float or None
        Stop once nothing has arrived for that long and everything read is delivered.
    startup_timeout_s, revoke_timeout_s, drain_timeout_s : float
        How long to wait for the first answer of a broker; for results on the way when a partition is taken away; for
        everything on the way at the end.
    metrics_port, metrics_host : int or None, str
        Prometheus metrics over HTTP.
    kafka : mapping of str to str
        Further librdkafka settings for both clients; ``consumer.`` or ``producer.`` before a name limits it to one.
    """

    bootstrap: str
    input_topic: str
    output_topic: str
    group: str
    dead_letter_topic: str = ""
    guarantee: str = AT_LEAST_ONCE
    instance_id: str = ""
    batch_size: int = 512
    linger_ms: int = 5
    max_in_flight: int = 8192
    threads: int = 1
    top_k: int = 5
    commit_interval_ms: int = 500
    transaction_ms: int = 100
    transaction_timeout_ms: int = 15_000
    pause_after_ms: int = 1_000
    max_message_bytes: int = 1 << 20
    from_end: bool = False
    exit_when_idle_s: float | None = None
    startup_timeout_s: float = 30.0
    revoke_timeout_s: float = 10.0
    drain_timeout_s: float = 30.0
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.dead_letter_topic:
            object.__setattr__(self, "dead_letter_topic", f"{self.input_topic}.dlq")
        for name in ("bootstrap", "input_topic", "output_topic", "group"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty")
        if len({self.input_topic, self.output_topic, self.dead_letter_topic}) != 3:
            raise ConfigError(
                "input, output and dead-letter topic must be three different topics, got "
                f"'{self.input_topic}', '{self.output_topic}', '{self.dead_letter_topic}'"
            )
        if self.guarantee not in GUARANTEES:
            raise ConfigError(f"guarantee must be one of {', '.join(GUARANTEES)}, got '{self.guarantee}'")
        for name, low, high in (
            ("batch_size", 1, 65_536),
            ("linger_ms", 0, 10_000),
            ("max_in_flight", 2, 10_000_000),
            ("threads", 0, 1024),
            ("top_k", 1, 1000),
            ("commit_interval_ms", 1, 60_000),
            ("transaction_ms", 1, 60_000),
            ("transaction_timeout_ms", 1_000, 900_000),
            ("pause_after_ms", 0, 600_000),
            ("max_message_bytes", 64, 1 << 30),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must lie between {low} and {high}, got {value}")
        if self.max_in_flight < 2 * self.batch_size:
            raise ConfigError(
                f"max_in_flight must be at least twice the batch size of {self.batch_size}, got {self.max_in_flight}"
            )
        for key in self.kafka:
            name = key.removeprefix("consumer.").removeprefix("producer.")
            if name in OWNED:
                raise ConfigError(f"the Kafka setting '{name}' belongs to the worker; use {OWNED[name]}")

    @property
    def exactly_once(self) -> bool:
        return self.guarantee == EXACTLY_ONCE

    def redact(self, text: str) -> str:
        """Return `text` with every secret value of the Kafka settings replaced."""
        for key, value in self.kafka.items():
            if SECRET.search(key) and value:
                text = text.replace(value, "***")
        return text

    def _extra(self, role: str) -> dict[str, str]:
        other = "producer." if role == "consumer" else "consumer."
        plain = {k: v for k, v in self.kafka.items() if not k.startswith((f"{role}.", other))}
        own = {k.removeprefix(f"{role}."): v for k, v in self.kafka.items() if k.startswith(f"{role}.")}
        return plain | own

    def consumer_settings(self) -> dict[str, object]:
        """Return the settings of the Kafka consumer."""
        settings: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "latest" if self.from_end else "earliest",
            "partition.assignment.strategy": "cooperative-sticky",
            # an answer of the broker waits this long for more bytes
            "fetch.wait.max.ms": 10,
            # Prefetching more than a few batches only fills memory, and pausing throws it away.
            "queued.min.messages": max(2 * self.max_in_flight, 10_000),
            "queued.max.messages.kbytes": 65_536,
            "reconnect.backoff.max.ms": 1_000,
        }
        if self.instance_id:
            settings["group.instance.id"] = f"{self.group}.{self.instance_id}"
        extra = self._extra("consumer")
        if extra.get("group.protocol") == "consumer":  # KIP-848: the broker assigns, cooperatively
            del settings["partition.assignment.strategy"]
        return settings | extra

    def producer_settings(self) -> dict[str, object]:
        """Return the settings of the Kafka producer, without the transactional id."""
        settings: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "queue.buffering.max.messages": max(2 * self.max_in_flight, 100_000),
            # Dead letters carry whatever was read; the broker's own limit still decides.
            "message.max.bytes": 104_857_600,
            "reconnect.backoff.max.ms": 1_000,
        }
        if self.exactly_once:
            settings["transaction.timeout.ms"] = self.transaction_timeout_ms
            settings["message.timeout.ms"] = self.transaction_timeout_ms
            settings["delivery.report.only.error"] = True
        else:
            settings["message.timeout.ms"] = 0  # never give a result up: a broker may be away for long
        return settings | self._extra("producer")
