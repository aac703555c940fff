"""Slow, obvious twins of csrc/rerank: every greedy step looks at every row and computes its objective from scratch."""

from __future__ import annotations

import math

import numpy as np

NEVER = 255


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def greedy(n: int, k: int, worth) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < min(k, n):
        values = [(-math.inf if i in chosen else worth(i, chosen)) for i in range(n)]
        best = int(np.argmax(values))
        if values[best] == -math.inf:
            break
        chosen.append(best)
    return chosen


def mmr(relevance, vectors, k, strength, missing_similarity, missing=()):
    v = unit(np.asarray(vectors, np.float64))

    def worth(i, chosen):
        cosines = [missing_similarity if {i, j} & set(missing) else float(v[i] @ v[j]) for j in chosen]
        return (1 - strength) * relevance[i] - strength * max(cosines, default=-1.0)

    return greedy(len(relevance), k, worth)


def dpp(relevance, vectors, k, strength, missing_similarity, window, floor, missing=()):
    v = unit(np.asarray(vectors, np.float64))
    kernel = v @ v.T
    for i in missing:
        kernel[i, :] = kernel[:, i] = 0
        kernel[i, i] = 1 - missing_similarity

    def worth(i, chosen):
        held = chosen[max(0, len(chosen) - window + 1) :]
        with_i = [*held, i]
        before = np.linalg.det(kernel[np.ix_(held, held)]) if held else 1.0
        d2 = np.linalg.det(kernel[np.ix_(with_i, with_i)]) / before
        return (1 - strength) * relevance[i] + strength * math.log(d2) if d2 >= floor else -math.inf

    return greedy(len(relevance), k, worth)


def calibrated(relevance, groups, target, k, strength):
    def worth(i, chosen):
        page = [groups[j] for j in [*chosen, i]]
        divergence = 0.0
        for g, p in enumerate(target):
            if p > 0:
                divergence += p * math.log(p / (0.99 * page.count(g) / len(page) + 0.01 * p))
        return (1 - strength) * relevance[i] - strength * divergence

    return greedy(len(relevance), k, worth)


def forbidden(row, page, items, spacings, levels, level):
    """Whether the row may not stand next on the page."""
    if levels[row] > level or items[row] in [items[r] for r in page]:
        return True
    for codes, by_item, before, cap, window, relax_level in spacings:
        code = [codes[items[r]] if by_item else codes[r] for r in range(len(items))]
        if code[row] < 0 or relax_level <= level:
            continue
        shown = [*before, *(code[r] for r in page)]
        if shown[max(0, len(shown) - window + 1) :].count(code[row]) >= cap:
            return True
    return False


def fill_page(k, items, organic, levels, relax_levels, spacings):
    """Return rows and levels of a page without ads, cold items and exploration."""
    page, reached = [], []
    while len(page) < k:
        for level in range(relax_levels + 1):
            fitting = [r for r in organic if not forbidden(r, page, items, spacings, levels, level)]
            if fitting:
                page.append(fitting[0])
                reached.append(level)
                break
        else:
            break
    return page, reached
