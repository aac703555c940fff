"""What was shown, and what came of it: impressions with their clicks and purchases, and the histories beside them.

Nothing here knows features or models; labels are taken as of a time by whoever learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog.cells import Cells, identifier, name, time_ms, whole_number
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import iter_table
from aitems_engine.errors import DataError, InvalidInputError
from aitems_engine.events.interactions import Interactions, numbered
from aitems_engine.events.readers import EVENT_COLUMNS, EVENT_TYPES, POSITIVE_TYPES

IMPRESSION_COLUMNS: dict[str, tuple[str, ...]] = {
    **EVENT_COLUMNS,
    "session_id": ("session_id", "session", "visit_id", "request_id"),
    "placement": ("placement", "surface", "page_type", "slot_group"),
    "position": ("position", "rank", "slot", "pos"),
}
_REQUIRED = ("event_type", "user_id", "item_id", "timestamp")
_PARSERS = {
    **dict.fromkeys(("event_id", "user_id", "item_id", "session_id"), identifier),
    **dict.fromkeys(("event_type", "placement"), name),
    "timestamp": time_ms,
    "position": whole_number,
}
_BATCH = 65_536
_NEVER = -1
_PURCHASE = EVENT_TYPES.index("purchase")
# events that may be of no item: they are left out
_WITHOUT = frozenset(EVENT_TYPES) - {"impression", *POSITIVE_TYPES}
IntVector = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemEvents:
    """Events of one type as columns, in the order of time: what happened to which item, when."""

    items: IntVector
    times: Times


@dataclass(frozen=True, eq=False)
class ImpressionLog:
    """Impressions in the order of time, page by page.

    Attributes
    ----------
    item_ids, user_ids : list of str
        What positions stand for; `item_ids` is the catalogue.
    pages : int64 array, shape (num_pages + 1,)
        Page p is the impressions from ``pages[p]`` to ``pages[p + 1]``: what one user saw at one time in one place.
    page_users : int32 array, shape (num_pages,)
    page_times : int64 array, shape (num_pages,)
        Milliseconds since 1970 (UTC), not falling.
    context : mapping of name to texts, one a page
    items, positions : int32 arrays, shape (n,)
        A position counts from 1; 0 unknown.
    clicked_at, purchased_at : int64 arrays, shape (n,)
        When it was clicked, and when what was clicked was bought first, however much later; -1 never.
    histories : Interactions
        All events that say that a user wanted an item, of exactly `user_ids` and `item_ids`.
    clicks, purchases : ItemEvents
        All of them, from an impression or not.
    counts : mapping of str to int
        What was seen when the log was made: events left out, and clicks or purchases that belong to no impression.
    """

    item_ids: list[str]
    user_ids: list[str]
    pages: Times
    page_users: IntVector
    page_times: Times
    context: Mapping[str, list[str | None]]
    items: IntVector
    positions: IntVector
    clicked_at: Times
    purchased_at: Times
    histories: Interactions
    clicks: ItemEvents
    purchases: ItemEvents
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def times(self) -> Times:
        """Time of each impression, int64 (n,)."""
        return np.repeat(self.page_times, np.diff(self.pages))

    @classmethod
    def from_events(
        cls,
        item_ids: Sequence[str],
        types: Sequence[str],
        users: Sequence[str],
        items: Sequence[str],
        times: Times,
        *,
        sessions: Sequence[str | None] | None = None,
        positions: npt.NDArray[np.integer[Any]] | None = None,
        context: Mapping[str, Sequence[str | None]] | None = None,
    ) -> ImpressionLog:
        """Return the log of events in any order.

        Parameters
        ----------
        item_ids : sequence of str
            The catalogue; events of other items are left out.
        types, users, items, times, sessions, positions : columns of one length
            Types as in `EVENT_TYPES`; times in milliseconds.
        context : mapping of name to texts, one an event
            Told of impressions; other events may have None.

        Raises
        ------
        InvalidInputError
            Columns of several lengths, an event without a time, or no impression.

        Notes
        -----
        A click belongs to the user's newest impression of the item in the same session up to then; a purchase to the
        newest click of the same user and item up to then, in any session.
        """
        n = len(types)
        context = context or {}
        sessions = [None] * n if sessions is None else sessions
        place = np.zeros(n, np.int64) if positions is None else np.asarray(positions)
        when = np.asarray(times, np.int64)
        columns = (users, items, when, sessions, place, *context.values())
        if any(len(column) != n for column in columns):
            raise InvalidInputError(f"columns must have one length, got {[n, *map(len, columns)]}")
        if n and when.min() < 0:
            raise InvalidInputError(f"{int((when < 0).sum())} of {n} events have no time; all need one")
        position_of = {item: i for i, item in enumerate(item_ids)}
        item = np.fromiter((position_of.get(i, -1) for i in items), np.int32, n)
        kind = np.fromiter((EVENT_TYPES.index(t) if t in EVENT_TYPES else -1 for t in types), np.int8, n)
        if (kind < 0).any():
            wrong = types[int(np.argmin(kind))]
            raise InvalidInputError(f"event types are {', '.join(EVENT_TYPES)}, got '{wrong[:40]}'")
        user_ids, user = numbered(users)
        _, session = numbered(sessions)
        known = item >= 0
        shown, clicked, bought = (np.flatnonzero(known & (kind == EVENT_TYPES.index(t))) for t in _KINDS)
        if not len(shown):
            raise InvalidInputError(f"no impression of an item of the catalogue among {n} events")

        codes = {label: numbered(values)[1][shown] for label, values in context.items()}
        keys = (place[shown], item[shown], *codes.values(), session[shown], user[shown], when[shown])
        shown = shown[np.lexsort(keys)]
        codes = {label: numbered(values)[1][shown] for label, values in context.items()}
        new = np.ones(len(shown), bool)
        new[1:] = False
        for column in (when[shown], user[shown], session[shown], *codes.values()):
            new[1:] |= column[1:] != column[:-1]
        first = shown[new]

        pair = grouped(user, item)
        visit = grouped(pair, session)
        impression_of = newest_before(visit[shown], when[shown], visit[clicked], when[clicked])
        clicked_at = _first(when[clicked], impression_of, len(shown))
        order = np.argsort(when[clicked], kind="stable")
        click_of = newest_before(pair[clicked[order]], when[clicked[order]], pair[bought], when[bought])
        through = np.where(click_of >= 0, impression_of[order[click_of]] if len(order) else -1, -1)
        purchased_at = _first(when[bought], through, len(shown))

        wanted = np.flatnonzero(np.isin(kind, [EVENT_TYPES.index(t) for t in POSITIVE_TYPES]) & known)
        wanted = wanted[np.lexsort((when[wanted], user[wanted]))]
        splits = np.concatenate([[0], np.cumsum(np.bincount(user[wanted], minlength=len(user_ids)))]).astype(np.int64)
        catalogue = list(item_ids)
        return cls(
            catalogue,
            user_ids,
            np.append(np.flatnonzero(new), len(shown)).astype(np.int64),
            user[first].astype(np.int32),
            when[first],
            {label: [values[i] for i in first.tolist()] for label, values in context.items()},
            item[shown],
            place[shown].astype(np.int32),
            clicked_at,
            purchased_at,
            Interactions(
                user_ids,
                catalogue,
                splits,
                item[wanted],
                when[wanted],
                {},
                kind[wanted] == _PURCHASE,
            ),
            _events(item, when, clicked),
            _events(item, when, bought),
            {
                "events": n,
                "unknown_items": int((~known).sum()),
                "clicks_without_impression": int((impression_of < 0).sum()),
                "purchases_without_click": int((click_of < 0).sum()),
            },
        )


_KINDS = ("impression", "click", "purchase")


def read_impressions(
    path: str | Path,
    item_ids: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    context: Sequence[str] = (),
) -> ImpressionLog:
    """Read the impressions of an event file.

    Parameters
    ----------
    path : path
        `.parquet`, `.csv`, `.tsv`, `.jsonl` (text also as .gz) with `event_type`, `user_id`, `item_id`, `timestamp`;
        and `session_id`, `placement`, `position`, `event_id` where there are any.
    item_ids : sequence of str
        The catalogue; events of other items are left out and counted. Searches and dwell events may be of no item.
    columns : mapping of field to column name, optional
        Where a name cannot be guessed.
    context : sequence of str
        Further columns of text that say something of the request, by their names in the file.

    Returns
    -------
    ImpressionLog
        Its context has `placement`, `user_id` and the named columns.

    Raises
    ------
    DataError
        What is wrong, with file, row and column; or no impression.
    """
    path = Path(path)
    table: dict[str, list[Any]] = {}
    seen: set[str] = set()
    repeated = 0
    for batch in iter_table(path, _BATCH, select=lambda names: _wanted(names, columns, context, path.name)):
        found = match_columns(list(batch.columns), columns, _REQUIRED, path.name, IMPRESSION_COLUMNS)
        cells = {label: Cells(batch, column, path.name) for label, column in found.items()}
        values = {label: one.convert(_PARSERS[label]) for label, one in cells.items()}
        values |= {label: Cells(batch, label, path.name).convert(name) for label in context}
        kinds = values["event_type"] = [kind and kind.lower() for kind in values["event_type"]]
        # what was looked for, or a stay on a page of no item
        about = [item is not None or kind not in _WITHOUT for item, kind in zip(values["item_id"], kinds, strict=True)]
        for label in _REQUIRED:
            empty = -1 if label == "timestamp" else None
            for row, value in enumerate(values[label]):
                if value == empty and about[row]:
                    raise cells[label].error(row, "is empty")
        for row, kind in enumerate(kinds):
            if kind not in EVENT_TYPES:
                raise cells["event_type"].error(row, f"'{str(kind)[:40]}' is not one of {', '.join(EVENT_TYPES)}")
        events = values.pop("event_id", [None] * len(kinds))
        fresh = [e is None or not (e in seen or seen.add(e)) for e in events]  # type: ignore[func-returns-value]
        repeated += len(fresh) - sum(fresh)
        kept = [a and f for a, f in zip(about, fresh, strict=True)]
        values = {label: [v for v, k in zip(column, kept, strict=True) if k] for label, column in values.items()}
        for label, column in values.items():
            table.setdefault(label, []).extend(column)
    if not table:
        raise DataError(f"{path.name}: the file has no event")
    told = {label: table[label] for label in ("placement", *context) if label in table}
    try:
        log = ImpressionLog.from_events(
            item_ids,
            table["event_type"],
            table["user_id"],
            table["item_id"],
            np.array(table["timestamp"], np.int64),
            sessions=table.get("session_id"),
            positions=np.array(table["position"], np.int64) if "position" in table else None,
            context={**told, "user_id": table["user_id"]},
        )
    except InvalidInputError as error:
        raise DataError(f"{path.name}: {error}") from None
    return ImpressionLog(**{**vars(log), "counts": {**log.counts, "repeated_event_ids": repeated}})


def _wanted(names: Sequence[str], columns: Mapping[str, str] | None, context: Sequence[str], source: str) -> set[str]:
    found = set(match_columns(names, columns, _REQUIRED, source, IMPRESSION_COLUMNS).values())
    for label in context:
        if label not in names:
            raise DataError(f"{source}: no column '{label[:60]}' for the context; found {', '.join(names)[:400]}")
    return found | set(context)


def grouped(first: npt.NDArray[np.integer[Any]], second: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return the number of each pair."""
    if not len(first):
        return np.zeros(0, np.int64)
    joined = first.astype(np.int64) * (int(second.max()) + 2) + second + 1
    return np.unique(joined, return_inverse=True)[1].astype(np.int64)


def newest_before(
    groups: npt.NDArray[np.int64], times: Times, asked_groups: npt.NDArray[np.int64], asked_times: Times
) -> npt.NDArray[np.int64]:
    """Return for each question the last row of its group that is not later, in the order of time and place; or -1."""
    n = len(groups)
    every = np.concatenate([groups, asked_groups]), np.concatenate([times, asked_times])
    asked = np.repeat([False, True], [n, len(asked_groups)])
    order = np.lexsort((asked, every[1], every[0]))
    rows = np.where(asked[order], -1, np.arange(len(order)))
    last = np.maximum.accumulate(rows) if len(rows) else rows
    newest = np.where(last >= 0, order[last], -1)
    same = (newest >= 0) & (every[0][newest] == every[0][order])
    found = np.full(len(asked_groups), -1, np.int64)
    found[order[asked[order]] - n] = np.where(same, newest, -1)[asked[order]]
    return found


def _first(times: Times, rows: npt.NDArray[np.int64], count: int) -> Times:
    """Return the earliest time for each row, -1 where there is none."""
    earliest = np.full(count, np.iinfo(np.int64).max)
    belongs = rows >= 0
    np.minimum.at(earliest, rows[belongs], times[belongs])
    return np.where(earliest == np.iinfo(np.int64).max, _NEVER, earliest)


def _events(item: IntVector, when: Times, rows: npt.NDArray[np.int64]) -> ItemEvents:
    rows = rows[np.argsort(when[rows], kind="stable")]
    return ItemEvents(item[rows], when[rows])
