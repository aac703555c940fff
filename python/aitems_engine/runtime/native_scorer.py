"""The native execution: convolutions folded into tables, the top-k and the normaliser fused into the output product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native import textcnn
from aitems_engine.runtime.scorer import FloatArray, IntArray, ScorerInputs


class NativeScorer:
    """A text classifier run by the native core.

    Parameters
    ----------
    tensors : mapping of str to float32 array
        The trained weights by name (docs/textcnn.md); names that begin with ``aux.`` are ignored. They are copied.
    mode : {"int8", "exact"}
        ``exact`` computes in float32 and equals the ONNX graph within 1e-4; ``int8`` quantises tables and weights.
    isa : str
        Instruction-set level; empty = the best one here (see `aitems doctor`).
    threads : int
        Threads that build the tables; 0 = all cores.

    Raises
    ------
    InvalidInputError
        A tensor is missing, misshapen, not finite or unknown.
    ConfigError
        The level cannot run here.
    """

    def __init__(
        self,
        tensors: Mapping[str, npt.NDArray[np.float32]],
        mode: str = "int8",
        isa: str = "",
        threads: int = 0,
    ) -> None:
        self._scorer = textcnn.Scorer(dict(tensors), mode, isa, threads)
        self._description = self._scorer.describe()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._description["classes"])

    def score(self, inputs: ScorerInputs, top_k: int, threads: int = 1) -> tuple[IntArray, FloatArray]:
        """Return the `top_k` most probable classes of each row; see `TextScorer.score`."""
        return self._scorer.top(*inputs.arrays(), top_k, threads)

    def logits(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the logits, float32 array of shape (n, classes)."""
        return self._scorer.all(*inputs.arrays(), False, threads)

    def probabilities(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the probabilities of all classes, float32 array of shape (n, classes)."""
        return self._scorer.all(*inputs.arrays(), True, threads)

    def describe(self) -> dict[str, Any]:
        """Return mode, ISA level, sizes and the bytes that tables and weights take."""
        return {"execution": "native", **self._description}
