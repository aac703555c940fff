from typing import Any

import numpy as np
import numpy.typing as npt

class Hedge:
    def __init__(self, tree: dict[str, npt.NDArray[Any]]) -> None: ...
    def above(
        self, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], threads: int = 1
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]: ...

def write_classifier(path: str, parts: dict[str, Any], recorded: list[dict[str, Any]]) -> None: ...

class Classifier:
    def __init__(self, path: str, mode: str = "int8", isa: str = "") -> None: ...
    def classify(
        self, titles: list[bytes], malls: list[bytes | None] | None, top_k: int = 5, threads: int = 1
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.uint8], list[bytes]]: ...
