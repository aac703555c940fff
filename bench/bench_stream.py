"""Kafka to Kafka on a real broker: the worker beside a naive loop and beside the transport's own limit.

Broker, writers and workers share the machine. The model has the production size (20,000 tokens x 128, 4,215 leaves,
all branches) with random weights: speed does not depend on them, and all contenders must give the same answers.
Rates come from the timestamps of the output messages, so that nobody's start counts.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from tests.integration.kafka.broker import KafkaBroker, kafka_broker
from tests.stream_kit.kafka_io import read_all, write
from tests.stream_kit.worker_process import TopicWatch, WorkerProcess

LEAVES = 4215
PARTITIONS = 4
COUNT = int(os.environ.get("AITEMS_BENCH_MESSAGES", "30000"))
NAIVE_COUNT = 1500
TOP_K = 5
ROUNDS = int(os.environ.get("AITEMS_BENCH_ROUNDS", "2"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from aitems_engine.simulator.shop import simulate_shop

    path = tmp_path_factory.mktemp("shop")
    simulate_shop(path, products=COUNT, leaves=LEAVES, seed=1)
    return path


@pytest.fixture(scope="module")
def products(shop: Path) -> list[bytes]:
    """Return product messages of about 544 bytes."""
    import pyarrow.parquet as pq

    table = pq.read_table(shop / "products.parquet", columns=["title", "mall_category", "price"])
    messages = []
    for number, row in enumerate(table.slice(0, COUNT).to_pylist()):
        document = {"product_id": str(number), **row, "mall_id": "mall-1", "registered_at": 1_700_000_000_000 + number}
        document["image"] = f"https://images.example.com/products/{number:012d}.jpg"
        size = len(json.dumps(document, ensure_ascii=False).encode())
        document["description"] = "설명" * max(0, (544 - size - 20) // 6)
        messages.append(json.dumps(document, ensure_ascii=False).encode())
    return messages


@pytest.fixture(scope="module")
def bundle(shop: Path, products: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of production size with random weights."""
    from safetensors.numpy import save

    from aitems_engine.bundle import write_bundle
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.training.onnx_graph import build_onnx
    from aitems_engine.training.tokenizer import train_tokenizer

    titles = [json.loads(message)["title"] for message in products]
    tokenizer = train_tokenizer(titles, vocab_size=20_000)
    tokens = json.loads(tokenizer.to_str())
    vocabulary = tokens["model"]["vocab"]
    for number in range(len(vocabulary), 20_000):  # the shop's words may be fewer
        vocabulary[f"[unused{number}]"] = number
    rng = np.random.default_rng(0)
    tensors = {"embedding.weight": rng.normal(size=(20_000, 128)) * 0.1}
    tensors["embedding.weight"][tokenizer.pad_id] = 0
    depth = 64
    for branch, widths, filters in (("title", (2, 3, 4, 5), 256), ("mall", (1, 2, 3), 64)):
        for width in widths:
            tensors[f"{branch}.conv{width}.weight"] = rng.normal(size=(filters, 128, width)) * 0.1
            tensors[f"{branch}.conv{width}.bias"] = np.zeros(filters)
            depth += filters
    tensors["title.bag.weight"] = rng.normal(size=(131_072, 64)) * 0.1
    tensors["title.bag.bias"] = np.zeros(64)
    labels = list(Taxonomy.read(shop / "taxonomy.csv").leaf_ids)
    tensors["head.weight"] = rng.normal(size=(len(labels), depth)) * 0.3
    tensors["head.bias"] = np.zeros(len(labels))
    weights = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    settings = {
        "format_version": 1,
        "labels": labels,
        "max_title_length": 32,
        "max_mall_length": 16,
        "gram_min": 2,
        "gram_max": 4,
        "gram_buckets": 131_072,
        "temperature": 1.0,
        "thresholds": {"default": 0.1, "by_top": {}},
        "training": {"note": "random weights, for bench_stream.py"},
    }
    path = tmp_path_factory.mktemp("bundle") / "large"
    parts = {
        "tokenizer.json": json.dumps(tokens, ensure_ascii=False),
        "taxonomy.csv": (shop / "taxonomy.csv").read_text(encoding="utf-8"),
        "classifier.json": json.dumps(settings),
        "model.safetensors": save(weights),
        "model.onnx": build_onnx(weights),
    }
    write_bundle(path, parts, config={"bench": "stream"})
    return path


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def source(kafka: KafkaBroker, products: list[bytes]) -> str:
    kafka.create_topics({"products": PARTITIONS})
    write(kafka.bootstrap, "products", products)
    return "products"


class NaiveLoop:
    """What one writes first: a message at a time through json, HF tokenizers and ONNX Runtime."""

    def __init__(self, bundle: Path):
        import onnxruntime
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self.session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
        self.labels = json.loads((bundle / "classifier.json").read_text())["labels"]

    def record(self, value: bytes) -> dict:
        from aitems_engine._native import textcnn

        product = json.loads(value)
        title = self.tokenizer.encode(product["title"], add_special_tokens=False).ids[:32]
        mall = self.tokenizer.encode(product["mall_category"] or "", add_special_tokens=False).ids[:16]
        # Our native n-grams: a naive loop in Python would be slower still.
        text = np.frombuffer(self.tokenizer.normalizer.normalize_str(product["title"]).encode(), np.uint8)
        grams, _ = textcnn.char_ngrams(text, np.array([0, len(text)], np.int64), 2, 4, 131_072, 1)
        inputs = {
            "title_ids": np.array([title], np.int32),
            "title_lengths": np.array([len(title)], np.int32),
            "gram_ids": grams[None],
            "mall_ids": np.array([mall or [0]], np.int32),
            "mall_lengths": np.array([len(mall)], np.int32),
        }
        (probabilities,) = self.session.run(["probabilities"], inputs)
        best = np.argsort(-probabilities[0], kind="stable")[:TOP_K]
        categories = [{"leaf_id": self.labels[i], "probability": float(probabilities[0, i])} for i in best]
        return {"product_id": product["product_id"], "categories": categories}


def consumer(bootstrap: str, topic: str, group: str) -> Consumer:
    settings = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
    result = Consumer({**settings, "enable.auto.commit": False, "fetch.wait.max.ms": 10})
    result.subscribe([topic])
    return result


def naive(kafka: KafkaBroker, source: str, target: str, loop: NaiveLoop, *, wait: bool) -> None:
    """Poll one, classify it, produce, commit; `wait`: for the broker's word on both, so that nothing is lost."""
    reader = consumer(kafka.bootstrap, source, uuid.uuid4().hex)
    writer = Producer({"bootstrap.servers": kafka.bootstrap})
    done = 0
    while done < NAIVE_COUNT:
        message = reader.poll(1.0)
        if message is None or message.error():
            continue
        writer.produce(target, json.dumps(loop.record(message.value())), message.key())
        if wait:
            writer.flush()
        else:
            writer.poll(0)
        reader.commit(message, asynchronous=not wait)
        done += 1
    writer.flush()
    reader.close()


def copy(kafka: KafkaBroker, source: str, target: str, *, transactional: bool) -> None:
    """Copy without a model: what broker and client can do here."""
    reader = consumer(kafka.bootstrap, source, uuid.uuid4().hex)
    extra = {"transactional.id": uuid.uuid4().hex} if transactional else {}
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "linger.ms": 5, **extra})
    if transactional:
        writer.init_transactions(30)
    done = 0
    while done < COUNT:
        messages = [m for m in reader.consume(2000, 0.02) if m.error() is None]
        if not messages:
            continue
        if transactional:
            writer.begin_transaction()
        for message in messages:
            writer.produce(target, message.value(), message.key())
        offsets = {m.partition(): m.offset() + 1 for m in messages}
        positions = [TopicPartition(source, number, offset) for number, offset in offsets.items()]
        if transactional:
            writer.send_offsets_to_transaction(positions, reader.consumer_group_metadata())
            writer.commit_transaction()
        else:
            writer.flush()
            reader.commit(offsets=positions, asynchronous=False)
        done += len(messages)
    reader.close()


def workers(kafka: KafkaBroker, source: str, target: str, bundle: Path, log: Path, count: int, *more: str) -> None:
    """Run worker processes over the whole topic."""
    kafka.create_topics({f"{target}.dlq": 1})
    names, group = (source, target, f"{target}.dlq"), uuid.uuid4().hex
    arguments = ("--exit-when-idle-s", "6", *more)
    running = [WorkerProcess(bundle, kafka.bootstrap, names, group, log, *arguments) for _ in range(count)]
    for worker in running:
        worker.wait(300)


def rate(messages: list) -> float:
    """Messages per second between the first and the last output."""
    stamps = np.array([m.timestamp()[1] for m in messages])
    return float((stamps > stamps.min()).sum() / ((stamps.max() - stamps.min()) / 1e3))


def leaves(messages: list) -> dict[str, list[str]]:
    found = {}
    for message in messages:
        record = json.loads(message.value())
        found[record["product_id"]] = [category["leaf_id"] for category in record["categories"]]
    return found


@pytest.mark.timeout(1500)
def test_throughput(
    kafka: KafkaBroker, source: str, bundle: Path, tmp_path: Path, publish: Callable[[str, str], None]
) -> None:
    loop = NaiveLoop(bundle)
    exact = ("--mode", "exact")
    once = ("--guarantee", "exactly-once")
    threads = ("--threads", "2")
    log = tmp_path / "worker.log"
    contenders: dict[str, Callable[[str], None]] = {
        "naive loop, waiting for each commit": lambda t: naive(kafka, source, t, loop, wait=True),
        "naive loop, commits not awaited": lambda t: naive(kafka, source, t, loop, wait=False),
        "copy without a model": lambda t: copy(kafka, source, t, transactional=False),
        "copy without a model, transactions": lambda t: copy(kafka, source, t, transactional=True),
        "worker, at-least-once": lambda t: workers(kafka, source, t, bundle, log, 1, *threads),
        "worker, at-least-once, exact mode": lambda t: workers(kafka, source, t, bundle, log, 1, *threads, *exact),
        "worker, exactly-once": lambda t: workers(kafka, source, t, bundle, log, 1, *threads, *once),
        "two workers, at-least-once": lambda t: workers(kafka, source, t, bundle, log, 2),
        "two workers, exactly-once": lambda t: workers(kafka, source, t, bundle, log, 2, *once),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, dict[str, list[str]]] = {}
    for repetition in range(ROUNDS):
        for name, run in contenders.items():
            target = f"out-{uuid.uuid4().hex[:8]}"
            kafka.create_topics({target: PARTITIONS})
            run(target)
            messages = read_all(kafka.bootstrap, target, timeout_s=120)
            expected = NAIVE_COUNT if name.startswith("naive") else COUNT
            assert len(messages) >= expected, log.read_text()[-2000:] if log.exists() else name
            rates[name].append(rate(messages))
            if repetition == 0 and not name.startswith("copy"):
                answers[name] = leaves(messages)
    reference = answers["worker, at-least-once, exact mode"]
    slow = max(rates["naive loop, waiting for each commit"])
    kind = max(rates["naive loop, commits not awaited"])
    lines = ["| | messages/s | of the naive loop | of the kind naive loop | best leaf as in exact mode |"]
    lines.append("|---|---|---|---|---|")
    for name, values in rates.items():
        best = max(values)
        agreement = ""
        if name in answers:
            both = answers[name].keys() & reference.keys()
            same = [answers[name][key][0] == reference[key][0] for key in both]
            agreement = f"{np.mean(same):.4f}"
            assert len(answers[name]) == (NAIVE_COUNT if name.startswith("naive") else COUNT)
        lines.append(f"| {name} | {best:,.0f} | {best / slow:.1f}x | {best / kind:.1f}x | {agreement} |")
    publish(
        "stream",
        f"{COUNT:,} messages of about 544 bytes, Apache Kafka 4.1 on the same two cores as all others, {PARTITIONS} "
        f'partitions, {LEAVES:,} leaves; best of {ROUNDS} interleaved runs. "Kind": does not wait for any commit, so '
        "it may lose and repeat messages.\n\n" + "\n".join(lines),
    )


@pytest.mark.timeout(600)
def test_latency(
    kafka: KafkaBroker, bundle: Path, products: list[bytes], tmp_path: Path, publish: Callable[[str, str], None]
) -> None:
    lines = ["| | 500 messages/s: p50 | p99 | 2,000 messages/s: p50 | p99 |", "|---|---|---|---|---|"]
    for guarantee in ("at-least-once", "exactly-once"):
        cells = []
        for per_s in (500, 2000):
            milliseconds = latencies(kafka, bundle, products, tmp_path / f"{guarantee}-{per_s}.log", guarantee, per_s)
            cells += [f"{np.percentile(milliseconds, q):.0f} ms" for q in (50, 99)]
        lines.append(f"| {guarantee} | " + " | ".join(cells) + " |")
    publish("stream-latency", "From handing a product to the producer to reading its record.\n\n" + "\n".join(lines))


def latencies(
    kafka: KafkaBroker, bundle: Path, products: list[bytes], log: Path, guarantee: str, per_s: int
) -> np.ndarray:
    """Return the milliseconds from sending a product to reading its record."""
    names = tuple(f"{uuid.uuid4().hex[:8]}.{part}" for part in ("in", "out", "dlq"))
    kafka.create_topics(dict.fromkeys(names, PARTITIONS))
    count, warm = per_s * 8, per_s * 2
    worker = WorkerProcess(bundle, kafka.bootstrap, names, "g" + names[0], log, "--guarantee", guarantee)
    sent, arrived = np.zeros(count), np.zeros(count)
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": uuid.uuid4().hex, "fetch.wait.max.ms": 5}
    reader = Consumer({**settings, "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    reader.assign([TopicPartition(names[1], number, 0) for number in range(PARTITIONS)])
    found = 0

    def read() -> None:
        nonlocal found
        deadline = time.monotonic() + 60
        while found < count and time.monotonic() < deadline:
            message = reader.poll(0.1)
            if message is not None and message.error() is None:
                arrived[int(message.key())] = time.perf_counter()
                found += 1

    watch = TopicWatch(kafka.bootstrap, names[1], PARTITIONS)
    writer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 1})
    thread = threading.Thread(target=read)
    began = time.perf_counter() + 3.0  # the worker starts meanwhile
    thread.start()
    for number in range(count):
        while (now := time.perf_counter()) < began + number / per_s:
            time.sleep(0.0005)
        sent[number] = now
        writer.produce(names[0], products[number], str(number))
        writer.poll(0)
    writer.flush()
    thread.join()
    watch.close()
    reader.close()
    worker.finish()
    assert found == count
    return (arrived - sent)[warm:] * 1e3
