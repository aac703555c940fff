"""The ONNX Runtime execution of the graph that `training.onnx_graph.build_onnx` writes."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.runtime.onnx_session import open_session
from aitems_engine.runtime.scorer import FloatArray, IntArray, ScorerInputs, check_top_k

_INPUTS = {"title_ids", "title_lengths", "gram_ids", "mall_ids", "mall_lengths"}


class OnnxScorer:
    """A text classifier run by ONNX Runtime on the CPU.

    Parameters
    ----------
    model : path or bytes
        An ONNX file written by `build_onnx`, or its bytes.

    Raises
    ------
    InvalidInputError
        Not a graph of this kind.

    Notes
    -----
    One session a thread count, made at first use: ONNX Runtime fixes the count when a session is made. The file stays
    open, so that a later session reads the same one even when another has taken its place.
    """

    def __init__(self, model: str | os.PathLike[str] | bytes) -> None:
        if isinstance(model, bytes):
            self._model: bytes | str = model
        else:
            descriptor = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, descriptor)
            self._model = f"/proc/self/fd/{descriptor}"
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()
        session = self._session(1)
        self._inputs = {i.name for i in session.get_inputs()}
        outputs = {o.name: o.shape for o in session.get_outputs()}
        if not {"title_ids", "title_lengths"} <= self._inputs <= _INPUTS or not {"logits", "probabilities"} <= set(
            outputs
        ):
            raise InvalidInputError(
                f"not a text classifier's ONNX graph: inputs {sorted(self._inputs)}, outputs {sorted(outputs)}"
            )
        meta = session.get_modelmeta().custom_metadata_map
        try:
            self._classes = int(meta["classes"])
            self._vocabulary = int(meta["vocabulary"])
            self._buckets = int(meta["gram_buckets"])
        except (KeyError, ValueError) as error:
            raise InvalidInputError(f"the ONNX graph has no usable metadata: {error}") from error

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def score(self, inputs: ScorerInputs, top_k: int, threads: int = 1) -> tuple[IntArray, FloatArray]:
        """Return the `top_k` most probable classes of each row; see `TextScorer.score`."""
        check_top_k(top_k, self.classes)
        probabilities = self.probabilities(inputs, threads)
        # A stable sort of the negated values puts the lower index first among equals.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].astype(np.int32)
        return order, np.take_along_axis(probabilities, order, axis=1)

    def logits(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the logits, float32 array of shape (n, classes)."""
        return self._run("logits", inputs, threads)

    def probabilities(self, inputs: ScorerInputs, threads: int = 1) -> FloatArray:
        """Return the probabilities of all classes, float32 array of shape (n, classes)."""
        return self._run("probabilities", inputs, threads)

    def describe(self) -> dict[str, Any]:
        """Return what runs and its sizes."""
        import onnxruntime

        return {
            "execution": "onnx",
            "onnxruntime": onnxruntime.__version__,
            "classes": self.classes,
            "vocabulary": self._vocabulary,
            "has_bag": "gram_ids" in self._inputs,
            "has_mall": "mall_ids" in self._inputs,
            "gram_buckets": self._buckets,
        }

    def _session(self, threads: int) -> Any:
        if threads < 0:
            raise InvalidInputError(f"threads must be 0 (all cores) or more, got {threads}")
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = open_session(self._model, threads)
            return self._sessions[threads]

    def feeds(self, inputs: ScorerInputs) -> dict[str, IntArray]:
        """Return a batch as the graph takes it: checked, rows cut to the longest and padded.

        Raises
        ------
        InvalidInputError
            Ids, lengths or shapes out of range; the message states what was given.
        """
        n = inputs.count
        feeds = {
            "title_ids": _tokens("title", inputs.title_ids, inputs.title_lengths, n, self._vocabulary),
            "title_lengths": inputs.title_lengths,
        }
        if "gram_ids" in self._inputs:
            if inputs.gram_ids is None or inputs.gram_splits is None:
                raise InvalidInputError("this model reads character n-grams: gram_ids and gram_splits are needed")
            feeds["gram_ids"] = _padded_grams(inputs.gram_ids, inputs.gram_splits, n, self._buckets)
        if "mall_ids" in self._inputs:
            if inputs.mall_ids is None or inputs.mall_lengths is None:
                feeds["mall_ids"] = np.zeros((n, 1), np.int32)
                feeds["mall_lengths"] = np.zeros(n, np.int32)
            else:
                feeds["mall_ids"] = _tokens("mall", inputs.mall_ids, inputs.mall_lengths, n, self._vocabulary)
                feeds["mall_lengths"] = inputs.mall_lengths
        return feeds

    def _run(self, output: str, inputs: ScorerInputs, threads: int) -> FloatArray:
        feeds = self.feeds(inputs)
        if inputs.count == 0:
            return np.zeros((0, self.classes), np.float32)
        result: FloatArray = self._session(threads).run([output], feeds)[0]
        return result


def _tokens(name: str, ids: IntArray, lengths: IntArray, count: int, vocabulary: int) -> IntArray:
    """Check one branch's ids and return them cut to the longest row (at least one column), padding set to 0."""
    if ids.dtype != np.int32 or ids.ndim != 2 or lengths.dtype != np.int32 or lengths.shape != (count,):
        raise InvalidInputError(
            f"{name}_ids must be int32 (n, width) and {name}_lengths int32 (n,), "
            f"got {ids.dtype} {ids.shape} and {lengths.dtype} {lengths.shape}"
        )
    if len(ids) != count:
        raise InvalidInputError(f"{name}_ids must have as many rows as title_lengths ({count}), got {len(ids)}")
    if count == 0:
        return ids
    if lengths.min() < 0 or lengths.max() > ids.shape[1]:
        raise InvalidInputError(
            f"{name}_lengths must be from 0 to the width of {name}_ids ({ids.shape[1]}), "
            f"got {lengths.min()} to {lengths.max()}"
        )
    width = max(1, int(lengths.max()))
    used = np.arange(width) < lengths[:, None]
    if ids.shape[1] < width:
        return np.zeros((count, width), np.int32)
    cut = np.where(used, ids[:, :width], 0)
    if cut.min() < 0 or cut.max() >= vocabulary:
        raise InvalidInputError(f"{name}_ids must be from 0 to {vocabulary - 1}, got {cut.min()} to {cut.max()}")
    return cut


def _padded_grams(ids: IntArray, splits: npt.NDArray[np.int64], count: int, buckets: int) -> IntArray:
    """Return the n-grams as (n, longest row), padded with -1."""
    if ids.dtype != np.int32 or ids.ndim != 1 or splits.dtype != np.int64 or splits.shape != (count + 1,):
        raise InvalidInputError(
            f"gram_ids must be int32 (g,) and gram_splits int64 ({count + 1},), "
            f"got {ids.dtype} {ids.shape} and {splits.dtype} {splits.shape}"
        )
    counts = np.diff(splits)
    if splits[0] != 0 or splits[-1] != len(ids) or (count and counts.min() < 0):
        raise InvalidInputError(f"gram_splits must ascend from 0 to the number of gram_ids ({len(ids)})")
    if len(ids) and (ids.min() < 0 or ids.max() >= buckets):
        raise InvalidInputError(f"gram_ids must be from 0 to {buckets - 1}, got {ids.min()} to {ids.max()}")
    width = max(1, int(counts.max(initial=0)))
    padded = np.full((count, width), -1, np.int32)
    padded[np.arange(width) < counts[:, None]] = ids
    return padded
