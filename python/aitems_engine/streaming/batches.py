"""A batch of messages on its way from the consumer to the producer, and the two stages that change it.

`decode` turns messages into columns and sorts out the poison; `classify` fills in the records. Both are plain
functions of a batch, so that they can be tested without a broker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from aitems_engine.errors import InvalidInputError
from aitems_engine.streaming.messages import decode_product
from aitems_engine.streaming.partitions import Span
from aitems_engine.types import Classification


class Classifier(Protocol):
    """What the worker needs of `aitems_engine.Engine`."""

    def classify(
        self, titles: Sequence[str], mall_categories: Sequence[str | None] | None = None, *, top_k: int, threads: int
    ) -> Classification: ...


class Batch:
    """Messages that are classified together.

    Attributes
    ----------
    messages : list of confluent_kafka.Message
    spans : list of Span
        The span of each message, in the same order.
    runs : list of Span
        Each span once, in the order of reading.
    product_ids, titles, mall_categories, places
        Columns of the readable messages; `places` are their indices in `messages`.
    records : list of bytes
        The output of the readable messages.
    refused : list of (index, cause)
        The others.
    """

    __slots__ = (
        "abstained",
        "mall_categories",
        "messages",
        "places",
        "product_ids",
        "records",
        "refused",
        "runs",
        "spans",
        "titles",
    )

    def __init__(self, messages: list[Any], spans: list[Span], runs: list[Span]):
        self.messages = messages
        self.spans = spans
        self.runs = runs
        self.product_ids: list[str | int] = []
        self.titles: list[str] = []
        self.mall_categories: list[str | None] = []
        self.places: list[int] = []
        self.records: list[bytes] = []
        self.refused: list[tuple[int, str]] = []
        self.abstained = 0

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def alive(self) -> bool:
        """Whether any of its partitions still belongs to this worker."""
        return any(span.partition.alive for span in self.runs)

    def extend(self, other: Batch) -> None:
        """Append a batch that was read later and is not decoded yet."""
        self.messages += other.messages
        self.spans += other.spans
        self.runs += other.runs


def decode(batch: Batch, bytes_max: int) -> None:
    """Fill the columns of `batch` from its messages."""
    for place, message in enumerate(batch.messages):
        try:
            product = decode_product(message.value(), bytes_max)
        except InvalidInputError as error:
            batch.refused.append((place, str(error)))
            continue
        batch.product_ids.append(product.product_id)
        batch.titles.append(product.title)
        batch.mall_categories.append(product.mall_category)
        batch.places.append(place)


def classify(batch: Batch, engine: Classifier, *, top_k: int, threads: int) -> None:
    """Fill the records of `batch`.

    Notes
    -----
    When the engine refuses the input, the batch is halved until the product that it refuses stands alone; that one
    is put aside with the engine's words and all others are classified.
    """

    def records(begin: int, end: int) -> list[bytes]:
        result = engine.classify(
            batch.titles[begin:end], batch.mall_categories[begin:end], top_k=top_k, threads=threads
        )
        batch.abstained += int(np.count_nonzero(result.abstained))
        return result.json_records(batch.product_ids[begin:end])

    if not batch.titles:
        return
    try:
        batch.records = records(0, len(batch.titles))
    except InvalidInputError:
        _classify_halves(batch, records)


def _classify_halves(batch: Batch, records: Callable[[int, int], list[bytes]]) -> None:
    kept: list[int] = []
    ranges = [(0, len(batch.titles))]
    while ranges:
        begin, end = ranges.pop()
        try:
            batch.records += records(begin, end)
            kept += batch.places[begin:end]
        except InvalidInputError as error:
            if end - begin == 1:
                batch.refused.append((batch.places[begin], f"the classifier refused the product: {error}"))
            else:
                middle = (begin + end) // 2
                ranges += [(middle, end), (begin, middle)]
    batch.places = kept
