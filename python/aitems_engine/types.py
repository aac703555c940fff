"""Results that the engine returns: frozen, columns of equal length, one row a request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The leaves that a classifier can answer, in the order of its output layer."""

    leaf_ids: npt.NDArray[np.str_]
    paths: tuple[str, ...]

    @cached_property
    def json_beginnings(self) -> list[bytes]:
        """Each label as the beginning of a JSON object, up to its probability."""
        return [
            f'{{"leaf_id":{json.dumps(leaf, ensure_ascii=False)},"path":{json.dumps(path, ensure_ascii=False)},'
            '"probability":'.encode()
            for leaf, path in zip(self.leaf_ids.tolist(), self.paths, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Classification:
    """Categories of some products, best first.

    Attributes
    ----------
    label_indices : int32 array, shape (num_rows, k)
        Positions in the classifier's labels; `k` is the asked top_k, or the number of labels where that is smaller.
    probabilities : float32 array, shape (num_rows, k)
        Calibrated; falling. Ties: the lower label first.
    abstained : bool array, shape (num_rows,)
        True where the answer should not be used without a look: see `causes`.
    causes : list of str or None
        Why a row was abstained.
    parent_ids : list of str or None
        Where a row was abstained because of low confidence: the deepest category above its best leaf that
        reaches the threshold that the leaf missed.
    parent_probabilities : float32 array, shape (num_rows,)
        Probability of that category, the sum of its leaves; NaN where there is none.
    bundle_digest : str
    """

    label_indices: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    abstained: npt.NDArray[np.bool_]
    causes: list[str | None]
    parent_ids: list[str | None]
    parent_probabilities: npt.NDArray[np.float32]
    bundle_digest: str
    labels: LabelTable

    def __len__(self) -> int:
        return len(self.abstained)

    @property
    def leaf_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the leaves, array of str, shape (num_rows, k)."""
        return self.labels.leaf_ids[self.label_indices]

    @property
    def paths(self) -> list[list[str]]:
        """Names from the top category to the leaf, joined by " > ", for each row and rank."""
        table = self.labels.paths
        return [[table[i] for i in row] for row in self.label_indices.tolist()]

    def records(self, product_ids: Sequence[str | int]) -> Iterator[dict[str, Any]]:
        """Yield one record a row: `product_id, categories [{leaf_id, path, probability}], abstained, cause, bundle`."""
        ids, paths = self.labels.leaf_ids.tolist(), self.labels.paths
        indices, probabilities = self.label_indices.tolist(), self.probabilities.astype(np.float64).round(6).tolist()
        for row, product_id in enumerate(product_ids):
            yield {
                "product_id": product_id,
                "categories": [
                    {"leaf_id": ids[i], "path": paths[i], "probability": p}
                    for i, p in zip(indices[row], probabilities[row], strict=True)
                ],
                "abstained": bool(self.abstained[row]),
                "cause": self.causes[row],
                "bundle": self.bundle_digest,
            }

    def json_records(self, product_ids: Sequence[str | int]) -> list[bytes]:
        """Return each record of `records` as JSON without line end, natively (csrc/cython)."""
        from aitems_engine._records import encode_records

        return encode_records(
            list(product_ids),
            self.label_indices,
            self.probabilities,
            self.abstained.view(np.uint8),
            self.causes,
            self.labels.json_beginnings,
            json.dumps(self.bundle_digest).encode(),
        )
