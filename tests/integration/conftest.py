"""The real broker for all tests marked `kafka`, started by the tests themselves."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from tests.integration.kafka.broker import BrokerUnavailableError, KafkaBroker, kafka_broker


def unavailable(error: BrokerUnavailableError) -> None:
    if os.environ.get("AITEMS_REQUIRE_KAFKA") == "1":
        pytest.fail(f"AITEMS_REQUIRE_KAFKA=1, and the broker cannot be had: {error}", pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Return a running broker, one for the session."""
    try:
        with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield broker
    except BrokerUnavailableError as error:
        unavailable(error)


@pytest.fixture
def topics(kafka: KafkaBroker) -> Callable[..., tuple[str, str, str]]:
    """Return a function that creates fresh input, output and dead-letter topics."""

    def create(partitions: int = 4) -> tuple[str, str, str]:
        name = f"products-{uuid.uuid4().hex[:8]}"
        names = (name, f"{name}.categories", f"{name}.dlq")
        kafka.create_topics({names[0]: partitions, names[1]: partitions, names[2]: 1})
        return names

    return create
