"""What every execution of the text classifier takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
_Arrays: TypeAlias = tuple[
    IntArray, IntArray, IntArray | None, npt.NDArray[np.int64] | None, IntArray | None, IntArray | None
]


@dataclass(frozen=True, slots=True)
class ScorerInputs:
    """One batch of rows as ids.

    Parameters
    ----------
    title_ids : int32 array, shape (n, title_width), C-contiguous
        Token ids; of row i the first ``title_lengths[i]`` count, what lies behind them is never read as a token.
    title_lengths : int32 array, shape (n,)
    gram_ids : int32 array, shape (g,), optional
        Bucket ids of the character n-grams of all titles, one title after another (`_native.textcnn.char_ngrams`).
        Needed by a model with a bag.
    gram_splits : int64 array, shape (n + 1,), optional
        Row i owns ``gram_ids[gram_splits[i]:gram_splits[i + 1]]``.
    mall_ids, mall_lengths : as for titles, optional
        Tokens of the shop's own category path; without them, or at length 0, the path counts as unknown.
    """

    title_ids: IntArray
    title_lengths: IntArray
    gram_ids: IntArray | None = None
    gram_splits: npt.NDArray[np.int64] | None = None
    mall_ids: IntArray | None = None
    mall_lengths: IntArray | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.title_lengths)

    def arrays(self) -> _Arrays:
        """Return the six arrays in the order of the fields."""
        return (
            self.title_ids,
            self.title_lengths,
            self.gram_ids,
            self.gram_splits,
            self.mall_ids,
            self.mall_lengths,
        )


class TextScorer(Protocol):
    """A trained text classifier that can be asked for scores; implementations are safe for calls from many threads."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    def score(self, inputs: ScorerInputs, top_k: int, threads: int = 1) -> tuple[IntArray, FloatArray]:
        """Return the `top_k` most probable classes of each row, most probable first.

        Parameters
        ----------
        inputs : ScorerInputs
            The batch; may be empty.
        top_k : int
            From 1 to the number of classes.
        threads : int
            0 = all cores.

        Returns
        -------
        indices : int32 array, shape (n, top_k)
            Rows of the head; ties: lower index first.
        probabilities : float32 array, shape (n, top_k)
            Softmax over all classes, not only over the returned ones.

        Raises
        ------
        InvalidInputError
            Ids, lengths, shapes or `top_k` out of range; the message states what was given.
        """
        ...

    def logits(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the logits, float32 array of shape (n, classes)."""
        ...

    def probabilities(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the probabilities of all classes, float32 array of shape (n, classes)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what runs and what it costs in memory, as plain values."""
        ...


def check_top_k(top_k: int, classes: int) -> None:
    """Raise unless 1 <= top_k <= classes."""
    if not 1 <= top_k <= classes:
        raise InvalidInputError(f"top_k must be from 1 to the number of classes ({classes}), got {top_k}")
