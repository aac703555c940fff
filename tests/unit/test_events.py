"""Files of events and their splits: what is read, what is refused, and that no split lets the future in."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.events import Interactions, leave_one_out, read_interactions, split_by_time, split_last_share


def as_dict(x: Interactions) -> dict[str, list[str]]:
    return {user: [x.item_ids[i] for i in x.history(u)] for u, user in enumerate(x.user_ids)}


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("u1 a b\nu2 c\n\nu1 a\n", encoding="utf-8")
    assert as_dict(read_interactions(path)) == {"u1": ["a", "b", "a"], "u2": ["c"]}


EVENTS = [
    {"event_id": "1", "event_type": "click", "user_id": "u", "item_id": "b", "timestamp": 20},
    {"event_id": "2", "event_type": "click", "user_id": "u", "item_id": "a", "timestamp": 10},
    {"event_id": "2", "event_type": "click", "user_id": "u", "item_id": "a", "timestamp": 10},
    {"event_id": "3", "event_type": "impression", "user_id": "u", "item_id": "c", "timestamp": 30},
    {"event_id": "4", "event_type": "PURCHASE", "user_id": "v", "item_id": "b", "timestamp": 5},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz"])
def test_event_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"events{suffix}"
    names = list(EVENTS[0])
    if "jsonl" in suffix:
        data = "".join(json.dumps(e) + "\n" for e in EVENTS).encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    elif suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(EVENTS), path)
    else:
        separator = "\t" if suffix == ".tsv" else ","
        rows = [names, *([str(e[n]) for n in names] for e in EVENTS)]
        path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    x = read_interactions(path)
    assert as_dict(x) == {"u": ["a", "b"], "v": ["b"]}
    assert x.times.tolist() == [10_000, 20_000, 5_000]
    assert x.counts == {"events": 3, "rows": 5, "other_types": 1, "repeated_event_ids": 1, "out_of_order": 1}
    assert as_dict(read_interactions(path, event_types=["impression"])) == {"u": ["c"]}


def test_atomic_files(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    path.write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t3\t5\t2.0\n7\t9\t1\t1.5e0\n8\t3\t2\t3\n"
    )
    with pytest.raises(DataError, match="line 3, column 'timestamp'"):
        read_interactions(path)
    path.write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t3\t5\t2.0\n7\t9\t1\t1.5\n8\t3\t2\t3\n"
    )
    assert as_dict(read_interactions(path)) == {"7": ["9", "3"], "8": ["3"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no interaction"),
        ("a.txt", b"u1 a\nu2\n", "line 2: 'u2' has no item"),
        ("a.txt", b"u1 \xff\xfe\n", "line 1: not UTF-8"),
        ("a.txt", b"u " + b"x" * (5 << 20), "line 1: the line is longer"),
        ("a.csv", b"user_id,thing\nu,a\n", "no column for field 'item_id'.*thing"),
        ("a.csv", b"user_id,item_id\nu,\n", "line 2, column 'item_id': is empty"),
        ("a.csv", b"user_id,item_id,event_type\nu,a,bought\n", "line 2, column 'event_type': 'bought' is not one of"),
        ("a.csv", b"user_id,item_id,timestamp\nu,a,nan\n", "line 2, column 'timestamp'"),
        ("a.csv", b"user_id,item_id,event_type\nu,a,search\n", "no interaction left of 1 rows"),
        ("a.jsonl", b'{"user_id": ["u"], "item_id": "a"}\n', "line 1, column 'user_id': must be text"),
        ("a.inter", b"user_id:token\titem_id:token\n1\n", "line 2: 1 fields, but the header has 2"),
        ("a.xlsx", b"x", "must end with"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((DataError, InvalidInputError), match=message):
        read_interactions(path)


def test_wrong_event_types() -> None:
    with pytest.raises(InvalidInputError, match="got view"):
        read_interactions("x.csv", event_types=["view"])
    with pytest.raises(InvalidInputError, match="got none"):
        read_interactions("x.csv", event_types=[])


@st.composite
def histories(draw: st.DrawFn) -> Interactions:
    events = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=40))
    users, items, times = zip(*events, strict=True)
    return Interactions.from_events([f"u{u}" for u in users], [f"i{i}" for i in items], np.array(times, np.int64))


@given(histories())
def test_histories_are_in_order(x: Interactions) -> None:
    for u in range(len(x)):
        assert (np.diff(x.times[x.splits[u] : x.splits[u + 1]]) >= 0).all()


@given(histories())
def test_leave_one_out(x: Interactions) -> None:
    split = leave_one_out(x)
    assert split.leaks() == []
    for u in range(len(x)):
        train, *others = (side.history(u).tolist() for side in (split.train, split.validation, split.test))
        assert [*train, *others[0], *others[1]] == x.history(u).tolist()
        assert [len(p) for p in others] == ([1, 1] if len(x.history(u)) >= 3 else [0, 0])


@given(histories(), st.floats(0, 0.4), st.floats(0.05, 0.4))
def test_split_by_time(x: Interactions, validation: float, test: float) -> None:
    split = split_by_time(x, validation, test)
    assert split.leaks() == []
    sides = [split.train, split.validation, split.test]
    assert sum(len(s.items) for s in sides) == len(x.items)
    edges = [(s.times.min(), s.times.max()) for s in sides if len(s.items)]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(edges))


@given(histories(), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([None, 3]))
def test_split_last_share(x: Interactions, share: float, seed: int | None) -> None:
    split = split_last_share(x, share, seed=seed)
    for u in range(len(x)):
        kept, held = split.train.history(u).tolist(), split.validation.history(u).tolist()
        assert sorted(kept + held) == sorted(x.history(u).tolist())
        assert len(kept) >= 1
        assert len(held) == min(int(len(x.history(u)) * share), len(x.history(u)) - 1)
        if seed is None:
            assert kept + held == x.history(u).tolist()


def test_a_leak_is_found() -> None:
    x = Interactions.from_events(["u"] * 4, list("abcd"), np.array([1, 2, 3, 4]))
    split = leave_one_out(x)
    swapped = type(split)(split.test, split.validation, split.train)
    assert any("older" in leak for leak in swapped.leaks())


def test_times_are_needed() -> None:
    x = Interactions.from_events(["u", "u"], ["a", "b"])
    with pytest.raises(InvalidInputError, match="2 of 2 interactions have no time"):
        split_by_time(x)
    with pytest.raises(InvalidInputError, match="shares"):
        split_by_time(x, 0.5, 0.5)


@given(histories(), st.lists(st.sampled_from([f"i{i}" for i in range(10)]), unique=True))
def test_another_catalogue(x: Interactions, item_ids: list[str]) -> None:
    moved = x.over(item_ids)
    expected = {u: [i for i in items if i in item_ids] for u, items in as_dict(x).items()}
    assert as_dict(moved) == expected
    assert moved.counts["unknown_items"] == len(x.items) - len(moved.items)


@given(histories(), st.lists(st.sampled_from([f"u{u}" for u in range(8)]), unique=True))
def test_other_users(x: Interactions, user_ids: list[str]) -> None:
    assert as_dict(x.of_users(user_ids)) == {u: as_dict(x).get(u, []) for u in user_ids}


def test_misshapen_histories_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="splits must ascend"):
        Interactions(["u"], ["a"], np.array([0, 2]), np.array([0], np.int32), np.array([1]))
    with pytest.raises(InvalidInputError, match="positions from 0 to 0"):
        Interactions(["u"], ["a"], np.array([0, 1]), np.array([1], np.int32), np.array([1]))
    with pytest.raises(InvalidInputError, match="one length"):
        Interactions.from_events(["u"], [])
