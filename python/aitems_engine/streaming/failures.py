"""What a Kafka error means for a worker: go on, begin again, or stop with a message that says what to do."""

from __future__ import annotations

from confluent_kafka import KafkaError

from aitems_engine.errors import StreamError
from aitems_engine.streaming.config import StreamConfig

AUTHENTICATION = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError._SSL,
}
AUTHORIZATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
TAKEN_INSTANCE = {KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID}
OUTAGE = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT}
PERMANENT = AUTHENTICATION | AUTHORIZATION | TAKEN_INSTANCE


def is_permanent(error: KafkaError) -> bool:
    """Return whether waiting cannot help."""
    return error.code() in PERMANENT


def is_fatal(error: KafkaError) -> bool:
    """Return whether the client that reports this is of no further use."""
    return error.fatal() or error.code() == KafkaError._FATAL


def is_fenced_instance(error: KafkaError) -> bool:
    """Return whether another member of the group has this one's name now."""
    return error.code() in TAKEN_INSTANCE or "group.instance.id" in error.str()  # a fatal error keeps only the words


def explain(error: KafkaError, config: StreamConfig, doing: str) -> StreamError:
    """Return the error a user sees for a Kafka error that ends the worker."""
    code = error.code()
    if code in AUTHENTICATION:
        advice = (
            "the broker does not accept this client: check security.protocol, sasl.mechanism, the user name and the "
            "password, or the certificates, given with --kafka or --kafka-file"
        )
    elif code in AUTHORIZATION:
        advice = (
            f"this user may not do that: it needs Read on topic '{config.input_topic}' and group '{config.group}', "
            f"Write on topics '{config.output_topic}' and '{config.dead_letter_topic}'"
            + (", and Write on its transactional id" if config.exactly_once else "")
        )
    elif code in NO_TOPIC:
        advice = (
            f"a topic is missing: '{config.input_topic}', '{config.output_topic}' and '{config.dead_letter_topic}' "
            "must exist; create it and start again"
        )
    elif is_fenced_instance(error):
        advice = f"another running worker of group '{config.group}' has the same --instance-id '{config.instance_id}'"
    elif code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
        advice = "raise max.message.bytes of that topic"
    else:
        advice = "the broker's log says more"
    return StreamError(config.redact(f"{doing}: {error.name()}: {error.str()}; {advice}"))


def unreachable(config: StreamConfig, reason: str) -> StreamError:
    """Return the error for a broker that never answered."""
    return StreamError(
        config.redact(
            f"no Kafka broker answered at {config.bootstrap} within {config.startup_timeout_s:g} s"
            f"{f' ({reason})' if reason else ''}; is it running, is the address right, does it want TLS or SASL "
            "(--kafka security.protocol=...)?"
        )
    )
