"""Retrievers in closed form, or nearly: seconds to minutes on a CPU, no torch. Hyperparameters are the caller's.

Repeated interactions of one user and item count once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError, require_extra
from aitems_engine.events import Interactions
from aitems_engine.retrieval import Ease, GfCf, Ials, ItemKnn, Popularity
from aitems_engine.retrieval.ials import solve_side
from aitems_engine.retrieval.sparse import Csr

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DAY_MS = 86_400_000
# EASE holds two square matrices of doubles at a time.
EASE_ITEMS_MAX = 60_000
_CHUNK = 1024
_OVERSAMPLING, _SUBSPACE_ITERATIONS = 32, 8
Progress = Callable[[Iterable[int]], Iterable[int]]


def fit_popularity(interactions: Interactions, *, half_life_days: float = 0.0) -> Popularity:
    """Return the popularity of each item.

    Parameters
    ----------
    interactions : Interactions
    half_life_days : float
        An interaction so much older than the newest counts half; 0 = all count alike. Unknown times count as oldest.
    """
    if not half_life_days >= 0:
        raise InvalidInputError(f"half_life_days must be 0 or more, got {half_life_days}")
    weights = np.ones(len(interactions.items))
    known = interactions.times >= 0
    if half_life_days and known.any():
        times = np.where(known, interactions.times, interactions.times[known].min())
        weights = 0.5 ** ((times.max() - times) / DAY_MS / half_life_days)
    counts = np.bincount(interactions.items, weights, interactions.num_items)
    return Popularity(interactions.item_ids, counts.astype(np.float32))


def fit_item_knn(
    interactions: Interactions, *, neighbours: int = 100, shrinkage: float = 20.0, decay: float = 1.0
) -> ItemKnn:
    """Return the nearest items of each item: common users / (sqrt(users of one x users of the other) + shrinkage).

    Parameters
    ----------
    interactions : Interactions
    neighbours : int >= 1
        Kept for each item.
    shrinkage : float >= 0
        Takes similarities back that rest on few users.
    decay : float in (0, 1]
        When serving: what one step back in the history costs.
    """
    if neighbours < 1 or not shrinkage >= 0 or not 0 < decay <= 1:
        raise InvalidInputError(
            f"neighbours must be at least 1, shrinkage 0 or more, decay above 0 and at most 1, "
            f"got {neighbours}, {shrinkage}, {decay}"
        )
    matrix = binary_matrix(interactions)
    by_item = matrix.T.tocsr()
    degree = np.asarray(matrix.sum(0)).ravel()
    counts = np.zeros(matrix.shape[1], np.int64)
    columns: list[npt.NDArray[Any]] = []
    values: list[npt.NDArray[Any]] = []
    for start in range(0, matrix.shape[1], _CHUNK):
        common = (by_item[start : start + _CHUNK] @ matrix).toarray()
        own = np.arange(start, start + len(common))
        common[np.arange(len(common)), own] = 0
        similar = common / (np.sqrt(degree[own, None] * degree) + shrinkage + 1e-9)
        keep = min(neighbours, similar.shape[1])
        # stable: of equal similarities the lower item stays
        best = np.sort(np.argsort(-similar, axis=1, kind="stable")[:, :keep], axis=1)
        chosen = np.take_along_axis(similar, best, 1)
        positive = chosen > 0
        counts[own] = positive.sum(1)
        columns.append(best[positive])
        values.append(chosen[positive])
    splits = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=splits[1:])
    similar_items = Csr(
        splits, np.concatenate(columns).astype(np.int32), np.concatenate(values).astype(np.float32), len(counts)
    )
    return ItemKnn(interactions.item_ids, similar_items, decay)


def fit_ease(interactions: Interactions, *, l2: float = 500.0, decay: float = 1.0) -> Ease:
    """Return EASE's item-to-item weights.

    Parameters
    ----------
    interactions : Interactions
    l2 : float > 0
    decay : float in (0, 1]
        When serving: what one step back in the history costs.

    Notes
    -----
    Cost: num_items ** 3 operations and 16 bytes a pair of items; 12,000 items take half a minute of one core.
    """
    if not l2 > 0 or not 0 < decay <= 1:
        raise InvalidInputError(f"l2 must be positive and decay above 0 and at most 1, got {l2} and {decay}")
    if interactions.num_items > EASE_ITEMS_MAX:
        raise InvalidInputError(
            f"EASE holds all pairs of items; {interactions.num_items} items are more than {EASE_ITEMS_MAX}: "
            "use gf-cf, ials or item-knn, or leave out rare items"
        )
    from scipy.linalg import lapack

    matrix = binary_matrix(interactions)
    gram = np.asfortranarray((matrix.T @ matrix).toarray(), dtype=np.float64)
    gram[np.diag_indices_from(gram)] += l2
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise InvalidInputError(f"EASE's matrix could not be inverted with l2 = {l2}; use a larger one")
    diagonal = np.diag(inverse).copy()
    weights = np.empty(inverse.shape, np.float32)
    for start in range(0, len(weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        # the lower triangle and its mirror image
        block = np.where(
            np.arange(len(weights)) <= np.arange(len(weights))[rows, None], inverse[rows], inverse[:, rows].T
        )
        weights[rows] = block / -diagonal
    np.fill_diagonal(weights, 0)
    return Ease(interactions.item_ids, weights, decay)


def fit_gf_cf(
    interactions: Interactions,
    *,
    rank: int = 256,
    alpha: float = 0.3,
    user_power: float = 0.5,
    seed: int = 0,
) -> GfCf:
    """Return the graph filter.

    Parameters
    ----------
    interactions : Interactions
    rank : int >= 0
        Singular vectors of the ideal low-pass filter; 0 leaves it out.
    alpha : float >= 0
        Its weight.
    user_power : float >= 0
        A user's row is divided by this power of the user's degree: 0.5 as published; less gives those with long
        histories more say.
    seed : int
        Of the start of the decomposition.
    """
    numbers = {"rank": rank, "alpha": alpha, "user_power": user_power}
    if wrong := [name for name, value in numbers.items() if not 0 <= value < np.inf]:
        raise InvalidInputError(f"{wrong[0]} must be a number from 0 on, got {numbers[wrong[0]]}")
    matrix = binary_matrix(interactions)
    users, items = np.asarray(matrix.sum(1)).ravel(), np.asarray(matrix.sum(0)).ravel()

    def inverse(degree: npt.NDArray[Any], power: float) -> npt.NDArray[Any]:
        return np.asarray(np.power(degree, -power, out=np.zeros(len(degree)), where=degree > 0))

    graph = matrix.multiply(inverse(users, user_power)[:, None]).multiply(inverse(items, 0.5)).tocsr()
    return GfCf(
        interactions.item_ids,
        Csr(
            graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data.astype(np.float32), graph.shape[1]
        ),
        _leading_vectors(graph, min(rank, min(graph.shape) - 1), seed),
        np.sqrt(items).astype(np.float32),
        alpha,
    )


def _leading_vectors(matrix: csr_matrix, rank: int, seed: int) -> npt.NDArray[np.float32]:
    """Return the leading right singular vectors as columns, the strongest first.

    By subspace iteration from random vectors (Halko et al. 2011): a tenth of the time that ARPACK takes for a thousand
    of them, and the last few only nearly right.
    """
    width = min(rank + _OVERSAMPLING, *matrix.shape)
    single = matrix.astype(np.float32)
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), np.float32)
    for _ in range(_SUBSPACE_ITERATIONS if rank else 0):
        basis = np.linalg.qr(single.T @ (single @ basis))[0]
    image = single @ basis
    turn = np.linalg.eigh(image.T @ image)[1]
    return np.ascontiguousarray(basis @ turn[:, ::-1][:, :rank])


def fit_ials(
    interactions: Interactions,
    *,
    rank: int = 64,
    epochs: int = 16,
    unobserved: float = 0.1,
    l2: float = 0.002,
    l2_exponent: float = 1.0,
    seed: int = 0,
    progress: Progress = iter,
) -> Ials:
    """Return item vectors by alternating least squares.

    Parameters
    ----------
    interactions : Interactions
    rank, epochs : int >= 1
    unobserved : float > 0
        Weight of a pair that was not observed; an observed one weighs 1 + `unobserved`.
    l2, l2_exponent : float
        Regularisation of a row is ``l2 * (its observations + unobserved * the other side's rows) ** l2_exponent``.
    seed : int
        Of the start vectors.
    progress : callable
        Wraps the epochs, e.g. a progress bar.
    """
    if rank < 1 or epochs < 1 or not unobserved > 0 or not l2 > 0:
        raise InvalidInputError(
            f"rank and epochs must be at least 1, unobserved and l2 positive, got {rank}, {epochs}, {unobserved}, {l2}"
        )
    matrix = binary_matrix(interactions)
    by_item = matrix.T.tocsr()
    items = np.random.default_rng(seed).normal(0, 0.1 / np.sqrt(rank), (matrix.shape[1], rank)).astype(np.float32)
    for _ in progress(range(epochs)):
        users = solve_side(*_rows(matrix), items, unobserved, l2, l2_exponent)
        items = solve_side(*_rows(by_item), users, unobserved, l2, l2_exponent)
    return Ials(interactions.item_ids, items, unobserved, l2, l2_exponent)


def binary_matrix(interactions: Interactions) -> csr_matrix:
    """Return users by items, float32, 1 where there was an interaction."""
    require_extra("train", "scipy")
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(
        (np.ones(len(interactions.items), np.float32), interactions.items, interactions.splits),
        shape=(len(interactions), interactions.num_items),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _rows(matrix: csr_matrix) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
