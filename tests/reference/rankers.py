"""Slow, obvious twins of training/rankers.py: one row at a time in float64, sums as they stand in the papers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Weights = Mapping[str, npt.NDArray[np.float64]]


def layers(weights: Weights, name: str, x: npt.NDArray[np.float64], *, last_relu: bool) -> npt.NDArray[np.float64]:
    numbers = sorted(int(key.split(".")[1]) for key in weights if key.startswith(f"{name}.") and key.endswith("weight"))
    for number in numbers:
        w, b = weights[f"{name}.{number}.weight"], weights[f"{name}.{number}.bias"]
        x = np.array([sum(w[o, i] * x[i] for i in range(len(x))) + b[o] for o in range(len(b))])
        if number != numbers[-1] or last_relu:
            x = np.maximum(x, 0)
    return x


def logits(
    name: str, weights: Weights, codes: npt.NDArray[np.integer], dense: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return (n, T); `weights` is the network's state as float64 arrays."""
    one = {"deepfm": _deepfm, "dlrm": _dlrm, "dcn-v2": _dcn_v2, "esmm": _esmm}[name]
    table, offsets = weights["features.table.weight"], weights["features.offsets"].astype(int)
    return np.array(
        [
            one(weights, [table[offset + code] for offset, code in zip(offsets, row, strict=True)], columns)
            for row, columns in zip(codes, dense.astype(np.float64), strict=True)
        ]
    )


def _deepfm(weights: Weights, rows: list, dense: npt.NDArray[np.float64]) -> list[float]:
    vectors = [row[:-1] for row in rows]
    total = sum(row[-1] for row in rows)
    if len(dense):
        total += float(weights["first_order.weight"][0] @ dense)
    for i in range(len(vectors)):
        for j in range(i):
            total += float(np.dot(vectors[i], vectors[j]))
    deep = layers(weights, "deep", np.concatenate([*vectors, dense]), last_relu=False)
    return [total + deep[0]]


def _dlrm(weights: Weights, rows: list, dense: npt.NDArray[np.float64]) -> list[float]:
    first = [layers(weights, "bottom", dense, last_relu=True)] if len(dense) else []
    vectors = [*first, *rows]
    dots = [float(np.dot(vectors[i], vectors[j])) for i in range(len(vectors)) for j in range(i)]
    return list(layers(weights, "top", np.concatenate([*first, dots]), last_relu=False))


def _dcn_v2(weights: Weights, rows: list, dense: npt.NDArray[np.float64]) -> list[float]:
    start = np.concatenate([*rows, dense])
    x = start
    number = 0
    while f"cross.{number}.expand.weight" in weights:
        matrix = weights[f"cross.{number}.expand.weight"]
        if f"cross.{number}.reduce.weight" in weights:
            matrix = matrix @ weights[f"cross.{number}.reduce.weight"]
        x = start * (matrix @ x + weights[f"cross.{number}.expand.bias"]) + x
        number += 1
    deep = layers(weights, "deep", start, last_relu=True)
    return [float(weights["output.weight"][0] @ np.concatenate([x, deep]) + weights["output.bias"][0])]


def _esmm(weights: Weights, rows: list, dense: npt.NDArray[np.float64]) -> list[float]:
    flat = np.concatenate([*rows, dense])
    return [float(layers(weights, tower, flat, last_relu=False)[0]) for tower in ("ctr", "cvr")]
