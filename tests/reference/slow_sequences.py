"""A transformer over one history, and the losses of next items, as they are defined: loops, in doubles."""

from __future__ import annotations

import math

import numpy as np


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean()
    return centred / math.sqrt(float(centred @ centred) / len(x) + epsilon) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def encode(
    items: list[int], w: dict[str, np.ndarray], blocks: int, heads: int, causal: bool, epsilon: float
) -> np.ndarray:
    """Return the vector at each place of a history, oldest first."""
    w = {name: value.astype(np.float64) for name, value in w.items() if value.dtype == np.float32}
    rows = [w["items"][item] + w["places"][place] for place, item in enumerate(items)]
    for number in range(blocks):

        def part(name: str, number: int = number) -> tuple[np.ndarray, np.ndarray]:
            return w[f"blocks.{number}.{name}.weight"], w[f"blocks.{number}.{name}.bias"]

        weight, bias = part("attention")
        projected = [weight @ layer_norm(row, *part("norm1"), epsilon) + bias for row in rows]
        dim = len(rows[0])
        size = dim // heads
        attended = []
        for at in range(len(rows)):
            seen = range(at + 1) if causal else range(len(rows))
            found = np.zeros(dim)
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                query = projected[at][:dim][cut]
                powers = [math.exp(query @ projected[j][dim : 2 * dim][cut] / math.sqrt(size)) for j in seen]
                for j, power in zip(seen, powers, strict=True):
                    found[cut] += power / sum(powers) * projected[j][2 * dim :][cut]
            weight_mix, bias_mix = part("mix")
            attended.append(rows[at] + weight_mix @ found + bias_mix)
        (wide, wide_bias), (narrow, narrow_bias) = part("wide"), part("narrow")
        rows = [
            row + narrow @ gelu(wide @ layer_norm(row, *part("norm2"), epsilon) + wide_bias) + narrow_bias
            for row in attended
        ]
    return np.array([layer_norm(row, w["norm.weight"], w["norm.bias"], epsilon) for row in rows])


def full_cross_entropy(queries: np.ndarray, table: np.ndarray, targets: list[int]) -> float:
    losses = []
    for query, target in zip(queries, targets, strict=True):
        powers = [math.exp(query @ item) for item in table]
        losses.append(-math.log(powers[target] / sum(powers)))
    return sum(losses) / len(losses)


def gbce(queries: np.ndarray, table: np.ndarray, targets: list[int], negatives: list[int], calibration: float) -> float:
    def chance(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    share = len(negatives) / (len(table) - 1)
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    losses = []
    for query, target in zip(queries, targets, strict=True):
        loss = -math.log(chance(query @ table[target]) ** power)
        loss -= sum(math.log(1 - chance(query @ table[n])) for n in negatives if n != target)
        losses.append(loss)
    return sum(losses) / len(losses)
