"""Skip-gram with negative sampling, one token at a time in plain Python: the slow twin of csrc/embedding.

Written from the paper and the stated order of draws; double precision, and the logistic function without a table.
"""

from __future__ import annotations

import math

import numpy as np

MASK = 2**64 - 1


class SplitMix:
    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        return ((self.next() >> 32) * bound) >> 32


def stream(seed: int, epoch: int, piece: int) -> SplitMix:
    mixed = SplitMix(seed ^ (epoch * 0xD1342543DE82EF95 & MASK) ^ (piece * 0xA24BAED4963EE407 & MASK))
    return SplitMix(mixed.next())


def alias_table(weights: list[float]) -> tuple[list[int], list[int]]:
    total = sum(weights)
    scaled = [w * len(weights) / total for w in weights]
    threshold, alias = [0xFFFFFFFF] * len(weights), list(range(len(weights)))
    small = [i for i, s in enumerate(scaled) if s < 1]
    large = [i for i, s in enumerate(scaled) if s >= 1]
    while small and large:
        s, big = small.pop(), large[-1]
        threshold[s], alias[s] = int(scaled[s] * 4294967295.0), big
        scaled[big] -= 1.0 - scaled[s]
        if scaled[big] < 1:
            small.append(large.pop())
    return threshold, alias


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(8.0, max(-8.0, x))))


def train(
    rows: list[list[int]],
    vocab_size: int,
    *,
    dim: int,
    window: int,
    negatives: int,
    epochs: int,
    sample: float,
    learning_rate: float,
    seed: int,
) -> np.ndarray:
    """Return (vocab_size, dim) float64; for corpora of one piece (fewer than 8,192 tokens)."""
    counts = [0] * vocab_size
    for row in rows:
        for token in row:
            counts[token] += 1
    total = sum(counts)
    assert 0 < total < 8192
    threshold, alias = alias_table([c**0.75 for c in counts])
    random = stream(seed, MASK, 0)
    vectors = np.array([[((random.next() >> 40) / 2**24 - 0.5) / dim for _ in range(dim)] for _ in range(vocab_size)])
    outputs = np.zeros((vocab_size, dim))
    keep = [1.0] * vocab_size
    if sample > 0:
        ratios = [sample * total / max(c, 1) for c in counts]
        keep = [math.sqrt(r) + r for r in ratios]
    done = 0
    for epoch in range(epochs):
        random = stream(seed, epoch, 0)
        for row in rows:
            kept = [t for t in row if keep[t] >= 1 or (random.next() >> 32) < int(keep[t] * 2**32)]
            rate = learning_rate * max(1 - done / (total * epochs), 1e-4)
            done += len(row)
            for i, word in enumerate(kept):
                reach = 1 + random.below(window)
                for j in range(max(0, i - reach), min(len(kept) - 1, i + reach) + 1):
                    if j == i:
                        continue
                    targets = [word]
                    for _ in range(negatives):
                        bits = random.next()
                        slot = ((bits >> 32) * vocab_size) >> 32
                        noise = slot if (bits & 0xFFFFFFFF) <= threshold[slot] else alias[slot]
                        if noise != word:
                            targets.append(noise)
                    centre = vectors[kept[j]].copy()
                    scores = [float(outputs[t] @ centre) for t in targets]
                    for k, (target, score) in enumerate(zip(targets, scores, strict=True)):
                        gain = ((k == 0) - sigmoid(score)) * rate
                        vectors[kept[j]] += gain * outputs[target]
                        outputs[target] += gain * centre
    return vectors
