from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
