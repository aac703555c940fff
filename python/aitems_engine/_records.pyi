from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def encode_records(
    product_ids: list[str] | list[int] | list[str | int],
    label_indices: npt.NDArray[np.int32],
    probabilities: npt.NDArray[np.float32],
    abstained: npt.NDArray[np.uint8],
    causes: Sequence[str | None],
    labels: list[bytes],
    bundle: bytes,
) -> list[bytes]: ...
