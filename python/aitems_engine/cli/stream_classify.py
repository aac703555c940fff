"""Classify the products of a Kafka topic into another one, until stopped.

Reads JSON products, writes one category record for each, and puts unreadable messages aside in the dead-letter topic
with the reason. Several workers of one --group share the partitions. SIGTERM or Ctrl-C finishes what was read.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from aitems_engine.errors import ConfigError

EXAMPLES = """  aitems stream classify --bundle bundle --bootstrap 127.0.0.1:19092 \\
      --input-topic products --output-topic categories --dead-letter-topic products.dlq --group classify
  # every product exactly once for readers that read committed; the instance id makes restarts immediate
  aitems stream classify ... --guarantee exactly-once --instance-id worker-0
  # TLS and a password, kept out of the process list
  aitems stream classify ... --kafka security.protocol=SASL_SSL --kafka-file kafka.properties
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", help="directory of the trained bundle")
    source.add_argument("--triton", metavar="HOST:PORT", help="gRPC address of `aitems serve`, in place of a bundle")
    add("--bootstrap", required=True, metavar="HOST:PORT", help="Kafka addresses, separated by commas")
    add("--input-topic", required=True, help="topic with products as JSON")
    add("--output-topic", required=True, help="topic for the category records")
    add("--dead-letter-topic", default="", help="topic for unreadable messages (default: <input topic>.dlq)")
    add("--group", required=True, help="consumer group; workers of one group share the partitions")
    add("--guarantee", choices=("at-least-once", "exactly-once"), default="at-least-once")
    add(
        "--instance-id",
        default="",
        help="a name that this worker keeps over restarts (docs/streaming.md)",
    )
    add("--batch-size", type=int, default=512, help="classify once so many messages wait (default 512)")
    add("--linger-ms", type=int, default=5, help="or once the first has waited so long (default 5)")
    add("--max-in-flight", type=int, default=8192, help="messages read and not delivered at which reading stops")
    add("--threads", type=int, default=1, help="threads of the engine (0: all cores)")
    add("--top-k", type=int, default=5, help="candidates a record (default 5)")
    add("--execution", choices=("native", "onnx"), default="native", help="who computes the model")
    add("--mode", choices=("int8", "exact"), default="int8", help="arithmetic of the native execution")
    add("--commit-interval-ms", type=int, default=500, help="at-least-once: how often offsets are committed")
    add("--transaction-ms", type=int, default=100, help="exactly-once: how long a transaction collects results")
    add("--from-end", action="store_true", help="a new group begins at new messages, not at the oldest")
    add("--exit-when-idle-s", type=float, help="end once nothing has arrived for so long and all is delivered")
    add("--startup-timeout-s", type=float, default=30.0, help="how long to wait for the first answer of a broker")
    add("--metrics-port", type=int, help="Prometheus metrics over HTTP (0: any free port)")
    add("--metrics-host", default="127.0.0.1", help="address for the metrics (default 127.0.0.1)")
    add("--kafka", action="append", default=[], metavar="KEY=VALUE", help="further librdkafka setting (repeatable)")
    add("--kafka-file", type=Path, help="file of KEY=VALUE lines, for secrets")
    add("--quiet", action="store_true", help="log warnings only")


def kafka_settings(pairs: list[str], path: Path | None) -> dict[str, str]:
    """Return the extra librdkafka settings of the command line and the file; the command line wins."""
    lines = []
    if path is not None:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    settings = {}
    for source, pair in [(str(path), line) for line in lines if line and line[0] not in "#!"] + [
        ("--kafka", pair) for pair in pairs
    ]:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            # The text is not repeated: it may hold a secret.
            raise ConfigError(f"{source}: a setting of {len(pair)} characters is not KEY=VALUE")
        settings[key.strip()] = value.strip()
    return settings


def run(args: argparse.Namespace) -> int:
    from aitems_engine import Engine
    from aitems_engine.streaming.batches import Classifier
    from aitems_engine.streaming.config import StreamConfig
    from aitems_engine.streaming.worker import ClassifyWorker, TransactionHangError

    logging.basicConfig(
        level=logging.WARNING if args.quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    config = StreamConfig(
        bootstrap=args.bootstrap,
        input_topic=args.input_topic,
        output_topic=args.output_topic,
        dead_letter_topic=args.dead_letter_topic,
        group=args.group,
        guarantee=args.guarantee,
        instance_id=args.instance_id,
        batch_size=args.batch_size,
        linger_ms=args.linger_ms,
        max_in_flight=args.max_in_flight,
        threads=args.threads,
        top_k=args.top_k,
        commit_interval_ms=args.commit_interval_ms,
        transaction_ms=args.transaction_ms,
        from_end=args.from_end,
        exit_when_idle_s=args.exit_when_idle_s,
        metrics_port=args.metrics_port,
        metrics_host=args.metrics_host,
        startup_timeout_s=args.startup_timeout_s,
        kafka=kafka_settings(args.kafka, args.kafka_file),
    )
    engine: Classifier
    if args.triton:
        from aitems_engine.serving.client import Client

        engine = Client(args.triton)
    else:
        engine = Engine.open(args.bundle, execution=args.execution, mode=args.mode)
    worker = ClassifyWorker(engine, config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    try:
        summary = worker.run()
    except TransactionHangError as error:
        logging.warning("%s", error)
        logging.warning("beginning again in a fresh process")
        again = [sys.executable, "-m", "aitems_engine.cli", *sys.argv[1:], "--startup-timeout-s", str(86_400)]
        os.execv(sys.executable, again)
    print(
        f"{summary.read} messages read, {summary.finished} finished ({summary.dead_letters} dead letters) "
        f"in {summary.seconds:.1f} s"
    )
    return 0 if summary.drained else 1
