from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def contained(
    splits: NDArray[np.int64],
    items: NDArray[np.int32],
    history_splits: NDArray[np.int64],
    history_items: NDArray[np.int32],
) -> NDArray[np.bool_]: ...
def without_seen(
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    histories: tuple[NDArray[np.int64], NDArray[np.int32]] | None,
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def similar_items(
    splits: NDArray[np.int64],
    items: NDArray[np.int32],
    weights: NDArray[np.float32],
    similar_splits: NDArray[np.int64],
    similar: NDArray[np.int32],
    similar_weights: NDArray[np.float32],
    k: int,
    exclude_seen: bool,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def merge(
    found: Sequence[tuple[NDArray[np.int32], NDArray[np.float32], float, int]], reciprocal: bool, budget: int
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.float32],
]: ...
def calibrated_probabilities(
    logits: NDArray[np.floating[Any]], given: NDArray[np.float64], calibrated: NDArray[np.float64]
) -> NDArray[np.float32]: ...

class FeatureTable:
    def __init__(
        self,
        *,
        codes: Sequence[NDArray[np.int32]],
        matches: Sequence[NDArray[np.int32]],
        statics: Sequence[NDArray[np.float32]],
        statistics: Sequence[NDArray[np.float32]],
        numbers: Sequence[NDArray[np.float32]],
        registered_at: NDArray[np.int64],
        half_lives_ms: Sequence[float],
        last_codes: Sequence[int],
        contexts: int,
        hour: bool,
        weekday: bool,
        utc_offset_ms: int,
        position_max: int,
        position_serving: int,
        age: bool,
        recency: bool,
        length: bool,
        history_max: int,
        center: Sequence[float],
        scale: Sequence[float],
    ) -> None: ...
    def gather(
        self,
        history_items: NDArray[np.int32],
        history_times: NDArray[np.int64],
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
        now: NDArray[np.int64],
        contexts: NDArray[np.int32],
        candidates: NDArray[np.int32],
        candidate_splits: NDArray[np.int64],
        codes: NDArray[np.int32],
        dense: NDArray[np.float32],
        statistics: NDArray[np.float32] | None = None,
        positions: NDArray[np.int32] | None = None,
        threads: int = 1,
    ) -> None: ...
    @property
    def items(self) -> int: ...
    @property
    def codes(self) -> int: ...
    @property
    def dense(self) -> int: ...
    @property
    def bytes(self) -> int: ...
