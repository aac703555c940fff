"""What a request asks, in the positions of the catalogue: bad ids are left out here and told."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog import ItemTable
from aitems_engine.events import Interactions
from aitems_engine.recommendation.pool import IntVector
from aitems_engine.recommendation.request import HistoryEvent, Request, decode_cursor

# the newest events of a history that retrievers and features see
HISTORY_LIMIT = 1000


@dataclass(frozen=True, eq=False)
class Asked:
    """A request as positions in the catalogue: what it brought, and what was left out of it."""

    request: Request
    history: IntVector
    times: npt.NDArray[np.int64]
    bought: IntVector
    excluded: IntVector
    shown: list[str]
    """Items of earlier pages, known or not."""
    previous: IntVector
    """Those of them that the catalogue has."""
    flags: list[str]

    @classmethod
    def of(
        cls, request: Request, items: ItemTable, histories: Interactions | None, rows_of_users: Mapping[str, int]
    ) -> Asked:
        """Return a request over a catalogue, with the stored history of its user where it brings none."""
        flags: list[str] = []
        if request.timestamp is None or request.request_id is None:
            now = int(time.time() * 1000) if request.timestamp is None else request.timestamp
            request = replace(request, timestamp=now, request_id=request.request_id or secrets.token_hex(8))
        positions = items.positions_by_id
        bought = np.zeros(0, np.int32)
        known = rows_of_users.get(request.user_id or "") if not request.history else None
        if known is not None and histories is not None:
            stored = slice(*histories.splits[known : known + 2].tolist())
            history, times = histories.items[stored], histories.times[stored]
            if histories.bought is not None:
                bought = history[histories.bought[stored]]
        else:
            places, when, purchased = [], [], []
            for event in request.history[-HISTORY_LIMIT:]:
                item, at = (event, -1) if isinstance(event, str) else (event.item_id, event.timestamp)
                place = positions.get(item)
                if place is not None:
                    places.append(place)
                    when.append(at)
                    if isinstance(event, HistoryEvent) and event.event_type == "purchase":
                        purchased.append(place)
            history, times = np.array(places, np.int32), np.array(when, np.int64)
            bought = np.array(purchased, np.int32)
            unknown = min(len(request.history), HISTORY_LIMIT) - len(history)
            if unknown:
                flags.append(f"{unknown} events of the history are of items that the catalogue lacks")
            if len(request.history) > HISTORY_LIMIT:
                flags.append(f"the history has {len(request.history)} events; the newest {HISTORY_LIMIT} are used")
        shown = decode_cursor(request.cursor) if request.cursor else []
        excluded, previous = items.positions(request.exclude), items.positions(shown)
        return cls(
            request,
            history[-HISTORY_LIMIT:],
            times[-HISTORY_LIMIT:],
            bought,
            excluded[excluded >= 0],
            shown,
            previous[previous >= 0],
            flags,
        )
