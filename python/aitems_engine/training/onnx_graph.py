"""The text classifier as an ONNX graph, written node by node from the trained tensors.

It does not know how the tensors were trained; docs/textcnn.md defines what they mean. The graph has dynamic batch size
and widths and equals the native execution within 1e-4. Written by hand rather than traced: no torch, and readable.
"""

from __future__ import annotations

import re

import numpy as np

from aitems_engine.errors import InvalidInputError
from aitems_engine.training.onnx_builder import OPSET, OnnxGraph, Tensors


def build_onnx(tensors: Tensors, *, opset: int = OPSET, top_k: int = 0) -> bytes:
    """Return the classifier as a serialised ONNX model.

    Parameters
    ----------
    tensors : mapping of str to float32 array
        Trained weights by name; ``aux.*`` is ignored.
    opset : int
        Version of the ONNX operators.
    top_k : int
        More than 0 adds outputs ``top_indices`` int64 (n, top_k) and ``top_probabilities``.

    Returns
    -------
    bytes
        Inputs: ``title_ids`` int32 (n, width >= 1), ``title_lengths`` int32 (n,); with a bag ``gram_ids`` int32 (n, g),
        padded with -1; with a mall branch ``mall_ids``, ``mall_lengths``. Outputs: ``logits``, ``probabilities``
        float32 (n, classes).

    Raises
    ------
    InvalidInputError
        A tensor that the graph needs is missing.
    MissingExtraError
        The package onnx is not installed.
    """
    if "embedding.weight" not in tensors or "head.weight" not in tensors or not widths(tensors, "title"):
        raise InvalidInputError(
            "the classifier needs embedding.weight, title.conv{w}.weight and head.weight, got "
            + ", ".join(sorted(tensors))
        )
    graph = OnnxGraph(tensors)
    features = _branch(graph, "title")
    if "title.bag.weight" in tensors:
        features.append(_bag(graph))
    if widths(tensors, "mall"):
        features += _branch(graph, "mall")
    hidden = graph.node("Concat", features, axis=1) if len(features) > 1 else features[0]
    if "fc.weight" in tensors:
        hidden = graph.node("Relu", [graph.dense("fc", hidden)])
    graph.node("Identity", [graph.dense("head", hidden)], name="logits")
    graph.node("Softmax", ["logits"], name="probabilities", axis=-1)
    classes = int(tensors["head.weight"].shape[0])
    graph.output("logits", classes)
    graph.output("probabilities", classes)
    if top_k > 0:
        k = graph.constant("top_k", np.array([top_k], np.int64))
        graph.node("TopK", ["probabilities", k], name="top_probabilities", second="top_indices", axis=-1)
        graph.output("top_probabilities", top_k)
        graph.output("top_indices", top_k, kind="int64")
    bag = tensors.get("title.bag.weight")
    return graph.model(
        "text_classifier",
        opset,
        {
            "classes": str(classes),
            "vocabulary": str(tensors["embedding.weight"].shape[0]),
            "gram_buckets": str(0 if bag is None else bag.shape[0]),
        },
    )


def widths(tensors: Tensors, branch: str) -> list[int]:
    """Return the convolution widths of a branch, ascending."""
    pattern = re.compile(rf"{branch}\.conv(\d+)\.weight")
    return sorted(int(found[1]) for name in tensors if (found := pattern.fullmatch(name)))


def _branch(graph: OnnxGraph, branch: str) -> list[str]:
    """Embedding, convolutions that read zeros past the end, relu, maximum over the windows that begin at a token."""
    ids = graph.input(f"{branch}_ids", "n", f"{branch}_width")
    lengths = graph.input(f"{branch}_lengths", "n")
    zero = graph.constant("zero", np.array(0, np.int32))
    one = graph.constant("one", np.array(1, np.int32))
    axis1 = graph.constant("axis_1", np.array([1], np.int64))
    width = graph.node("Gather", [graph.node("Shape", [ids]), graph.constant("position_1", np.array(1, np.int64))])
    width = graph.node("Cast", [width], to=6)
    positions = graph.node(
        "Unsqueeze", [graph.node("Range", [zero, width, one]), graph.constant("axis_0", np.array([0], np.int64))]
    )
    used = graph.node("Less", [positions, graph.node("Unsqueeze", [lengths, axis1])])
    mask = graph.node("Unsqueeze", [graph.node("Cast", [used], to=1), axis1])  # (n, 1, width)
    vectors = graph.node("Gather", [graph.weight("embedding.weight"), ids], axis=0)
    vectors = graph.node("Mul", [graph.node("Transpose", [vectors], perm=[0, 2, 1]), mask])
    features = []
    for w in widths(graph.tensors, branch):
        conv = graph.node(
            "Conv",
            [vectors, graph.weight(f"{branch}.conv{w}.weight"), graph.weight(f"{branch}.conv{w}.bias")],
            kernel_shape=[w],
            pads=[0, w - 1],
        )
        # relu is monotone and masked windows become 0, its smallest value: the maximum is over real windows only
        active = graph.node("Mul", [graph.node("Relu", [conv]), mask])
        features.append(graph.node("ReduceMax", [active], axes=[2], keepdims=0))
    return features


def _bag(graph: OnnxGraph) -> str:
    """Sum of the n-grams' rows over the root of their number."""
    ids = graph.input("gram_ids", "n", "grams")
    zero = graph.constant("zero", np.array(0, np.int32))
    axis1 = graph.constant("axis_1", np.array([1], np.int64))
    used = graph.node("Cast", [graph.node("Not", [graph.node("Less", [ids, zero])])], to=1)
    rows = graph.node("Gather", [graph.weight("title.bag.weight"), graph.node("Max", [ids, zero])], axis=0)
    rows = graph.node("Mul", [rows, graph.node("Unsqueeze", [used, graph.constant("axis_2", np.array([2], np.int64))])])
    total = graph.node("ReduceSum", [rows, axis1], keepdims=0)
    count = graph.node("ReduceSum", [used, axis1], keepdims=1)
    root = graph.node("Sqrt", [graph.node("Max", [count, graph.constant("one_f", np.array(1, np.float32))])])
    return graph.node("Relu", [graph.node("Add", [graph.node("Div", [total, root]), graph.weight("title.bag.bias")])])
