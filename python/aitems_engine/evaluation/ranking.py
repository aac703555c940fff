"""Measures of a ranking over the whole catalogue, ties counted fairly.

Where items share a score, any order of them is equally likely: each relevant item counts with its expected gain over
the positions of its group, so a retriever that scores all items alike gets what a random order would get. Expectations
add up, so recall and NDCG are exact. Nothing is sampled: every item of the catalogue is a competitor, but for those of
the history. Slow twins are in tests/reference/slow_ranking.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.retrieval.retriever import BATCH, Retriever, best_items, check_catalogue, masked_scores

FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankingScores:
    """Measures by user, and of the lists as a whole.

    Attributes
    ----------
    users : int64 array, shape (n,)
        Positions of the users that had something to find.
    by_user : mapping of str to float64 array, shape (n,)
        recall@k, ndcg@k, mrr@k for each k.
    of_lists : mapping of str to float
        coverage@k: share of the catalogue that is shown to somebody. gini@k: inequality of how often items are shown
        (0 all alike, 1 one item only). novelty@k: mean of -log2 of the share of users who had the item.
    seen_targets : int
        Items to find that stand in the history as well; they can never be found when seen items are left out.
    """

    users: npt.NDArray[np.int64]
    by_user: Mapping[str, FloatVector]
    of_lists: Mapping[str, float]
    seen_targets: int

    def means(self) -> dict[str, float]:
        """Return all measures, those of users averaged."""
        return {name: float(values.mean()) for name, values in self.by_user.items()} | dict(self.of_lists)


def evaluate_ranking(
    retriever: Retriever,
    histories: Interactions,
    targets: Interactions,
    ks: Sequence[int] = (10, 20),
    *,
    exclude_seen: bool = True,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> RankingScores:
    """Ask a retriever about every user who has something to find.

    Parameters
    ----------
    retriever : Retriever
    histories, targets : Interactions
        The same users, over the retriever's items: what is known, and what is to be found. Repeated targets count once.
    ks : sequence of int >= 1
    exclude_seen : bool
        Leave items of the history out of the ranking.
    progress : callable
        Wraps the batches of users.

    Raises
    ------
    InvalidInputError
        Different users or items, or nobody with something to find.
    """
    check_catalogue(retriever, histories)
    check_catalogue(retriever, targets)
    if histories.user_ids != targets.user_ids:
        raise InvalidInputError("histories and targets must be of the same users in the same order")
    if not ks or min(ks) < 1:
        raise InvalidInputError(f"every k must be at least 1, got {list(ks)}")
    asked = np.flatnonzero(np.diff(targets.splits))
    if len(asked) == 0:
        raise InvalidInputError("no user has an item to find")
    longest = max(ks)
    gains = {k: _Gains(k) for k in ks}
    by_user = {f"{name}@{k}": np.zeros(len(asked)) for k in ks for name in ("recall", "ndcg", "mrr")}
    shown = {k: np.zeros(histories.num_items, np.int64) for k in ks}
    seen_targets = 0
    for start in progress(range(0, len(asked), BATCH)):
        rows = asked[start : start + BATCH]
        known = histories.take(rows)
        scores = masked_scores(retriever, known, exclude_seen)
        best, _ = best_items(scores, longest)
        for k in ks:
            listed = best[:, :k]
            shown[k] += np.bincount(listed[listed >= 0], minlength=histories.num_items)
        for i, user in enumerate(rows.tolist()):
            wanted = np.unique(targets.history(user))
            seen_targets += int(np.isin(wanted, known.history(i)).sum())
            own = scores[i]
            better = np.array([np.count_nonzero(own > own[w]) for w in wanted])
            equal = np.array([np.count_nonzero(own == own[w]) for w in wanted])
            reachable = own[wanted] > -np.inf
            for k, gain in gains.items():
                recall, ndcg, mrr = gain(better[reachable], equal[reachable], len(wanted))
                by_user[f"recall@{k}"][start + i] = recall
                by_user[f"ndcg@{k}"][start + i] = ndcg
                by_user[f"mrr@{k}"][start + i] = mrr
    popularity = np.bincount(histories.items, minlength=histories.num_items) / max(1, len(histories))
    of_lists = {}
    for k in ks:
        of_lists[f"coverage@{k}"] = float(np.count_nonzero(shown[k]) / histories.num_items)
        of_lists[f"gini@{k}"] = gini(shown[k])
        surprise = -np.log2(np.maximum(popularity, 1 / max(1, len(histories))))
        of_lists[f"novelty@{k}"] = float((shown[k] * surprise).sum() / max(1, shown[k].sum()))
    return RankingScores(asked, by_user, of_lists, seen_targets)


class _Gains:
    """Expected recall, NDCG and reciprocal rank at k of relevant items behind `better` and among `equal` ones."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])

    def __call__(
        self, better: npt.NDArray[np.int64], equal: npt.NDArray[np.int64], num_relevant: int
    ) -> tuple[float, float, float]:
        if len(better) == 0:
            return 0.0, 0.0, 0.0
        first, last = np.minimum(better, self.k), np.minimum(better + equal, self.k)
        recall = ((last - first) / equal).sum() / num_relevant
        gained = ((self._discounts[last] - self._discounts[first]) / equal).sum()
        ndcg = gained / self._discounts[min(num_relevant, self.k)]
        best = int(better.min())
        return (
            float(recall),
            float(ndcg),
            self._reciprocal(best, int(equal[better == best][0]), int((better == best).sum())),
        )

    def _reciprocal(self, better: int, equal: int, relevant: int) -> float:
        """Return the expected 1 / rank of the first of `relevant` items among `equal` in random order."""
        total, missed = 0.0, 1.0  # `missed`: no relevant item on the places before
        for place in range(equal - relevant + 1):
            if better + place >= self.k:
                break
            hit = relevant / (equal - place)
            total += missed * hit / (better + place + 1)
            missed *= 1 - hit
        return total


def gini(counts: npt.NDArray[np.int64]) -> float:
    """Return the Gini coefficient of non-negative counts; 0 where all are 0."""
    values = np.sort(np.asarray(counts, np.float64))
    n, total = len(values), values.sum()
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ values / (n * total))


def bootstrap_mean(values: FloatVector, *, samples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean over users with its 95 % bootstrap interval."""
    draws = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), size=samples)
    means = draws @ values / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
