"""The last stage: hand records and dead letters to Kafka and know which of them it has.

One thread runs `Delivery.run`; it owns the producer. The two guarantees differ in when a message counts as delivered:
at-least-once with the broker's acknowledgement of its result, exactly-once with the commit of the transaction that
holds its result and its offset. Work of retired partitions is dropped here, under the lock that `retire` takes, so
that after `retire` nothing more of that partition is sent.

When a producer can no longer be used (fenced, or a gap in its sequence) it is replaced, and when a transaction is
aborted its messages must be read again: both end in `rewind_wanted`, which the poller answers by going back to the
committed offsets.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from aitems_engine.errors import StreamError
from aitems_engine.streaming.batches import Batch
from aitems_engine.streaming.client_log import client_log
from aitems_engine.streaming.config import StreamConfig
from aitems_engine.streaming.failures import explain, is_fatal, is_fenced_instance, is_permanent
from aitems_engine.streaming.messages import dead_letter_headers
from aitems_engine.streaming.metrics import StreamMetrics
from aitems_engine.streaming.partitions import Partition, Span

log = logging.getLogger(__name__)

PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
# A transactional id that is fenced again and again has two owners; a crash of the broker fences once or twice.
FENCINGS_MAX = 8
FENCINGS_WINDOW_S = 60.0

Headers = list[tuple[str, "str | bytes | None"]]
# topic, value, key, headers, the span it answers, delivery callback
Record = tuple[str, "bytes | None", "bytes | None", "Headers | None", Span, "Callable[..., None] | None"]


class Delivery(ABC):
    """What both guarantees share."""

    def __init__(self, config: StreamConfig, metrics: StreamMetrics, owned: Callable[[], list[Partition]]):
        self.config = config
        self.metrics = metrics
        self.owned = owned  # the partitions assigned now
        # Bounded: when the broker is slow, scoring waits here.
        self.inbox: queue.Queue[Batch | None] = queue.Queue(maxsize=8)
        self.finished = 0  # messages delivered, put aside or dropped; written by the delivery thread only
        self.outstanding = 0  # of these, sent and not answered; likewise
        self.failure: Exception | None = None
        self.call_began_s: float | None = None  # of a transaction call that is running now
        self.rewind_wanted = threading.Event()
        self.giving_up = threading.Event()
        self.lock = threading.Lock()
        self._urgent = threading.Event()
        # Dead letters whose value the broker refused as too large: (topic, partition, offset).
        self._without_value: set[tuple[str, int, int]] = set()
        self._producer = self._connect()

    @abstractmethod
    def _connect(self) -> Producer: ...

    @abstractmethod
    def _service(self) -> None:
        """Serve answers of the broker; called at least every few milliseconds while anything is outstanding."""

    @abstractmethod
    def _begin(self, spans: list[Span]) -> None:
        """Prepare for sending the records of these spans; the lock is held."""

    @abstractmethod
    def _sent(self, spans: list[Span]) -> None:
        """Note that the records of these spans were handed to the producer; the lock is held."""

    @abstractmethod
    def _recover(self, error: KafkaError) -> None:
        """Make the producer usable again after it refused to take a record."""

    @abstractmethod
    def _answer(self, span: Span) -> Callable[..., None] | None:
        """Return the delivery callback of the records of a span."""

    @abstractmethod
    def start(self) -> None:
        """Make the producer ready; called once, before the first message is read."""

    def run(self) -> None:
        """Body of the delivery thread: until a None arrives in the inbox."""
        try:
            while not self.giving_up.is_set():
                try:
                    batch = self.inbox.get(timeout=0.002 if self.outstanding else 0.05)
                except queue.Empty:
                    self._service()
                    continue
                if batch is None:
                    break
                self._send(batch)
                self._service()
            while self.outstanding and not self.giving_up.is_set():
                self._urgent.set()
                self._service()
                time.sleep(0.001)
        except Exception as error:
            self.failure = error

    def retire(self, partitions: Iterable[Partition]) -> None:
        """Let nothing more of these partitions be sent; what is sent already goes on."""
        with self.lock:
            for partition in partitions:
                partition.alive = False

    def settle(self, partitions: list[Partition], timeout_s: float) -> bool:
        """Wait until everything sent for these partitions is answered; False when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while any(partition.unacknowledged for partition in partitions):
            if time.monotonic() > deadline or self.failure or self.giving_up.is_set():
                return False
            self._urgent.set()
            time.sleep(0.001)
        return True

    def give_up(self) -> None:
        """Stop without waiting for the broker; what is not answered will be read again."""
        self.giving_up.set()

    def _request_rewind(self) -> None:
        self.retire(self.owned())
        self.rewind_wanted.set()

    def _records(self, batch: Batch) -> Iterable[Record]:
        """Yield what is to be sent for the messages whose partition is alive."""
        answers = {id(span): self._answer(span) for span in batch.runs}
        messages, spans, output = batch.messages, batch.spans, self.config.output_topic
        for place, record in zip(batch.places, batch.records, strict=True):
            span = spans[place]
            if span.partition.alive:
                yield output, record, messages[place].key(), None, span, answers[id(span)]
        for place, cause in batch.refused:
            span, message = spans[place], messages[place]
            if span.partition.alive:
                yield self._dead_letter(span, message, cause)

    def _dead_letter(self, span: Span, message: Any, cause: str) -> Record:
        partition = span.partition
        origin = (partition.topic, partition.number, message.offset())
        value = message.value()
        headers: Headers = [*(message.headers() or []), *dead_letter_headers(cause, *origin)]
        if origin in self._without_value:
            headers.append(("value_omitted_bytes", str(len(value)).encode()))
            value = None
        callback = functools.partial(self._dead_letter_answered, span, message, cause)
        return self.config.dead_letter_topic, value, message.key(), headers, span, callback

    @abstractmethod
    def _dead_letter_answered(self, span: Span, message: Any, cause: str, error: KafkaError | None, _: Any) -> None:
        """Delivery callback of a dead letter."""

    def _send(self, batch: Batch) -> None:
        with self.lock:
            spans = [span for span in batch.runs if span.partition.alive]
            pending = deque(self._records(batch))
            dropped = len(batch) - len(pending)
            self.finished += dropped
        self.metrics.dropped.inc(dropped)
        begun = False
        while pending and not self.giving_up.is_set():
            try:
                with self.lock:
                    if not begun:
                        self._begin(spans)
                        begun = True
                    self._produce(pending)
                    if not pending:
                        self._sent(spans)
            except KafkaException as exception:
                self.finished += len(pending)  # they are read again
                self._recover(exception.args[0])
                return
            if pending and not self._serve(0.05):
                self.finished += len(pending)
                return
        self.metrics.dead_letters.inc(len(batch.refused))
        self.metrics.abstained.inc(batch.abstained)

    def _serve(self, timeout_s: float) -> bool:
        """Serve delivery reports; False when the client raised a fatal error here and was replaced."""
        try:
            self._producer.poll(timeout_s)
        except KafkaException as exception:
            self._recover(exception.args[0])
            return False
        return True

    def _produce(self, pending: deque[Record]) -> None:
        """Send from the front of `pending` until it is empty or the producer's queue is full; the lock is held."""
        produce = self._producer.produce
        while pending:
            topic, value, key, headers, span, callback = pending[0]
            partition = span.partition
            if not partition.alive:  # retired while the queue was full
                self.finished += 1
            else:
                try:
                    if headers is None:
                        produce(topic, value, key, on_delivery=callback)
                    else:
                        produce(topic, value, key, headers=headers, on_delivery=callback)
                except BufferError:
                    return
                partition.unacknowledged += 1
                self.outstanding += 1
            pending.popleft()

    def _stop_on(self, error: KafkaError, doing: str) -> None:
        if self.failure is None:
            self.failure = explain(error, self.config, doing)

    def _on_error(self, error: KafkaError) -> None:
        """Handle errors that belong to no message (connections, authentication)."""
        if is_permanent(error):
            self._stop_on(error, "producing")
        elif not (is_fatal(error)):
            client_log.warning("producer: %s", self.config.redact(error.str()))


class AtLeastOnceDelivery(Delivery):
    """A message is delivered when the broker has acknowledged its result."""

    def __init__(self, config: StreamConfig, metrics: StreamMetrics, owned: Callable[[], list[Partition]]):
        self._broken = False
        super().__init__(config, metrics, owned)

    def _connect(self) -> Producer:
        settings = {**self.config.producer_settings(), "error_cb": self._on_error}
        return Producer(settings, logger=client_log)

    def start(self) -> None:
        pass

    def _begin(self, spans: list[Span]) -> None:
        pass

    def _sent(self, spans: list[Span]) -> None:
        pass

    def _recover(self, error: KafkaError) -> None:
        if error.code() in TOO_LARGE:
            self._stop_on(error, f"writing to topic '{self.config.output_topic}'")
        else:
            self._replace()

    def _answer(self, span: Span) -> Callable[..., None]:
        return functools.partial(self._answered, span)

    def _answered(self, span: Span, error: KafkaError | None, _: Any) -> None:
        partition = span.partition
        partition.unacknowledged -= 1
        self.outstanding -= 1
        self.finished += 1
        if error is None:
            span.acknowledge()
        elif is_fatal(error):
            self._broken = True
        elif partition.alive and error.code() not in PURGED:
            self._stop_on(error, f"writing to topic '{self.config.output_topic}'")

    def _dead_letter_answered(self, span: Span, message: Any, cause: str, error: KafkaError | None, _: Any) -> None:
        if error is None or error.code() not in TOO_LARGE:
            self._answered(span, error, None)
            return
        origin = (span.partition.topic, span.partition.number, message.offset())
        log.warning("the dead-letter topic refuses %d bytes; writing the headers only", len(message.value() or b""))
        self._without_value.add(origin)
        topic, value, key, headers, _span, callback = self._dead_letter(span, message, cause)
        self._without_value.discard(origin)
        self._producer.produce(topic, value, key, headers=headers, on_delivery=callback)

    def _on_error(self, error: KafkaError) -> None:
        super()._on_error(error)
        if is_fatal(error):
            self._broken = True

    def _service(self) -> None:
        if self._serve(0) and self._broken:
            self._replace()

    def _replace(self) -> None:
        """Drop a producer that can send nothing more, and read again what it had not delivered."""
        log.warning("the producer failed and is replaced; undelivered messages are read again")
        self.retire(self.owned())
        with contextlib.suppress(KafkaException):  # a fatal producer has failed its records already
            self._producer.purge()
        while self.outstanding and not self.giving_up.is_set():  # every record is answered, by an error
            with contextlib.suppress(KafkaException):
                self._producer.poll(0.1)
        self._broken = False
        self._producer = self._connect()
        self._request_rewind()


class ExactlyOnceDelivery(Delivery):
    """A message is delivered when the transaction with its result and its offset is committed."""

    def __init__(
        self,
        config: StreamConfig,
        metrics: StreamMetrics,
        owned: Callable[[], list[Partition]],
        transactional_id: str,
        group_metadata: Callable[[], object],
    ):
        self._transactional_id = transactional_id
        self._group_metadata = group_metadata
        self._offsets: dict[Partition, int] = {}  # of the open transaction, like all below
        self._touched: set[Partition] = set()
        self._torn = False
        self._began_at = 0.0
        self._open = False
        self._refusal: KafkaError | None = None
        self._fencings: deque[float] = deque(maxlen=FENCINGS_MAX)
        self._aborts_in_a_row = 0
        super().__init__(config, metrics, owned)

    def _connect(self) -> Producer:
        return Producer(
            {
                **self.config.producer_settings(),
                "transactional.id": self._transactional_id,
                "error_cb": self._on_error,
                # With delivery.report.only.error these are failures only.
                "on_delivery": self._answered,
            },
            logger=client_log,
        )

    def start(self) -> None:
        self._initialise(self.config.startup_timeout_s)

    def _initialise(self, timeout_s: float) -> None:
        """Register the transactional id: aborts what an earlier owner of it left open, and fences that owner."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._producer.init_transactions(1.0)
                return
            except KafkaException as exception:
                error = exception.args[0]
                if self.failure:
                    raise self.failure from None
                if is_permanent(error) or not (error.retriable() or error.code() == KafkaError._TIMED_OUT):
                    raise explain(error, self.config, "starting transactions") from None
                if time.monotonic() > deadline or self.giving_up.is_set():
                    raise explain(error, self.config, "starting transactions") from None

    def _begin(self, spans: list[Span]) -> None:
        self._touched.update(span.partition for span in spans)
        if not self._open:
            self._producer.begin_transaction()
            self._open = True
            self._began_at = time.monotonic()

    def _answer(self, span: Span) -> None:
        return None

    def _answered(self, error: KafkaError | None, _: Any) -> None:
        if error is not None and error.code() not in PURGED | {KafkaError._FATAL} and not error.fatal():
            self._refusal = error

    def _dead_letter_answered(self, span: Span, message: Any, cause: str, error: KafkaError | None, _: Any) -> None:
        if (
            error is not None and error.code() in TOO_LARGE
        ):  # the transaction fails; its second try leaves the value out
            log.warning("the dead-letter topic refuses %d bytes; writing the headers only", len(message.value() or b""))
            self._without_value.add((span.partition.topic, span.partition.number, message.offset()))
        else:
            self._answered(error, None)

    def _sent(self, spans: list[Span]) -> None:
        for span in spans:
            self._offsets[span.partition] = span.next_offset
            # Retired half-way: results without their offset must not become visible.
            self._torn |= not span.partition.alive

    def _recover(self, error: KafkaError) -> None:
        if error.code() in TOO_LARGE:
            self._stop_on(error, f"writing to topic '{self.config.output_topic}'")
        elif is_fatal(error) or not self._open:
            self._replace(error)
        else:
            self._abort(str(error))

    def _service(self) -> None:
        if not self._serve(0):
            return
        if not self._open:
            self._urgent.clear()
            return
        due = time.monotonic() - self._began_at >= self.config.transaction_ms / 1e3
        if due or self._urgent.is_set() or self.outstanding >= self.config.max_in_flight // 2:
            self._urgent.clear()
            self._commit()

    def _commit(self) -> None:
        # The order matters: metadata first, then the look at lost partitions. A partition that is given away after
        # the look makes the metadata stale, and the broker refuses the offsets; then nothing is counted twice.
        metadata = self._group_metadata()
        with self.lock:
            torn = self._torn or any(partition.lost for partition in self._touched)
        if torn:
            self._abort("a partition was taken away")
            return
        offsets = [TopicPartition(p.topic, p.number, offset) for p, offset in self._offsets.items()]
        try:
            # librdkafka ignores this timeout (its issue 5456); the poller watches `call_began_s`.
            self._insist(lambda: self._producer.send_offsets_to_transaction(offsets, metadata, 5.0))
            self._insist(lambda: self._producer.commit_transaction(1.0))
        except KafkaException as exception:
            error = exception.args[0]
            if self.giving_up.is_set():
                return
            if is_permanent(error) and not is_fenced_instance(error):  # that, the poller judges
                raise explain(error, self.config, "committing a transaction") from None
            if error.txn_requires_abort():
                self._abort(str(error))
            else:
                self._replace(error)
            return
        self._aborts_in_a_row = 0
        for partition, offset in self._offsets.items():
            partition.position = partition.committed = offset
        self.metrics.commits.inc()
        self._close_transaction()

    def _insist(self, call: Callable[[], None]) -> None:
        """Repeat a transaction call while its error says that this may help."""
        while True:
            self.call_began_s = time.monotonic()
            try:
                call()
                return
            except KafkaException as exception:
                error = exception.args[0]
                if not error.retriable() or error.txn_requires_abort() or error.fatal() or self.giving_up.is_set():
                    raise
                time.sleep(0.02)
            finally:
                self.call_began_s = None

    def _close_transaction(self) -> None:
        for partition in self._touched:
            self.finished += partition.unacknowledged
            self.outstanding -= partition.unacknowledged
            partition.unacknowledged = 0
        self._offsets.clear()
        self._touched.clear()
        self._torn = False
        self._open = False

    def _abort(self, reason: str) -> None:
        log.warning("transaction aborted (%s); its messages are read again", self.config.redact(reason))
        self.metrics.aborts.inc()
        refusal, self._refusal = self._refusal, None
        if refusal is not None and refusal.code() not in {KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT}:
            raise explain(refusal, self.config, f"writing to topic '{self.config.output_topic}'")
        self.retire(self.owned())
        try:
            self._insist(lambda: self._producer.abort_transaction(1.0))
        except KafkaException as exception:
            if self.giving_up.is_set():
                return
            self._replace(exception.args[0])
            return
        self._close_transaction()
        self._request_rewind()
        self._pause_before_another_try()

    def _pause_before_another_try(self) -> None:
        self._aborts_in_a_row += 1
        self.giving_up.wait(min(0.05 * 2**self._aborts_in_a_row, 5.0) if self._aborts_in_a_row > 1 else 0.0)

    def _replace(self, error: KafkaError) -> None:
        """Make a new producer after a fatal error (fenced: the broker gave the transactional id a newer epoch)."""
        now = time.monotonic()
        if len(self._fencings) == FENCINGS_MAX and now - self._fencings[0] < FENCINGS_WINDOW_S:
            raise StreamError(
                f"the producer was fenced {FENCINGS_MAX} times within {FENCINGS_WINDOW_S:g} s ({error.name()}): "
                f"another worker uses the transactional id '{self._transactional_id}'; "
                "give each worker its own --instance-id"
            )
        self._fencings.append(now)
        log.warning("the producer failed and is replaced: %s", self.config.redact(str(error)))
        self.metrics.aborts.inc()
        self.retire(self.owned())
        with contextlib.suppress(KafkaException):  # a fatal producer has failed its records already
            self._producer.purge()
        self._producer = self._connect()
        self._initialise(float("inf"))  # decides what became of the transaction
        self._close_transaction()
        self._request_rewind()
