"""A stand-in for the engine, so that the stream is tested apart from any model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aitems_engine.errors import InvalidInputError


@dataclass(frozen=True)
class FakeClassification:
    leaf_ids: np.ndarray
    probabilities: np.ndarray
    abstained: np.ndarray
    causes: list[str | None]
    paths: list[list[str]]


class FakeEngine:
    """Answers with the title's length as the leaf; refuses titles that begin with `!refuse`."""

    bundle_digest = "sha256:fake"

    def __init__(self, seconds_per_batch: float = 0.0):
        self.seconds_per_batch = seconds_per_batch
        self.batch_sizes: list[int] = []

    def classify(
        self,
        titles: Sequence[str],
        mall_categories: Sequence[str | None] | None = None,
        *,
        top_k: int = 5,
        threads: int = 1,
    ) -> FakeClassification:
        if any(title.startswith("!refuse") for title in titles):
            raise InvalidInputError("refused by the fake")
        if self.seconds_per_batch:
            time.sleep(self.seconds_per_batch)
        self.batch_sizes.append(len(titles))
        n = len(titles)
        leaves = [[f"{len(title)}-{k}" for k in range(top_k)] for title in titles]
        return FakeClassification(
            leaf_ids=np.array(leaves, dtype=object).reshape(n, top_k),
            probabilities=np.tile(np.linspace(0.5, 0.1, top_k, dtype=np.float32), (n, 1)),
            abstained=np.array([len(title) % 2 == 1 for title in titles], dtype=bool),
            causes=["odd" if len(title) % 2 else None for title in titles],
            paths=[[f"top > {leaf}" for leaf in row] for row in leaves],
        )
