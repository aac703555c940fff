from typing import Any

import numpy as np
import numpy.typing as npt

def char_ngrams(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    min_n: int,
    max_n: int,
    buckets: int,
    threads: int = 1,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]: ...

class Scorer:
    def __init__(
        self, tensors: dict[str, npt.NDArray[np.float32]], mode: str, isa: str = "", threads: int = 0
    ) -> None: ...
    def describe(self) -> dict[str, Any]: ...
    def top(
        self,
        title_ids: npt.NDArray[np.int32],
        title_lengths: npt.NDArray[np.int32],
        gram_ids: npt.NDArray[np.int32] | None,
        gram_splits: npt.NDArray[np.int64] | None,
        mall_ids: npt.NDArray[np.int32] | None,
        mall_lengths: npt.NDArray[np.int32] | None,
        top_k: int,
        threads: int = 1,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...
    def all(
        self,
        title_ids: npt.NDArray[np.int32],
        title_lengths: npt.NDArray[np.int32],
        gram_ids: npt.NDArray[np.int32] | None,
        gram_splits: npt.NDArray[np.int64] | None,
        mall_ids: npt.NDArray[np.int32] | None,
        mall_lengths: npt.NDArray[np.int32] | None,
        probabilities: bool,
        threads: int = 1,
    ) -> npt.NDArray[np.float32]: ...
