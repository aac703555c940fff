"""What a worker tells Prometheus; counted per batch, never per message."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class StreamMetrics:
    """Counters of one worker in a registry of their own, so that several workers fit into one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.read = Counter("aitems_stream_messages_read", "Messages read", registry=registry)
        self.finished = Counter(
            "aitems_stream_messages_finished", "Messages delivered, put aside or dropped", registry=registry
        )
        self.dead_letters = Counter("aitems_stream_dead_letters", "Messages put aside", registry=registry)
        self.dropped = Counter(
            "aitems_stream_dropped", "Messages dropped because their partition went away", registry=registry
        )
        self.abstained = Counter("aitems_stream_abstained", "Products without a decision", registry=registry)
        self.batch_size = Histogram(
            "aitems_stream_batch_messages", "Messages a batch", buckets=SIZES, registry=registry
        )
        self.stage_seconds = Histogram(
            "aitems_stream_stage_seconds",
            "Time a batch spends in a stage",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.latency_seconds = Histogram(
            "aitems_stream_latency_seconds",
            "From the oldest message's timestamp to its batch being handed to the producer",
            buckets=(*SECONDS, 30, 60, 300),
            registry=registry,
        )
        self.in_flight = Gauge("aitems_stream_in_flight", "Messages read and not delivered", registry=registry)
        self.paused = Gauge("aitems_stream_paused", "1 while reading is paused", registry=registry)
        self.assigned = Gauge("aitems_stream_partitions", "Partitions assigned to this worker", registry=registry)
        self.lag = Gauge("aitems_stream_lag", "Messages not delivered yet", ["partition"], registry=registry)
        self.commits = Counter("aitems_stream_commits", "Offset commits or transactions", registry=registry)
        self.aborts = Counter("aitems_stream_aborts", "Aborted transactions", registry=registry)
        self.rewinds = Counter("aitems_stream_rewinds", "Returns to the committed offsets", registry=registry)
        self.rejoins = Counter("aitems_stream_rejoins", "Returns to the group after an outage", registry=registry)
        self.pauses = Counter("aitems_stream_pauses", "How often reading was paused", registry=registry)

    def serve(self, port: int, host: str = "127.0.0.1") -> Any:
        """Serve the metrics over HTTP; returns the server (its `server_port` tells a port chosen for 0)."""
        server, _ = start_http_server(port, addr=host, registry=self.registry)
        return server
