"""Impressions of event files, and the examples made of them: nothing of later, and the same features as in serving."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.events.impressions import ImpressionLog, read_impressions
from aitems_engine.ranking import FeatureConfig, FeatureQuery
from aitems_engine.ranking.examples import DAY_MS, counts_at, impressions_query, labels, split_examples

pytestmark = pytest.mark.native
T0 = 1_600_000_000_000


def random_events(seed: int, count: int = 900) -> list[tuple[str, str, str, int, str, int]]:
    """Return (type, user, item, time, session, position), many at equal times, in no order."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["impression", "click", "purchase", "cart"], count, p=[0.6, 0.25, 0.1, 0.05])
    return [
        (
            str(kinds[i]),
            f"u{rng.integers(8)}",
            f"i{rng.integers(13)}",
            T0 + int(rng.integers(60)) * DAY_MS // 2,
            f"s{rng.integers(4)}",
            int(rng.integers(1, 9)),
        )
        for i in range(count)
    ]


def catalogue() -> ItemTable:
    return ItemTable.from_columns(
        [f"i{i}" for i in range(12)],
        {"category": [f"c{i % 4}" for i in range(12)]},
        {"price": np.arange(12) + 1.0},
        np.full(12, T0),
    )


def log_of(events: list[tuple[str, str, str, int, str, int]]) -> ImpressionLog:
    types, users, items, times, sessions, positions = zip(*events, strict=True)
    return ImpressionLog.from_events(
        catalogue().item_ids,
        types,
        users,
        items,
        np.array(times),
        sessions=sessions,
        positions=np.array(positions),
        context={"placement": ["home"] * len(events)},
    )


@pytest.mark.parametrize("seed", range(4))
def test_clicks_and_purchases_find_their_impressions(seed: int) -> None:
    """Every impression against the definition, event by event."""
    events = [e for e in random_events(seed) if e[2] != "i12"]
    # no two of a kind at one time, or the newest one is not one
    events = list({(e[0], e[1], e[2], e[3], e[4]): e for e in events}.values())
    log = log_of(events)
    shown = [e for e in events if e[0] == "impression"]
    assert len(log) == len(shown)
    expected: dict[tuple[str, str, int, str], tuple[int, int]] = {(e[1], e[2], e[3], e[4]): (-1, -1) for e in shown}
    clicked: dict[int, tuple[str, str, int, str]] = {}
    for n, click in enumerate(events):
        if click[0] == "click":
            before = [e for e in shown if (e[1], e[2], e[4]) == (click[1], click[2], click[4]) and e[3] <= click[3]]
            if before:
                last = max(before, key=lambda e: e[3])
                key = clicked[n] = (last[1], last[2], last[3], last[4])
                first = expected[key][0]
                expected[key] = (click[3] if first < 0 else min(first, click[3]), -1)
    found = {
        (log.user_ids[log.page_users[p]], log.item_ids[log.items[i]], int(log.page_times[p])): int(log.clicked_at[i])
        for p in range(len(log.page_times))
        for i in range(log.pages[p], log.pages[p + 1])
    }
    wanted: dict[tuple[str, str, int], set[int]] = {}
    for (user, item, time, _), (at, _) in expected.items():
        wanted.setdefault((user, item, time), set()).add(at)
    assert found.keys() == wanted.keys()
    for key, at in found.items():
        assert at in wanted[key]
    assert np.count_nonzero(log.clicked_at >= 0) == sum(at >= 0 for at, _ in expected.values())
    assert ((log.purchased_at < 0) | (log.purchased_at >= log.clicked_at)).all()
    assert (log.purchased_at[log.clicked_at < 0] == -1).all()
    assert log.counts["purchases_without_click"] < sum(e[0] == "purchase" for e in events)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_later_is_known(seed: int) -> None:
    log = log_of(random_events(seed))
    query = impressions_query(log)
    for page in range(len(log.page_times)):
        now = log.page_times[page]
        own = slice(int(query.begins[page]), int(query.ends[page]))
        assert (query.event_times[own] < now).all()
        user = int(log.page_users[page])
        earlier = log.histories.times[log.histories.splits[user] : log.histories.splits[user + 1]]
        assert own.stop - own.start == (earlier < now).sum()
        for i in range(log.pages[page], log.pages[page + 1]):
            assert query.counts is not None
            item = log.items[i]
            assert query.counts[i].tolist() == [
                int(((log.items == item) & (log.times < now)).sum()),
                int(((log.clicks.items == item) & (log.clicks.times < now)).sum()),
                int(((log.purchases.items == item) & (log.purchases.times < now)).sum()),
            ]


def test_serving_computes_what_training_saw() -> None:
    log = log_of(random_events(7))
    items = catalogue()
    config = FeatureConfig.default(items)
    split = split_examples(log, items, config)
    examples = {"train": split.train, "validation": split.validation, "test": split.test}
    spec = split.features.spec
    # the position is known in training only
    same = [i for i, name in enumerate(spec.code_names) if name != "position"]
    row = 0
    for side in examples.values():
        done = 0
        while done < len(side):
            page = int(np.searchsorted(log.pages, row, side="right")) - 1
            size = int(log.pages[page + 1] - log.pages[page])
            now = int(log.page_times[page])
            user = log.user_ids[log.page_users[page]]
            whole = log.histories.of_users([user])
            history = whole.where(whole.times < now)
            query = FeatureQuery.of(
                history,
                log.items[row : row + size],
                np.array([0, size]),
                np.array([now]),
                {"placement": ["home"]},
            )
            served = split.features.with_counts(counts_at(log, now)).gather(query)
            np.testing.assert_array_equal(served.codes[:, same], side.codes[done : done + size][:, same])
            np.testing.assert_array_equal(served.dense, side.dense[done : done + size])
            done, row = done + size, row + size
    assert row == len(log)


def test_the_split_is_by_time_and_labels_are_of_their_day() -> None:
    log = log_of(random_events(3))
    split = split_examples(log, catalogue(), FeatureConfig.default(catalogue()))
    assert split.train.time.max() < split.validation_begin <= split.validation.time.min()
    assert split.validation.time.max() < split.test_begin <= split.test.time.min()
    click, purchase, settled = labels(log, slice(0, len(log)), known_at=split.test_begin)
    later = log.clicked_at >= split.test_begin
    assert not click[later].any()
    assert not purchase[click == 0].any()
    open_still = (click > 0) & (purchase == 0) & (log.clicked_at + 7 * DAY_MS >= split.test_begin)
    assert (settled == ~open_still).all()
    assert open_still.any()


def test_too_little_to_split() -> None:
    with pytest.raises(InvalidInputError, match="do not suffice"):
        split_examples(log_of(random_events(0)[:3]), catalogue(), FeatureConfig.default(catalogue()))
    with pytest.raises(InvalidInputError, match="shares"):
        split_examples(log_of(random_events(0)), catalogue(), FeatureConfig.default(catalogue()), test=1.0)


def write(path: Path, rows: list[list[object]], header: str = "event_type,user_id,item_id,timestamp,position") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def test_searches_and_repeated_events_are_left_out(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["e1", "impression", "u1", "i1", T0, 1],
        ["e2", "search", "u1", "", T0 + 1, ""],
        ["e5", "dwell", "u1", "", T0 + 1, ""],
        ["e3", "click", "u1", "i1", T0 + 2, 1],
        ["e3", "click", "u1", "i1", T0 + 2, 1],
        ["e4", "impression", "u1", "ghost", T0 + 3, 1],
    ]
    log = read_impressions(
        write(tmp_path / "e.csv", rows, "event_id,event_type,user_id,item_id,timestamp,position"), ["i1"]
    )
    assert len(log) == 1
    assert log.clicked_at.tolist() == [T0 + 2]
    assert log.counts["repeated_event_ids"] == 1
    assert log.counts["unknown_items"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["impression", "u1", "", T0, 1], "line 3, column 'item_id': is empty"),
        (["impression", "", "i1", T0, 1], "column 'user_id': is empty"),
        (["impression", "u1", "i1", "", 1], "column 'timestamp': is empty"),
        (["", "u1", "i1", T0, 1], "column 'event_type': is empty"),
        (["look", "u1", "i1", T0, 1], "'look' is not one of"),
        (["impression", "u1", "i1", "yesterday", 1], "column 'timestamp'"),
        (["impression", "u1", "i1", T0, -3], "column 'position'"),
        (["impression", "u1", "i1", T0, 1.5], "column 'position'"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, row: list[object], message: str) -> None:
    rows: list[list[object]] = [["impression", "u1", "i1", T0, 1], row]
    with pytest.raises(DataError, match=message):
        read_impressions(write(tmp_path / "e.csv", rows), ["i1"])


def test_no_impressions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no impression"):
        read_impressions(write(tmp_path / "e.csv", [["click", "u1", "i1", T0, 1]]), ["i1"])
    with pytest.raises(DataError, match=r"no event|no impression"):
        read_impressions(write(tmp_path / "e.csv", []), ["i1"])
