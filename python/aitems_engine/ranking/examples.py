"""Impressions -> examples to learn from: features and labels as they stood at the time, nothing of later.

A row's history ends before its impression, its item's counts are of events before it, and its labels are what was known
at the end of its side of the split. Serving computes the same features for a request at that time (`FeatureQuery`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.items import ItemTable
from aitems_engine.errors import InvalidInputError
from aitems_engine.events.impressions import ImpressionLog
from aitems_engine.ranking.batches import Examples
from aitems_engine.ranking.declaration import FeatureConfig
from aitems_engine.ranking.features import Counts, FeatureQuery, FeatureSet

Times = npt.NDArray[np.int64]
DAY_MS = 86_400_000
WINDOW_MS = 7 * DAY_MS


@dataclass(frozen=True, eq=False)
class ExampleSplit:
    """Examples of one log, split by time; the features were fitted on the training side.

    Attributes
    ----------
    features : FeatureSet
        Its counts are those at the end of validation: what a shop would serve with when the test begins.
    train, validation, test : Examples
    validation_begin, test_begin : int
        Milliseconds since 1970: the first impression of that side.
    """

    features: FeatureSet
    train: Examples
    validation: Examples
    test: Examples
    validation_begin: int
    test_begin: int


def split_examples(
    log: ImpressionLog,
    items: ItemTable,
    config: FeatureConfig,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    window_ms: int = WINDOW_MS,
    threads: int = 1,
) -> ExampleSplit:
    """Return examples for training, and for judging what it gave on later impressions.

    Parameters
    ----------
    log : ImpressionLog
        Over `items`.
    items : ItemTable
    config : FeatureConfig
    validation, test : float
        Shares of the impressions, the newest for the test; pages stay whole, and so do equal times.
    window_ms : int
        A purchase counts when it came within this time after the click.
    threads : int
        0 = all cores.

    Notes
    -----
    Purchases are labelled as known when the test begins, for training and validation alike, and as known at the end of
    the log for the test. Counts of items go on during the test, as in a shop that refreshes them.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise InvalidInputError(f"shares must be above 0, together below 1, got {validation} and {test}")
    ends = log.pages[1:] / len(log)
    times = log.page_times
    first = times[min(int(np.searchsorted(ends, 1 - validation - test)), len(times) - 1)]
    second = times[min(int(np.searchsorted(ends, 1 - test)), len(times) - 1)]
    to_validation, to_test = (int(np.searchsorted(times, t, side="right")) for t in (first, second))
    if not 0 < to_validation < to_test < len(times):
        raise InvalidInputError(f"{len(times)} pages do not suffice for a split by time into three")
    starts = [int(times[p]) for p in (to_validation, to_test)]
    query = impressions_query(log)
    features = FeatureSet.fit(config, items, query.requests(0, to_validation), counts_at(log, starts[1]))
    whole = features.gather(query, threads=threads)

    def side(begin: int, end: int, known_at: int | None) -> Examples:
        rows = slice(int(log.pages[begin]), int(log.pages[end]))
        click, purchase, known = labels(log, rows, known_at=known_at, window_ms=window_ms)
        users = np.repeat(log.page_users[begin:end], np.diff(log.pages[begin : end + 1]))
        codes, dense = whole.codes[rows], whole.dense[rows]
        return Examples(codes, dense, click, purchase, users.astype(np.int64), log.times[rows], known)

    return ExampleSplit(
        features,
        side(0, to_validation, starts[1]),
        side(to_validation, to_test, starts[1]),
        side(to_test, len(times), None),
        *starts,
    )


def impressions_query(log: ImpressionLog) -> FeatureQuery:
    """Return the pages of a log as requests, with histories and counts as of each."""
    histories = log.histories
    users, times = log.page_users, log.page_times
    begins = histories.splits[users]
    ends = begins + _before(histories.users(), histories.times, users, times)
    return FeatureQuery(
        histories.items,
        histories.times,
        begins,
        ends,
        times,
        log.items,
        log.pages,
        log.context,
        log.positions,
        _counts_before(log, log.items, log.times),
    )


def counts_at(log: ImpressionLog, time: int) -> Counts:
    """Return impressions, clicks and purchases of each item before a time, int64 (num_items, 3)."""
    items = np.arange(len(log.item_ids), dtype=np.int32)
    return _counts_before(log, items, np.full(len(items), time, np.int64))


def labels(
    log: ImpressionLog, rows: slice, *, known_at: int | None = None, window_ms: int = WINDOW_MS
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return click, purchase, and whether the purchase is settled, of some impressions.

    Parameters
    ----------
    log : ImpressionLog
    rows : slice
        Of the impressions.
    known_at : int, optional
        Only what happened before this time is known; without it, before the end of the log.
    window_ms : int
        A purchase counts when it came within this time after the click.
    """
    clicked_at, purchased_at = log.clicked_at[rows], log.purchased_at[rows]
    newest = max(int(t[-1]) if len(t) else 0 for t in (log.page_times, log.clicks.times, log.purchases.times))
    now = newest + 1 if known_at is None else known_at
    click = (clicked_at >= 0) & (clicked_at < now)
    in_window = (purchased_at >= 0) & (purchased_at - clicked_at <= window_ms)
    purchase = click & in_window & (purchased_at < now)
    settled = ~click | purchase | (clicked_at + window_ms < now)
    return click.astype(np.float32), purchase.astype(np.float32), settled


def _counts_before(log: ImpressionLog, items: npt.NDArray[np.int32], times: Times) -> Counts:
    kinds = ((log.items, log.times), (log.clicks.items, log.clicks.times), (log.purchases.items, log.purchases.times))
    return np.stack([_before(of, when, items, times) for of, when in kinds], axis=1)


def _before(
    groups: npt.NDArray[np.integer[Any]], times: Times, asked: npt.NDArray[np.integer[Any]], asked_times: Times
) -> Times:
    """Return how many rows of each asked group are strictly earlier than the asked time."""
    moments = np.unique(np.concatenate([times, asked_times]))
    # one number a (group, moment), so that one search answers all
    rows = groups.astype(np.int64) * (len(moments) + 1)
    key = np.sort(rows + np.searchsorted(moments, times))
    start = asked.astype(np.int64) * (len(moments) + 1)
    found = np.searchsorted(key, start + np.searchsorted(moments, asked_times))
    return (found - np.searchsorted(key, start)).astype(np.int64)
