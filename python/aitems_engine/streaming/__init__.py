"""Kafka in and out: products stream in, categories stream out, poison goes to the dead letters, nothing is lost.

Needs the extra `stream`: confluent_kafka, msgspec and prometheus_client are imported here and nowhere else.
"""

from __future__ import annotations

from aitems_engine.errors import require_extra

for _module in ("confluent_kafka", "msgspec", "prometheus_client"):
    require_extra("stream", _module)
