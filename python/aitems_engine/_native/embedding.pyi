from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

def train_skipgram(
    ids: NDArray[np.signedinteger],
    row_splits: NDArray[np.signedinteger],
    vocab_size: int,
    dim: int,
    window: int,
    negatives: int,
    epochs: int,
    sample: float,
    learning_rate: float,
    threads: int,
    seed: int,
    isa: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]: ...
