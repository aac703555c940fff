"""`aitems stream classify` as a user runs it, on the embedded broker."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from tests.stream_kit.kafka_io import product, read_all, write
from tests.stream_kit.worker_process import WorkerProcess

from aitems_engine.cli import main
from aitems_engine.cli.stream_classify import kafka_settings
from aitems_engine.errors import ConfigError
from aitems_engine.streaming.client_log import Seldom
from aitems_engine.streaming.embedded_broker import CLIENT_SETTINGS, EmbeddedBroker

TOPICS = ("products", "categories", "products.dlq")


def test_the_command_classifies_and_ends_in_order_on_sigterm(tiny_bundle: Path, tmp_path: Path) -> None:
    more = [part for name, value in CLIENT_SETTINGS.items() for part in ("--kafka", f"consumer.{name}={value}")]
    with EmbeddedBroker(dict.fromkeys(TOPICS, 2)) as broker:
        write(broker.bootstrap, "products", [*(product(n) for n in range(200)), b"{"])
        worker = WorkerProcess(tiny_bundle, broker.bootstrap, TOPICS, "g", tmp_path / "log", *more)
        deadline = time.monotonic() + 60
        while len(read_all(broker.bootstrap, "categories")) < 200:
            assert worker.running, worker.tail()
            assert time.monotonic() < deadline, worker.tail()
        log = worker.finish()
        assert "201 messages read, 201 finished (1 dead letters)" in log
        record = json.loads(read_all(broker.bootstrap, "categories")[0].value())
    assert record.keys() == {"product_id", "categories", "abstained", "cause", "bundle"}
    assert record["categories"][0].keys() == {"leaf_id", "path", "probability"}


def test_no_broker_is_one_line(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stream", "classify", "--bundle", str(tiny_bundle), "--bootstrap", "127.0.0.1:1", "--group", "g"]
    words += ["--input-topic", "a", "--output-topic", "b", "--startup-timeout-s", "1", "--quiet"]
    assert main(words) == 1
    assert "aitems: no Kafka broker answered at 127.0.0.1:1 within 1 s" in capsys.readouterr().err


def test_settings_from_file_and_command_line(tmp_path: Path) -> None:
    path = tmp_path / "kafka.properties"
    path.write_text("# a comment\nsasl.password = a=b \n\nlinger.ms=1\n", encoding="utf-8")
    assert kafka_settings(["linger.ms=7"], path) == {"sasl.password": "a=b", "linger.ms": "7"}
    with pytest.raises(ConfigError, match="7 characters is not KEY=VALUE") as caught:
        kafka_settings(["hunter2"], None)
    assert "hunter2" not in str(caught.value)


def test_repeated_client_lines_are_dropped() -> None:
    seldom = Seldom(60.0)

    def line(text: str) -> bool:
        return seldom.filter(logging.LogRecord("n", logging.WARNING, "p", 1, text, None, None))

    assert line("connect to port 19092 failed after 3 ms")
    assert not line("connect to port 19092 failed after 4 ms")
    assert line("something else")
