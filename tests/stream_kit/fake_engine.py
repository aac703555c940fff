"""A stand-in for the engine, so that the stream is tested apart from any model."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from aitems_engine.errors import InvalidInputError
from aitems_engine.types import Classification, LabelTable


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
    ) -> Classification:
        if any(title.startswith("!refuse") for title in titles):
            raise InvalidInputError("refused by the fake")
        if self.seconds_per_batch:
            time.sleep(self.seconds_per_batch)
        self.batch_sizes.append(len(titles))
        n = len(titles)
        leaves = [[f"{len(title)}-{k}" for k in range(top_k)] for title in titles]
        names = sorted({leaf for row in leaves for leaf in row})
        places = {name: place for place, name in enumerate(names)}
        indices = np.array([[places[leaf] for leaf in row] for row in leaves], dtype=np.int32)
        return Classification(
            label_indices=indices.reshape(n, top_k),
            probabilities=np.tile(np.linspace(0.5, 0.1, top_k, dtype=np.float32), (n, 1)),
            abstained=np.array([len(title) % 2 == 1 for title in titles], dtype=np.bool_),
            causes=["odd" if len(title) % 2 else None for title in titles],
            parent_ids=[None] * n,
            parent_probabilities=np.full(n, np.nan, dtype=np.float32),
            bundle_digest=self.bundle_digest,
            labels=LabelTable(np.array(names, dtype=np.str_), tuple(f"top > {name}" for name in names)),
        )
