"""How probable it is that whoever asks knows what they want, from the request alone: a replay finds the same.

Signals are the numbers `query_specificity`, `filters`, `depth` and `dwell_s` of its context; where those are not there,
the specificity of its `query`, learnt from the log of the shop, the pages that its cursor carries, and the dwell events
of the running session in its history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from aitems_engine.catalog import ItemTable
from aitems_engine.catalog.cells import Cells, identifier, name
from aitems_engine.catalog.columns import match_columns
from aitems_engine.catalog.tables import iter_table
from aitems_engine.events.readers import EVENT_COLUMNS
from aitems_engine.recommendation.request import HistoryEvent, Request
from aitems_engine.rerank import UserModeModel

# a session ends where nothing happens for so long
SESSION_GAP_MS = 30 * 60_000
MIN_CLICKS = 5
_COLUMNS = {"query": ("query", "search_query", "keyword"), **EVENT_COLUMNS}
_BATCH = 65_536


@dataclass(frozen=True, eq=False)
class UserMode:
    """A model with what it takes to find its signals in a request.

    Attributes
    ----------
    model : UserModeModel
    queries : mapping of query to float
        Specificity, see `query_specificity`; another query counts as the mean of these.
    """

    model: UserModeModel
    queries: Mapping[str, float]

    def probability(self, request: Request, shown: int) -> float:
        """Return P(goal-oriented); `shown` is how many items the pages before this one had."""
        found = {
            "query_specificity": self._specificity(request.context.get("query")),
            "depth": -(-shown // request.k),
            "dwell_s": mean_dwell_s(request),
        }
        given = {key: value for key, value in request.context.items() if not isinstance(value, str)}
        return self.model.probability({**found, **given})

    def _specificity(self, query: object) -> float:
        text = _normal(query) if isinstance(query, str) else ""
        return self.queries.get(text, self._mean) if text else 0.0

    @cached_property
    def _mean(self) -> float:
        return sum(self.queries.values()) / max(len(self.queries), 1)


def mean_dwell_s(request: Request) -> float:
    """Return the mean of the dwell events of the running session, which ends at the request; 0 without any."""
    seconds: list[float] = []
    after = request.timestamp or 0
    for event in reversed(request.history):
        if not isinstance(event, HistoryEvent) or event.timestamp < 0 or after - event.timestamp > SESSION_GAP_MS:
            break
        after = event.timestamp
        if event.event_type == "dwell" and event.value is not None:
            seconds.append(event.value)
    return sum(seconds) / len(seconds) if seconds else 0.0


def query_specificity(clicks: Iterable[tuple[str, int]], categories: int) -> dict[str, float]:
    """Return 1 - H / log(categories) of each query, H the entropy of the categories that were clicked after it.

    Parameters
    ----------
    clicks : iterable of (query, code of the clicked item's category)
        Unknown categories (-1) do not count; queries with fewer than MIN_CLICKS are left out.
    categories : int
        How many there are.
    """
    counts: dict[str, Counter[int]] = {}
    for query, category in clicks:
        if category >= 0 and _normal(query):
            counts.setdefault(_normal(query), Counter())[category] += 1
    found = {}
    for query, clicked in counts.items():
        total = clicked.total()
        if total >= MIN_CLICKS:
            share = np.array(list(clicked.values())) / total
            entropy = -float((share * np.log(share)).sum())
            found[query] = 1 - entropy / np.log(categories) if categories > 1 else 1.0
    return found


def read_query_specificity(path: Path, items: ItemTable) -> dict[str, float]:
    """Return the specificity of the queries of an event table; none where it has no queries or items no category.

    Raises
    ------
    DataError
        What cannot be read, with file, row and column.
    """
    if "category" not in items.codes or path.suffix.lower() in (".txt", ".inter"):
        return {}
    codes = items.codes["category"]

    def clicks() -> Iterable[tuple[str, int]]:
        for batch in iter_table(path, _BATCH):
            found = match_columns(list(batch.columns), None, ("item_id",), path.name, _COLUMNS)
            if "query" not in found or "event_type" not in found:
                return
            kind, query, item = (
                Cells(batch, found[field], path.name).convert(parse)
                for field, parse in (("event_type", name), ("query", name), ("item_id", identifier))
            )
            for row in range(len(batch.rows)):
                place = items.positions_by_id.get(item[row] or "")
                if kind[row] == "click" and query[row] and place is not None:
                    yield query[row], int(codes[place])

    return query_specificity(clicks(), len(items.names["category"]))


def _normal(query: str) -> str:
    return " ".join(query.casefold().split())
