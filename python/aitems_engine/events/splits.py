"""Histories -> what is learnt from and what is asked about. A split that lets a model see the future flatters it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aitems_engine.errors import InvalidInputError
from aitems_engine.events.interactions import Interactions


@dataclass(frozen=True, eq=False)
class HistorySplit:
    """The same users and items on each side, so that positions agree; a side may be empty for a user."""

    train: Interactions
    validation: Interactions
    test: Interactions

    def leaks(self) -> list[str]:
        """Return what is wrong with the split; empty when it is clean.

        Notes
        -----
        An item on two sides is no leak by itself (people buy again); where it matters, as in leave-one-out data that
        keeps an item once, the count is told. Known times must not run backwards from one side to the next.
        """
        found = []
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        names = list(sides)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                a, b = sides[first], sides[second]
                if a.user_ids != b.user_ids or a.item_ids != b.item_ids:
                    found.append(f"{first} and {second} are over different users or items")
                    continue
                newest = np.full(len(a), -1, np.int64)
                np.maximum.at(newest, a.users(), a.times)
                known = b.times >= 0
                early = int((b.times[known] < newest[b.users()[known]]).sum())
                if early:
                    found.append(f"{early} interactions of {second} are older than the same user's newest of {first}")
        return found


def leave_one_out(interactions: Interactions) -> HistorySplit:
    """Return each user's last item for testing, the one before for validation, the others for training.

    Users with fewer than three interactions only train.
    """
    lengths = np.diff(interactions.splits)
    from_end = (interactions.splits[1:][interactions.users()] - 1) - np.arange(len(interactions.items))
    enough = (lengths >= 3)[interactions.users()]
    return HistorySplit(
        interactions.where(~enough | (from_end >= 2)),
        interactions.where(enough & (from_end == 1)),
        interactions.where(enough & (from_end == 0)),
    )


def split_by_time(interactions: Interactions, validation: float = 0.1, test: float = 0.1) -> HistorySplit:
    """Return a global split: the newest share of all interactions tests, the share before validates.

    Raises
    ------
    InvalidInputError
        Shares out of range, or an interaction without a time.

    Notes
    -----
    Interactions of one moment stay on one side (the earlier one).
    """
    _check_shares(validation, test)
    times = interactions.times
    if len(times) == 0 or times.min() < 0:
        raise InvalidInputError(
            f"{int((times < 0).sum())} of {len(times)} interactions have no time: a split by time needs all of them; "
            "use leave_one_out, and say so with every figure"
        )
    ranked = np.sort(times)
    n = len(ranked)
    first = ranked[max(0, round(n * (1 - validation - test)) - 1)]
    second = ranked[max(0, round(n * (1 - test)) - 1)]
    return HistorySplit(
        interactions.where(times <= first),
        interactions.where((times > first) & (times <= second)),
        interactions.where(times > second),
    )


def split_last_share(interactions: Interactions, share: float = 0.1, *, seed: int | None = None) -> HistorySplit:
    """Return a part of every history for validation, nothing for testing: to tune on data that comes without times.

    Parameters
    ----------
    interactions : Interactions
        What may be learnt from.
    share : float
        Of each history, rounded down; a history keeps at least one item.
    seed : int, optional
        Random items of each history; without it the last ones.
    """
    _check_shares(share, 0)
    n = len(interactions.items)
    keys = np.arange(n) if seed is None else np.random.default_rng(seed).random(n)
    order = np.lexsort((keys, interactions.users()))
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n) - interactions.splits[:-1][interactions.users()]
    lengths = np.diff(interactions.splits)
    held = np.minimum((lengths * share).astype(np.int64), np.maximum(lengths - 1, 0))
    chosen = rank >= (lengths - held)[interactions.users()]
    nothing = np.zeros(n, bool)
    return HistorySplit(interactions.where(~chosen), interactions.where(chosen), interactions.where(nothing))


def _check_shares(validation: float, test: float) -> None:
    if not (0 <= validation < 1 and 0 <= test < 1 and 0 < validation + test < 1):
        raise InvalidInputError(
            f"shares must be from 0 and below 1, together above 0 and below 1, got {validation} and {test}"
        )
