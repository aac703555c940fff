"""The text classifier and its character n-grams, written as the definition reads: slow, float64, row by row."""

from __future__ import annotations

import re

import numpy as np

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def char_ngrams(text: str, min_n: int, max_n: int, buckets: int) -> list[int]:
    """Bucket ids of one text, by start, then by n."""
    text = re.sub(f"[{WHITE_SPACE}]+", " ", text).strip(" ")
    if not text:
        return []
    text = f" {text} "
    ids = []
    for start in range(len(text)):
        for n in range(min_n, max_n + 1):
            if start + n <= len(text):
                h = 0xCBF29CE484222325
                for byte in text[start : start + n].encode():
                    h = ((h ^ byte) * 0x100000001B3) % 2**64
                ids.append((h ^ (h >> 32)) % buckets)
    return ids


def branch_features(tensors, branch, ids):
    """Features of one row; `ids` holds its real tokens only."""
    out = []
    for w in range(1, 17):
        if f"{branch}.conv{w}.weight" not in tensors:
            continue
        weight = tensors[f"{branch}.conv{w}.weight"].astype(np.float64)
        bias = tensors[f"{branch}.conv{w}.bias"].astype(np.float64)
        vectors = tensors["embedding.weight"][ids].astype(np.float64)
        windows = [
            sum((weight[:, :, j] @ vectors[t + j] for j in range(w) if t + j < len(ids)), np.zeros(len(bias)))
            for t in range(len(ids))
        ]
        out.append(np.maximum(np.max(windows, axis=0) + bias, 0) if windows else np.zeros(len(bias)))
    return out


def bag_feature(tensors, ids):
    rows = tensors["title.bag.weight"][ids].astype(np.float64)
    return np.maximum(rows.sum(0) / np.sqrt(max(1, len(ids))) + tensors["title.bag.bias"], 0)


def logits(tensors, inputs):
    """Logits float64 (n, classes) of a ScorerInputs."""
    rows = []
    for i in range(inputs.count):
        parts = branch_features(tensors, "title", inputs.title_ids[i, : inputs.title_lengths[i]])
        if "title.bag.weight" in tensors:
            parts.append(bag_feature(tensors, inputs.gram_ids[inputs.gram_splits[i] : inputs.gram_splits[i + 1]]))
        known = inputs.mall_ids is not None
        mall = inputs.mall_ids[i, : inputs.mall_lengths[i]] if known else np.zeros(0, np.int32)
        parts += branch_features(tensors, "mall", mall)
        h = np.concatenate(parts)
        if "fc.weight" in tensors:
            h = np.maximum(tensors["fc.weight"].astype(np.float64) @ h + tensors["fc.bias"], 0)
        rows.append(tensors["head.weight"].astype(np.float64) @ h + tensors["head.bias"])
    return np.array(rows).reshape(inputs.count, len(tensors["head.bias"]))


def softmax(values):
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top(probabilities, k):
    """Indices and values, ties: lower index first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(probabilities, order, axis=1)


def int8_logits(tensors, inputs, largest_code):
    """What the int8 mode computes: int8 tables and weights, uint8 features with a scale a row."""

    def codes(values, axis):
        top = np.abs(values).max(axis=axis, keepdims=True)
        scale = np.where(top > 0, top / 127, 1)
        return np.rint(values / scale), scale

    def dense(name, rows):
        top = rows.max(axis=1, keepdims=True)
        scale = np.where(top > 0, top / largest_code, 1)
        weight, weight_scale = codes(tensors[f"{name}.weight"].astype(np.float64), 1)
        return (np.rint(rows / scale) @ weight.T) * scale * weight_scale[:, 0] + tensors[f"{name}.bias"]

    tables = {}
    for branch in ("title", "mall"):
        for w in range(1, 17):
            if f"{branch}.conv{w}.weight" in tensors:
                folded = np.einsum(
                    "vd,fdj->vjf", tensors["embedding.weight"].astype(np.float64), tensors[f"{branch}.conv{w}.weight"]
                )
                tables[branch, w] = codes(folded, (0, 1))
    bag = codes(tensors["title.bag.weight"].astype(np.float64), 0) if "title.bag.weight" in tensors else None

    def branch_rows(branch, ids):
        out = []
        for (b, w), (table, scale) in tables.items():
            if b != branch:
                continue
            bias = tensors[f"{branch}.conv{w}.bias"]
            windows = [sum(table[ids[t + j], j] for j in range(w) if t + j < len(ids)) for t in range(len(ids))]
            out.append(np.maximum(np.max(windows, axis=0) * scale[0, 0] + bias, 0) if windows else np.zeros(len(bias)))
        return out

    rows = []
    for i in range(inputs.count):
        parts = branch_rows("title", inputs.title_ids[i, : inputs.title_lengths[i]])
        if bag is not None:
            ids = inputs.gram_ids[inputs.gram_splits[i] : inputs.gram_splits[i + 1]]
            parts.append(
                np.maximum(bag[0][ids].sum(0) * bag[1][0] / np.sqrt(max(1, len(ids))) + tensors["title.bag.bias"], 0)
            )
        known = inputs.mall_ids is not None
        parts += branch_rows("mall", inputs.mall_ids[i, : inputs.mall_lengths[i]] if known else [])
        rows.append(np.concatenate(parts))
    h = np.array(rows)
    if "fc.weight" in tensors:
        h = np.maximum(dense("fc", h), 0)
    return dense("head", h)
