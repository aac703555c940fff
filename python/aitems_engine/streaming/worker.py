"""The classification worker: products from one topic, categories to another, and no message lost.

Four threads in a row, each with a bounded amount of work before it::

    poller --> decode --> classify --> delivery
    (Kafka)   (columns)   (engine)     (Kafka, watermark)

The poller (the thread that calls `run`) never does work on messages: it reads, opens spans, commits offsets and
answers rebalances, so that the group never waits for a batch. The order of reading is kept to the end. The native
parts release the interpreter lock, so that decoding, scoring and Kafka's own threads overlap.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from aitems_engine.errors import StreamError
from aitems_engine.streaming.back_pressure import BackPressure, Gate
from aitems_engine.streaming.batches import Batch, Classifier, classify, decode
from aitems_engine.streaming.client_log import client_log
from aitems_engine.streaming.config import StreamConfig
from aitems_engine.streaming.delivery import AtLeastOnceDelivery, Delivery, ExactlyOnceDelivery
from aitems_engine.streaming.failures import (
    NO_TOPIC,
    OUTAGE,
    explain,
    is_fatal,
    is_fenced_instance,
    is_permanent,
    unreachable,
)
from aitems_engine.streaming.metrics import StreamMetrics
from aitems_engine.streaming.partitions import Partition, Span

log = logging.getLogger(__name__)

POLL_S = 0.1
FULL_WAIT_S = 0.002
TOPIC_GRACE_S = 30.0  # a restarting broker may not know its topics for a moment
JOIN_GRACE_S = 10.0
# For so long after an outage, another member of this name may be the worker's own former self.
FORMER_SELF_S = 180.0
METADATA_INTERVAL_S = 0.05
LAG_INTERVAL_S = 2.0
LOG_INTERVAL_S = 10.0


@dataclass(frozen=True)
class StreamSummary:
    """What a worker did between its start and its end."""

    read: int
    finished: int
    dead_letters: int
    seconds: float
    drained: bool


class TransactionHangError(StreamError):
    """The client's thread is stuck for longer than the broker keeps a transaction; only a new process is free of it."""


class ClassifyWorker:
    """Classify the products of a topic until stopped.

    Parameters
    ----------
    engine : Engine
        Anything with `classify(titles, mall_categories, top_k=, threads=)` that returns a `Classification`.
    config : StreamConfig

    Examples
    --------
    >>> worker = ClassifyWorker(Engine.open("bundle"), StreamConfig(...))   # doctest: +SKIP
    >>> worker.run()                                                        # doctest: +SKIP
    """

    def __init__(self, engine: Classifier, config: StreamConfig):
        self.config = config
        self.metrics = StreamMetrics()
        self._engine = engine
        self._stopping = threading.Event()
        self._partitions: dict[int, Partition] = {}
        self._read = 0
        self._counted = 0
        self._raw: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._decoded: queue.Queue[Batch | None] = queue.Queue(maxsize=4)
        self._failure: Exception | None = None
        self._gate = BackPressure(config.max_in_flight, config.max_in_flight // 2, config.pause_after_ms / 1e3)
        self._paused: list[TopicPartition] = []
        self._last_error = ""
        self._outage_s = -FORMER_SELF_S
        self._fenced = False
        self._no_topic_since: float | None = None
        self._next_commit_s = self._next_lag_s = self._next_log_s = 0.0
        self._active_s = 0.0
        self._group_metadata: object = None
        self._next_metadata_s = 0.0

    # --- for the outside --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the worker to finish what it has read and end; safe from any thread and from a signal handler."""
        self._stopping.set()

    @property
    def in_flight(self) -> int:
        """Messages read and not delivered."""
        return self._read - self._delivery.finished

    def run(self) -> StreamSummary:
        """Work until `stop`, until idle for `exit_when_idle_s`, or until an error that waiting cannot cure.

        Raises
        ------
        StreamError
            The message says what to do.
        """
        started = time.monotonic()
        self._connect()
        port, host = self.config.metrics_port, self.config.metrics_host
        server = self.metrics.serve(port, host) if port is not None else None
        threads = [
            threading.Thread(target=self._guard, args=(stage,), name=f"stream-{name}", daemon=True)
            for name, stage in (
                ("decode", self._decode_loop),
                ("classify", self._classify_loop),
                ("delivery", self._delivery.run),
            )
        ]
        drained = False
        try:
            for thread in threads:
                thread.start()
            self._active_s = self._next_log_s = time.monotonic()
            self._subscribe()
            while not self._stopping.is_set():
                self._poll_once()
            drained = self._drain()
        finally:
            self._shut_down(threads, drained)
            if server is not None:
                server.shutdown()
        self._count_finished()
        return StreamSummary(
            read=self._read,
            finished=self._delivery.finished,
            dead_letters=int(self.metrics.dead_letters._value.get()),
            seconds=time.monotonic() - started,
            drained=drained,
        )

    # --- start ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        config = self.config
        try:
            self._consumer = self._make_consumer()
            self._delivery = self._make_delivery()
        except KafkaException as exception:
            raise StreamError(
                config.redact(f"a Kafka setting cannot be used: {exception.args[0].str()}; check --kafka")
            ) from None
        self._check_topics()
        self._delivery.start()

    def _make_consumer(self) -> Consumer:
        settings = {**self.config.consumer_settings(), "error_cb": self._on_error, "on_commit": self._on_commit}
        return Consumer(settings, logger=client_log)

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self.config.input_topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _make_delivery(self) -> Delivery:
        config = self.config
        if not config.exactly_once:
            return AtLeastOnceDelivery(config, self.metrics, self._owned)
        name = f"{config.group}.{config.instance_id or uuid.uuid4().hex}"
        return ExactlyOnceDelivery(config, self.metrics, self._owned, name, lambda: self._group_metadata)

    def _owned(self) -> list[Partition]:
        return list(self._partitions.values())

    def _check_topics(self) -> None:
        deadline = time.monotonic() + self.config.startup_timeout_s
        while True:
            try:
                known = self._consumer.list_topics(timeout=1.0).topics
                break
            except KafkaException as exception:
                self._consumer.poll(0)  # serves the error callback, which knows why
                self._raise_failures()
                if time.monotonic() > deadline:
                    raise unreachable(self.config, self._last_error or exception.args[0].str()) from None
                if self._stopping.is_set():
                    raise StreamError("stopped before a broker answered") from None
        wanted = (self.config.input_topic, self.config.output_topic, self.config.dead_letter_topic)
        missing = [topic for topic in wanted if topic not in known]
        if missing:
            names = " and ".join(f"'{topic}'" for topic in missing)
            raise StreamError(
                f"topic {names} does not exist at {self.config.bootstrap}; "
                f"create it, for example: kafka-topics.sh --bootstrap-server {self.config.bootstrap} --create "
                f"--topic {missing[0]} --partitions 8"
            )

    # --- the poller -------------------------------------------------------------------------------------------------

    def _poll_once(self) -> None:
        self._raise_failures()
        now = time.monotonic()
        if self._fenced:
            self._rejoin()
        if self._delivery.rewind_wanted.is_set():
            self._rewind()
        self._commit_if_due(now)
        self._report_if_due(now)
        self._refresh_group_metadata(now)
        gate = self._gate.decide(self.in_flight, now)
        if gate is not Gate.READ:
            self._active_s = now
        if gate is Gate.WAIT:
            time.sleep(FULL_WAIT_S)
            return
        if gate is Gate.PAUSED:
            self._pause()
            self._accept(self._consumer.consume(1, POLL_S))
            return
        self._resume()
        first = self._consumer.poll(POLL_S)
        if first is None:
            self._stop_if_idle()
            return
        room = min(self.config.batch_size, self.config.max_in_flight - self.in_flight)
        rest = self._consumer.consume(room - 1, self.config.linger_ms / 1e3) if room > 1 else []
        self._accept([first, *rest])

    def _refresh_group_metadata(self, now: float) -> None:
        """Keep the group's generation at hand for transactions.

        The delivery thread cannot ask for it: the client lets one thread at a time into a consumer, and the poller is
        in it nearly always. An outdated generation is safe: the broker refuses it and the transaction is repeated.
        """
        if self.config.exactly_once and now >= self._next_metadata_s:
            self._next_metadata_s = time.monotonic() + METADATA_INTERVAL_S
            self._group_metadata = self._consumer.consumer_group_metadata()

    def _stop_if_idle(self) -> None:
        idle = self.config.exit_when_idle_s
        if idle is None:
            return
        if self.in_flight:
            self._active_s = time.monotonic()
        if not self._partitions:  # joining the group takes its time
            idle += JOIN_GRACE_S
        if time.monotonic() - self._active_s >= idle:
            self._stopping.set()

    def _accept(self, messages: list[Any]) -> None:
        """Open spans for what was read and pass it on."""
        partitions = self._partitions
        bounds: dict[int, list[int]] = {}  # partition -> first offset, last offset, count
        kept: list[Any] = []
        for message in messages:
            if message.error() is not None:
                self._on_message_error(message.error())
                continue
            number = message.partition()
            if number not in partitions:
                continue  # taken away while this call was reading
            offset = message.offset()
            kept.append(message)
            bound = bounds.get(number)
            if bound is None:
                bounds[number] = [offset, offset, 1]
            else:
                bound[1] = offset
                bound[2] += 1
        if not kept:
            return
        self._no_topic_since = None
        runs: dict[int, Span] = {
            number: partitions[number].open(first, last + 1, count) for number, (first, last, count) in bounds.items()
        }
        self._read += len(kept)
        self._active_s = time.monotonic()
        self.metrics.read.inc(len(kept))
        self._raw.put(Batch(kept, [runs[message.partition()] for message in kept], list(runs.values())))

    def _pause(self) -> None:
        if not self._paused:
            self._paused = self._consumer.assignment()
            self._consumer.pause(self._paused)
            self.metrics.paused.set(1)
            self.metrics.pauses.inc()

    def _resume(self) -> None:
        if self._paused:
            owned = [tp for tp in self._paused if tp.partition in self._partitions]
            self._paused = []
            self._consumer.resume(owned)
            self._active_s = time.monotonic()
            self.metrics.paused.set(0)

    def _rewind(self) -> None:
        """Go back to the committed offsets in every partition still owned; what was read since is dropped."""
        wanted = self._delivery.rewind_wanted
        wanted.clear()  # before the work: a request that comes during it counts
        stale = self._owned()
        self._delivery.retire(stale)
        try:
            if not self._delivery.settle(stale, POLL_S):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            topics = [TopicPartition(self.config.input_topic, old.number) for old in stale]
            committed = self._consumer.committed(topics, timeout=5.0) if topics else []
            for old, tp in zip(stale, committed, strict=True):
                fresh = Partition(old.topic, old.number)
                start = max(tp.offset, -1 if old.position is None else old.position)
                if start < 0 and old.first_offset is not None:
                    start = old.first_offset
                if start >= 0:
                    self._consumer.seek(TopicPartition(old.topic, old.number, start))
                    fresh.first_offset = start
                self._partitions[old.number] = fresh
        except KafkaException as exception:
            log.info("going back to the committed offsets: %s; trying again", exception.args[0])
            wanted.set()
            return
        self.metrics.rewinds.inc()

    # --- rebalance, called by librdkafka from within poll and consume -----------------------------------------------

    def _assigned(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        for tp in assigned:
            self._partitions[tp.partition] = Partition(tp.topic, tp.partition)
        self._active_s = time.monotonic()
        self.metrics.assigned.set(len(self._partitions))
        log.info("assigned: %s", sorted(tp.partition for tp in assigned))
        consumer.incremental_assign(assigned)
        self._next_metadata_s = 0.0
        if self._paused:
            self._paused += assigned
            consumer.pause(assigned)

    def _revoked(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Let what was sent arrive, commit it, drop the rest: the next owner reads it again."""
        gone = [self._partitions.pop(tp.partition) for tp in revoked if tp.partition in self._partitions]
        self._delivery.retire(gone)
        self._refresh_group_metadata(float("inf"))  # the group is in its next generation already
        if not self._delivery.settle(gone, self.config.revoke_timeout_s):
            log.warning("results of revoked partitions were not answered in time; the next owner repeats them")
            for partition in gone:
                partition.lost = True
        self._commit(gone, wait=True)
        self._next_metadata_s = 0.0
        self._forget(revoked)
        consumer.incremental_unassign(revoked)

    def _lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._drop(lost)
        consumer.incremental_unassign(lost)

    def _drop(self, lost: list[TopicPartition]) -> None:
        """Let go of partitions that another member may have already."""
        gone = [self._partitions.pop(tp.partition) for tp in lost if tp.partition in self._partitions]
        for partition in gone:
            partition.lost = True
        self._delivery.retire(gone)
        self._forget(lost)
        log.warning("partitions lost: %s", sorted(tp.partition for tp in lost))

    def _rejoin(self) -> None:
        """Come back into the group with a new consumer; what was not committed is read again, by whoever gets it."""
        log.warning("the group has another member of this name since the outage: joining it again")
        self._fenced = False
        self._outage_s = -FORMER_SELF_S  # fenced once more without an outage: it is not the former self
        self._drop([TopicPartition(old.topic, old.number) for old in self._owned()])
        self._consumer.close()
        self._consumer = self._make_consumer()
        self._subscribe()
        self.metrics.rejoins.inc()

    def _forget(self, gone: list[TopicPartition]) -> None:
        numbers = {tp.partition for tp in gone}
        self._paused = [tp for tp in self._paused if tp.partition not in numbers]
        self.metrics.assigned.set(len(self._partitions))
        for number in numbers:
            if (str(number),) in self.metrics.lag._metrics:
                self.metrics.lag.remove(str(number))
        log.info("given back: %s", sorted(numbers))

    # --- offsets ------------------------------------------------------------------------------------------------------

    def _commit_if_due(self, now: float) -> None:
        if now < self._next_commit_s:
            return
        self._next_commit_s = now + self.config.commit_interval_ms / 1e3
        self._count_finished()
        self._commit(list(self._partitions.values()), wait=False)

    def _count_finished(self) -> None:
        finished = self._delivery.finished
        self.metrics.finished.inc(finished - self._counted)
        self._counted = finished
        self.metrics.in_flight.set(self._read - finished)

    def _commit(self, partitions: list[Partition], *, wait: bool) -> None:
        """Commit the positions that moved; with transactions they are committed already."""
        if self.config.exactly_once:
            return
        offsets = []
        for partition in partitions:
            position = partition.position  # the delivery thread moves it
            if position is not None and position != partition.committed:
                partition.committed = position
                offsets.append(TopicPartition(partition.topic, partition.number, position))
        if not offsets:
            return
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            self.metrics.commits.inc()
        except KafkaException as exception:
            # Nothing is lost: the messages are read again from the last committed offset.
            for partition in partitions:
                partition.committed = None
            log.warning("offsets not committed: %s", exception.args[0])

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        for tp in offsets:
            partition = self._partitions.get(tp.partition)
            if partition is not None and (error is not None or tp.error is not None):
                partition.committed = None  # tried again with the next commit

    # --- the stages -----------------------------------------------------------------------------------------------

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Exception as error:
            self._failure = error

    def _decode_loop(self) -> None:
        held: Batch | None = None
        size, bytes_max = self.config.batch_size, self.config.max_message_bytes
        seconds = self.metrics.stage_seconds.labels("decode")
        ended = False
        while not ended:
            batch = held or self._raw.get()
            held = None
            if batch is None:
                break
            # When scoring is the slower part, small reads pile up here: join them.
            while len(batch) < size:
                try:
                    held = self._raw.get_nowait()
                except queue.Empty:
                    break
                if held is None:
                    ended = True
                    break
                if len(batch) + len(held) > size:
                    break
                batch.extend(held)
                held = None
            if batch.alive:
                with seconds.time():
                    decode(batch, bytes_max)
            self._hand_on(self._decoded, batch)
        self._hand_on(self._decoded, None)

    def _hand_on(self, target: queue.Queue[Batch | None], batch: Batch | None) -> None:
        """Put into a bounded queue, waiting for room until the worker gives up."""
        while not self._delivery.giving_up.is_set():
            try:
                target.put(batch, timeout=0.2)
                return
            except queue.Full:
                continue

    def _classify_loop(self) -> None:
        metrics, config = self.metrics, self.config
        seconds = metrics.stage_seconds.labels("classify")
        while (batch := self._decoded.get()) is not None:
            if batch.alive:
                with seconds.time():
                    classify(batch, self._engine, top_k=config.top_k, threads=config.threads)
                metrics.batch_size.observe(len(batch))
                metrics.latency_seconds.observe(max(0.0, time.time() - batch.messages[0].timestamp()[1] / 1e3))
            else:
                batch.places.clear()
            self._hand_on(self._delivery.inbox, batch)
        self._hand_on(self._delivery.inbox, None)

    # --- errors -----------------------------------------------------------------------------------------------------

    def _raise_failures(self) -> None:
        began = self._delivery.call_began_s
        if began is not None and time.monotonic() - began > self.config.transaction_timeout_ms / 1e3:
            raise TransactionHangError(
                "a transaction call of the Kafka client does not return (librdkafka issue 5456, seen when the broker "
                "crashes); start the worker again: nothing is lost or doubled, since the transaction is not committed"
            )
        failure = self._failure or self._delivery.failure
        if failure is not None:
            raise failure

    def _on_error(self, error: KafkaError) -> None:
        """Errors that belong to no message: connections, authentication, a fenced group instance."""
        self._last_error = error.str()
        if error.code() in OUTAGE:
            self._outage_s = time.monotonic()
        if self._by_former_self(error):
            self._fenced = True
        elif is_permanent(error) or is_fatal(error):
            self._failure = self._failure or explain(error, self.config, f"connecting to {self.config.bootstrap}")
        else:
            client_log.warning("consumer: %s", self.config.redact(error.str()))

    def _by_former_self(self, error: KafkaError) -> bool:
        return is_fenced_instance(error) and time.monotonic() - self._outage_s < FORMER_SELF_S

    def _on_message_error(self, error: KafkaError) -> None:
        if self._by_former_self(error):
            self._fenced = True
            return
        if error.code() in NO_TOPIC:
            now = time.monotonic()
            self._no_topic_since = self._no_topic_since or now
            if now - self._no_topic_since < TOPIC_GRACE_S:
                return
        elif not (is_permanent(error) or is_fatal(error)):
            client_log.warning("reading: %s", self.config.redact(error.str()))
            return
        raise explain(error, self.config, f"reading topic '{self.config.input_topic}'")

    def _report_if_due(self, now: float) -> None:
        if now >= self._next_lag_s:
            self._next_lag_s = now + LAG_INTERVAL_S
            for number, partition in self._partitions.items():
                if partition.position is None:
                    continue
                tp = TopicPartition(partition.topic, number)
                bounds = self._consumer.get_watermark_offsets(tp, cached=True)
                if bounds is not None and bounds[1] >= 0:
                    self.metrics.lag.labels(str(number)).set(max(0, bounds[1] - partition.position))
        if now >= self._next_log_s:
            self._next_log_s = now + LOG_INTERVAL_S
            log.info("%d read, %d finished", self._read, self._delivery.finished)

    # --- end --------------------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Deliver everything that was read, without reading more; False when that takes too long."""
        deadline = time.monotonic() + self.config.drain_timeout_s
        self._pause()
        while self.in_flight:
            if time.monotonic() > deadline:
                log.warning("%d messages were not delivered in time; they are read again", self.in_flight)
                return False
            self._raise_failures()
            if self._fenced or self._delivery.rewind_wanted.is_set():
                return False  # what was read must be read again: by the next start
            self._refresh_group_metadata(time.monotonic())
            self._accept(self._consumer.consume(100, 0.01))  # paused: events and errors only
        return True

    def _shut_down(self, threads: list[threading.Thread], drained: bool) -> None:
        self._raw.put(None)
        if not drained:
            self._delivery.give_up()
            with contextlib.suppress(queue.Full):
                self._decoded.put_nowait(None)
        for thread in threads:
            if thread.ident is not None:
                thread.join(timeout=5.0)
        if drained:
            self._commit(self._owned(), wait=True)
        self._consumer.close()
