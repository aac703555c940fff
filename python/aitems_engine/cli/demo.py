"""The main job on one screen: make a shop, train a classifier, stream products through Kafka into categories, report,
and recommend for three users.

Without outside data a Korean shop with known truth is simulated; with AITEMS_DATA set (or --data) the real electronics
titles of danawa/products.tsv are used. The broker is librdkafka's in-memory one, in a process of its own; the worker is
`aitems stream classify`, as a user would start it. Nothing is needed from the network, and no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aitems_engine.cli.demo_recommend import recommend
from aitems_engine.errors import AitemsError, ConfigError, DataError, StreamError, require_extra

if TYPE_CHECKING:
    from aitems_engine.catalog.products import Products
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.training.category import CategoryTraining

EXAMPLES = """  make demo                                     # simulated shop, about two minutes on two cores
  AITEMS_DATA=../shared/data make demo          # real electronics titles
  python -m aitems_engine.cli.demo --train 5000 --leaves 60 --stream 5000 --epochs 3     # a quick look
  python -m aitems_engine.cli.demo --leaves 4215 --train 150000 --epochs 8               # the whole tree, much longer
"""

INPUT, OUTPUT, DEAD = "products", "categories", "products.dlq"
PARTITIONS = 16  # the embedded broker keeps 5 MiB a partition
# the embedded broker answers an empty fetch only after this time, even where a message arrives meanwhile
FETCH = {"fetch.wait.max.ms": "5"}
WAKING = 1000
PACED_SECONDS = 5.0
PACED_SHARE = 0.4
SILENCE_S = 60.0
REPORT_ROWS = 5000
PAGES = 3


@dataclass(frozen=True)
class DemoData:
    """What is trained on, what is streamed, and what is known about it."""

    training: Products
    test: Products
    taxonomy: Taxonomy | None
    truth: list[str]
    """True leaf of each test product."""
    noise_known: bool
    """Whether `truth` is more than the label in `test.category`."""
    ceiling: float | None
    """The accuracy that nobody can beat, where it is known."""


@dataclass(frozen=True)
class Results:
    """What came back, one entry a product sent."""

    records: list[dict[str, Any]]
    per_s: float
    paced_per_s: float
    latency_ms: npt.NDArray[np.float64]
    """From sending to receiving, at the paced rate."""


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", type=int, default=40_000, help="simulated products to train on (default 40000)")
    add("--leaves", type=int, default=300, help="leaves of the simulated shop (default 300)")
    add("--stream", type=int, default=50_000, help="products to stream (default 50000)")
    add(
        "--users",
        type=int,
        default=3000,
        help="simulated users to recommend for; 0 = no recommendations (default 3000)",
    )
    add("--epochs", type=int, default=6, help="of the training (default 6)")
    add("--threads", type=int, default=0, help="of the training (default: all cores)")
    add("--seed", type=int, default=1)
    add("--data", default=os.environ.get("AITEMS_DATA", ""), help="folder with danawa/products.tsv")
    add("--out", type=Path, default=Path("demo-output"), help="folder for everything that is made")


def simulated(args: argparse.Namespace) -> DemoData:
    """Simulate a shop: the oldest products train, the newest are streamed."""
    import pyarrow.parquet as pq

    from aitems_engine.catalog.products import read_products
    from aitems_engine.catalog.taxonomy import Taxonomy
    from aitems_engine.simulator import simulate_shop

    shop = simulate_shop(
        args.out / "shop",
        products=args.train + args.stream,
        leaves=args.leaves,
        seed=args.seed,
        users=args.users,
        progress=True,
    )
    products = read_products(shop.products, require=("title", "category"))
    truth = pq.read_table(shop.truth, columns=["true_category"])["true_category"].to_pylist()
    ceiling = json.loads(shop.manifest.read_text(encoding="utf-8"))["accuracy_ceiling"]["title_and_mall"]
    training, test = np.arange(args.train), np.arange(args.train, len(products))
    return DemoData(
        products.take(training),
        products.take(test),
        Taxonomy.read(shop.taxonomy),
        [truth[i] for i in test.tolist()],
        True,
        ceiling,
    )


def real(folder: Path) -> DemoData:
    """Read real titles: the older 80 % of the ids train, the newest 20 % are streamed."""
    from aitems_engine.catalog.products import read_products

    file = folder / "danawa" / "products.tsv"
    if not file.exists():
        raise ConfigError(f"no {file}; unset AITEMS_DATA (or leave out --data) to simulate a shop")
    columns = {"product_id": "id", "title": "name", "price": "last_price_krw"}
    products = read_products(file, columns=columns, require=("title", "category"), duplicate_ids="first")
    order = np.argsort(np.array([int(i) for i in products.product_id]), kind="stable")
    cut = int(len(order) * 0.8)
    test = products.take(order[cut:])
    truth = [str(c) for c in test.category]
    return DemoData(products.take(order[:cut]), test, None, truth, False, None)


def train(data: DemoData, args: argparse.Namespace) -> CategoryTraining:
    """Train a small network once, without the second fit on all rows that `aitems train category` adds."""
    from aitems_engine.training.category import CategorySettings, train_category

    settings = CategorySettings()
    settings = replace(
        settings,
        vocab_size=10_000,
        dim=64,
        title_filters=64,
        gram_dim=64,
        gram_groups=2,
        mall_filters=32,
        validation_share=0.05,
        refit=False,
        target_accuracy=0.95,
        fit=replace(
            settings.fit,
            epochs=args.epochs,
            patience=args.epochs,
            batch_size=256,
            learning_rate=4e-3,
            table_learning_rate=0.4,
            seed=args.seed,
            threads=args.threads or len(os.sched_getaffinity(0)),
        ),
    )
    return train_category(data.training, data.taxonomy, out=args.out / "bundle", settings=settings, progress=True)


def stream(bundle: Path, test: Products, count: int, log: Path) -> Results:
    """Send `count` products (test rows, again from the start where there are fewer) through broker and worker."""
    from aitems_engine.streaming.embedded_broker import embedded_broker_process

    rows = np.arange(count) % len(test)
    with embedded_broker_process({INPUT: PARTITIONS, OUTPUT: PARTITIONS, DEAD: 1}) as bootstrap, log.open("w") as file:
        command = [sys.executable, "-m", "aitems_engine.cli", "stream", "classify", "--bundle", str(bundle)]
        command += ["--bootstrap", bootstrap, "--input-topic", INPUT, "--output-topic", OUTPUT]
        command += ["--dead-letter-topic", DEAD, "--group", "demo", "--top-k", "3"]
        command += [word for name, value in FETCH.items() for word in ("--kafka", f"consumer.{name}={value}")]
        worker = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return exchange(bootstrap, test, rows, worker, log)
        finally:
            worker.terminate()
            try:
                worker.wait(timeout=30)
            except subprocess.TimeoutExpired:
                worker.kill()


def exchange(
    bootstrap: str, test: Products, rows: npt.NDArray[np.intp], worker: subprocess.Popen[bytes], log: Path
) -> Results:
    """Send three times: a few to wake the worker up, all at once for throughput, some at a steady rate for latency."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
    from tqdm import tqdm

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "demo-screen", "enable.auto.commit": False, **FETCH}
    )
    consumer.assign([TopicPartition(OUTPUT, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
    messages = [message(test, row) for row in rows.tolist()]

    def receive(wanted: int, bar: Any) -> tuple[list[tuple[int, bytes]], npt.NDArray[np.float64]]:
        found: list[tuple[int, bytes]] = []
        at: list[float] = []
        heard = time.monotonic()
        while len(found) < wanted:
            arrived = [m for m in consumer.consume(2000, 0.05) if m.error() is None]
            now = time.monotonic()
            if arrived:
                heard = now
            elif worker.poll() is not None or now - heard > SILENCE_S:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise StreamError(f"the worker sent {len(found)} of {wanted} results; the end of its log:\n{tail}")
            found += [(int(m.key() or b"-1"), m.value() or b"") for m in arrived]
            at += [now] * len(arrived)
            bar.update(len(arrived))
        return found, np.array(at)

    def send(indices: Sequence[int], per_s: float, sent: npt.NDArray[np.float64]) -> None:
        start = time.monotonic()
        for k, i in enumerate(indices):
            while per_s and (wait := start + k / per_s - time.monotonic()) > 0:
                producer.poll(0)
                time.sleep(min(wait, 0.001))
            sent[k] = time.monotonic()
            while True:
                try:
                    producer.produce(INPUT, messages[i], key=str(k).encode())
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.flush()

    def both(name: str, count: int, per_s: float) -> tuple[list[tuple[int, bytes]], npt.NDArray[np.float64]]:
        """Send the first `count` messages and return their results and for each the seconds it took."""
        sent = np.zeros(count)
        sender = threading.Thread(target=send, args=(range(count), per_s, sent), daemon=True)
        with tqdm(total=count, unit=" products", desc=name) as bar:
            sender.start()
            found, at = receive(count, bar)
        sender.join()
        return found, at - sent[[k for k, _ in found]]

    both("starting", min(len(rows), WAKING), 0.0)
    started = time.monotonic()
    found, _ = both("streaming", len(rows), 0.0)
    per_s = len(rows) / (time.monotonic() - started)
    records: list[dict[str, Any]] = [{}] * len(rows)
    for k, value in found:
        records[k] = json.loads(value)
    if not all(records):
        raise StreamError(f"{sum(not r for r in records)} of {len(rows)} products got no result")

    paced = per_s * PACED_SHARE
    _, seconds = both(f"at {paced:.0f}/s", min(len(rows), int(paced * PACED_SECONDS)), paced)
    consumer.close()
    return Results(records, per_s, paced, seconds * 1e3)


def message(products: Products, row: int) -> bytes:
    """Return a product as the shops send it."""
    price = products.price[row]
    fields = {
        "product_id": products.product_id[row],
        "title": products.title[row],
        "mall_id": products.mall_id[row],
        "mall_category": products.mall_category[row],
        "price": None if np.isnan(price) else float(price),
        "image": products.image[row],
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}, ensure_ascii=False).encode()


def write_report(data: DemoData, result: CategoryTraining, out: Path) -> Path:
    """Measure the bundle on some of the streamed products against the truth and write the pages."""
    from aitems_engine import Engine
    from aitems_engine.evaluation.evaluate import evaluate_category
    from aitems_engine.evaluation.report import write_category_report

    known = set(result.labels)
    rows = [i for i, leaf in enumerate(data.truth) if leaf in known][:REPORT_ROWS]
    some = replace(data.test.take(rows), category=[data.truth[i] for i in rows])
    with Engine.open(out / "bundle") as engine:
        evaluation = evaluate_category(engine, [some])
        report = write_category_report(
            out / "report",
            evaluation.predictions,
            taxonomy=engine.taxonomy,
            labels=engine.labels,
            title="Demo: newest products against the truth",
            titles=evaluation.titles,
            learning_curve=[
                {"epoch": r.epoch, "train_loss": r.loss, "validation_accuracy": r.accuracy or 0.0}
                for r in result.history
            ],
            facts={"bundle": engine.bundle_digest, "measured on": f"{len(rows)} of the streamed products"},
        )
    return report.html


def print_quality(data: DemoData, results: Results) -> None:
    n = min(len(data.test), len(results.records))
    best = np.array([r["categories"][0]["leaf_id"] for r in results.records[:n]])
    answered = ~np.array([r["abstained"] for r in results.records[:n]])
    truth, label = np.array(data.truth[:n]), np.array([str(c) for c in data.test.category[:n]])
    right = best == truth
    print(
        f"accuracy against the {'truth' if data.noise_known else 'labels'}: {right.mean():.1%} of {n} products", end=""
    )
    print(f" (nobody could exceed {data.ceiling:.1%})" if data.ceiling else "")
    if answered.any():
        print(f"  answered {answered.mean():.1%} of them, {right[answered].mean():.1%} right; the rest abstained")
    if data.noise_known:
        wrong = truth != label
        print(f"label noise: {wrong.mean():.1%} of the labels are wrong, in training as in this test;", end=" ")
        print(f"measured against the labels the accuracy looks like {(best == label).mean():.1%}")
        if wrong.any():
            print(
                f"  where the label is wrong, the classifier names the true leaf {(best == truth)[wrong].mean():.0%} "
                f"and the wrong one {(best == label)[wrong].mean():.0%} of the time"
            )


def print_examples(data: DemoData, results: Results, seed: int) -> None:
    """Print ten products and, if there is one, one that the classifier would not decide."""
    n = min(len(data.test), len(results.records))
    order = np.random.default_rng(seed).permutation(n).tolist()
    answered = [i for i in order if not results.records[i]["abstained"]][:10]
    abstained = [i for i in order if results.records[i]["abstained"]][:1]
    names = {leaf["leaf_id"]: leaf["path"] for r in results.records for leaf in r["categories"]}
    for i in answered + abstained:
        record = results.records[i]
        print(f"  {data.test.title[i][:90]}")
        if record["abstained"]:
            print(f"    abstained: {record['cause']}")
        for leaf in record["categories"][: 3 if record["abstained"] else 1]:
            right = "" if leaf["leaf_id"] != data.truth[i] else "  (right)"
            print(f"    {leaf['probability']:6.1%}  {leaf['path']}{right}")
        if not record["abstained"] and record["categories"][0]["leaf_id"] != data.truth[i]:
            print(f"    truth:  {names.get(data.truth[i], data.truth[i])}")


def run(args: argparse.Namespace) -> None:
    if not args.data and (args.train < 100 or args.stream < 1):
        raise ConfigError(f"--train must be at least 100 and --stream at least 1, got {args.train} and {args.stream}")
    for extra, module in (("train", "torch"), ("train", "pyarrow"), ("stream", "confluent_kafka"), ("stream", "tqdm")):
        require_extra(extra, module)
    started = time.monotonic()

    def heading(text: str) -> None:
        print(f"\n== {time.monotonic() - started:5.1f} s  {text}", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    heading("products" + (f" from {args.data}" if args.data else ": a simulated shop"))
    data = real(Path(args.data)) if args.data else simulated(args)
    if not len(data.test):
        raise DataError("no products are left to stream")
    leaves = len({c for c in data.training.category if c})
    print(f"{len(data.training)} products to train on, {leaves} leaves; the newest {len(data.test)} are for the stream")
    heading("training")
    result = train(data, args)
    assert result.validation is not None
    scores = result.validation.scores
    print(
        f"{len(result.history)} epochs; held-out accuracy {scores['accuracy']:.1%}, macro-F1 {scores['macro_f1']:.3f}"
    )
    print(f"bundle {result.bundle} ({result.digest[:12]})")
    repeats = args.stream / len(data.test)
    again = f" (each of the {len(data.test)} test rows {repeats:.1f} times)" if repeats > 1 else ""
    heading(f"{args.stream} products{again}: topic '{INPUT}' -> worker -> topic '{OUTPUT}', embedded broker")
    results = stream(result.bundle, data.test, args.stream, args.out / "worker.log")
    p50, p99 = np.quantile(results.latency_ms, (0.5, 0.99))
    print(f"throughput: {results.per_s:,.0f} products/s")
    print(
        f"latency from sending to receiving, {len(results.latency_ms)} more products at {results.paced_per_s:,.0f}/s: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )
    heading("how good")
    print_quality(data, results)
    print("examples:")
    print_examples(data, results, args.seed)
    page = write_report(data, result, args.out)
    if args.users and not args.data:
        heading(f"recommendations, from what {args.users} users did")
        recommend(args.out / "shop", args.out, PAGES, args.seed)
    heading("done")
    print(f"report: {page}\nbundle: {result.bundle}\nworker's log: {args.out / 'worker.log'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status as `aitems` does."""
    parser = argparse.ArgumentParser(
        prog="python -m aitems_engine.cli.demo",
        description=__doc__,
        epilog="examples:\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    configure(parser)
    try:
        run(parser.parse_args(argv))
    except (AitemsError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
