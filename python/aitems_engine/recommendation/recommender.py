"""The way of a request: history -> retrievers -> merge -> features -> ranker -> objective -> rules -> page.

A batch of requests passes every stage together; a single request is a batch of one. Nothing here raises on what a
request holds: what cannot be used is left out, what fails is replaced, and the trace says so.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine.catalog import ItemTable
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureQuery, FeatureSet, Predictions, Ranker
from aitems_engine.recommendation.placement import Placement
from aitems_engine.recommendation.request import HistoryEvent, Request, decode_cursor, encode_cursor
from aitems_engine.recommendation.response import Response, Stage, Trace
from aitems_engine.recommendation.stages import OK, StageRun, outcomes_of, timed
from aitems_engine.recommendation.user_mode import UserMode
from aitems_engine.rerank import RuleContext, Slate
from aitems_engine.retrieval import Candidates, Retriever
from aitems_engine.retrieval.merge import Merged, merge
from aitems_engine.retrieval.retriever import contained

IntVector = npt.NDArray[np.int32]
# the newest events of a history that retrievers and features see
HISTORY_LIMIT = 1000
THREADS = 8
DAY_MS = 86_400_000
# popular items beyond a page's worth, where retrievers found too few: rules may take some
FALLBACK_SPARE = 100
# of a deadline: a slow retriever leaves time to rank what the others found
RETRIEVAL_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Source:
    """A retriever and how its items lie in the catalogue.

    Attributes
    ----------
    name : str
    retriever : Retriever
    to_catalogue, from_catalogue : int32 arrays or None
        Position there of each item of the retriever, and the other way round (-1: it does not know the item). None
        where both are the same.
    """

    name: str
    retriever: Retriever
    to_catalogue: IntVector | None
    from_catalogue: IntVector | None

    @classmethod
    def over(cls, name: str, retriever: Retriever, items: ItemTable) -> Source:
        """Return the source of a retriever for a catalogue that holds all its items."""
        if list(retriever.item_ids) == items.item_ids:
            return cls(name, retriever, None, None)
        there = items.positions(retriever.item_ids)
        if (there < 0).any():
            missing = retriever.item_ids[int(np.argmax(there < 0))]
            raise InvalidInputError(f"retriever '{name}' knows item '{missing}', which the catalogue lacks")
        back = np.full(len(items), -1, np.int32)
        back[there] = np.arange(len(there), dtype=np.int32)
        return cls(name, retriever, there, back)

    def candidates(self, histories: Interactions, k: npt.NDArray[np.int64], exclude_seen: bool) -> Candidates:
        """Return the retriever's candidates as positions in the catalogue, `k` of them for each history."""
        if self.from_catalogue is not None:
            histories = histories.translated(self.from_catalogue, list(self.retriever.item_ids))
        most = int(k.max())
        found = self.retriever.candidates(histories, most, exclude_seen=exclude_seen)
        items = found.items
        if (k < most).any():
            items = np.where(np.arange(most) < k[:, None], items, np.int32(-1))
        if self.to_catalogue is not None:
            items = np.where(items < 0, np.int32(-1), self.to_catalogue[items])
        return Candidates(items, found.scores, self.name)


@dataclass(frozen=True, eq=False)
class Ads:
    """Items that someone pays for: positions in the catalogue and bids a click, highest bid first."""

    items: IntVector
    bids: npt.NDArray[np.float32]


class _Codes(Mapping[str, IntVector]):
    """The attributes of some items, taken from the catalogue when a rule asks for one."""

    def __init__(self, table: ItemTable, rows: IntVector) -> None:
        self._table, self._rows = table, rows

    def __getitem__(self, attribute: str) -> IntVector:
        return self._table.codes[attribute][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.codes)

    def __len__(self) -> int:
        return len(self._table.codes)


@dataclass(frozen=True, eq=False)
class _Asked:
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


@dataclass(frozen=True, eq=False)
class _Pool:
    """The candidates of one request, organic ones first; arrays of one length."""

    items: IntVector
    scores: npt.NDArray[np.float32]
    """Of the merge; below all others for items that no retriever found."""
    ranks: npt.NDArray[np.int32]
    """(n, sources), from 1; 0 where the source did not find the item."""
    source_scores: npt.NDArray[np.float32]
    bids: npt.NDArray[np.float32]
    """Of ads, a click; NaN for organic items."""

    def extended(self, items: IntVector, bids: npt.NDArray[np.float32] | None = None) -> _Pool:
        more, sources = len(items), self.ranks.shape[1]
        lowest = self.scores.min(initial=0.0) - 1
        return _Pool(
            np.concatenate([self.items, items]),
            np.concatenate([self.scores, lowest - np.arange(more, dtype=np.float32)]),
            np.concatenate([self.ranks, np.zeros((more, sources), np.int32)]),
            np.concatenate([self.source_scores, np.zeros((more, sources), np.float32)]),
            np.concatenate([self.bids, np.full(more, np.nan, np.float32) if bids is None else bids]),
        )


@dataclass(frozen=True, eq=False)
class Recommender:
    """Everything that answers recommendation requests; threads may share it.

    Attributes
    ----------
    items : ItemTable
    sources : mapping of name to Source
    placements : mapping of name to Placement
        The first one stands in for names that are not there.
    popular : int32 array
        Positions, most popular first: shown when nothing else is found.
    histories : Interactions, optional
        Over `items`: what is known of users that bring no history.
    features, ranker : optional, together
    ads : Ads, optional
    vectors : float32 array, shape (num_items, d), optional
        For diversity; a row of zeros is none.
    user_mode : UserMode, optional
        Finds P(goal-oriented) where the request's context has no `goal_probability`.
    digest : str
        Of the bundle.

    Notes
    -----
    A request's context may hold `goal_probability` and `cold_share` (0 to 1) for the rules: see `RuleContext`.
    """

    items: ItemTable
    sources: Mapping[str, Source]
    placements: Mapping[str, Placement]
    popular: IntVector
    histories: Interactions | None = None
    features: FeatureSet | None = None
    ranker: Ranker | None = None
    ads: Ads | None = None
    vectors: npt.NDArray[np.float32] | None = None
    user_mode: UserMode | None = None
    digest: str = ""

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, "recommend")

    @cached_property
    def _rows_of_users(self) -> dict[str, int]:
        return {user: row for row, user in enumerate(self.histories.user_ids)} if self.histories is not None else {}

    def recommend(self, requests: Sequence[Request], outcomes: Mapping[str, str] | None = None) -> list[Response]:
        """Return one page a request.

        Parameters
        ----------
        requests : sequence of Request
            Those of one placement share the stages, and the shortest of their deadlines.
        outcomes : mapping, optional
            Of the stages of the run that is replayed.
        """
        groups: dict[str, list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(request.placement, []).append(row)
        responses: dict[int, Response] = {}
        for name, rows in groups.items():
            pages = self._pages([requests[row] for row in rows], name, outcomes)
            responses.update(zip(rows, pages, strict=True))
        return [responses[row] for row in range(len(requests))]

    def replay(self, trace: Trace) -> Response:
        """Make the page of a trace again, with the stages that did not make it left out as they were then.

        Raises
        ------
        InvalidInputError
            The trace is of another bundle.
        """
        if trace.bundle_digest != self.digest:
            raise InvalidInputError(
                f"the trace is of bundle {trace.bundle_digest[:12]}, this one is {self.digest[:12]}; open that one"
            )
        return self.recommend([trace.request], outcomes_of(trace.stages))[0]

    def _pages(self, requests: list[Request], name: str, outcomes: Mapping[str, str] | None) -> list[Response]:
        placement = self.placements.get(name) or next(iter(self.placements.values()))
        deadlines = [d for r in requests if (d := r.deadline_ms or placement.deadline_ms) is not None]
        run = StageRun(self._pool, min(deadlines, default=None), outcomes)
        asked, histories = run.inline("history", lambda: self._asked(requests), len(requests), lambda r: len(r[0]))
        if placement.name != name:
            for one in asked:
                one.flags.append(f"placement '{name:.40}' is not there: '{placement.name}' answered")

        # rules take these out again: so many more have to be found, for each request only as many as it needs
        more = np.array([len(one.excluded) + len(one.previous) for one in asked])
        found = run.together(
            {
                f"retriever {source}": partial(
                    self.sources[source].candidates, histories, quota + more, placement.exclude_seen
                )
                for source, quota in placement.retrievers.items()
            },
            len(asked),
            lambda c: int((c.items >= 0).sum()),
            share=RETRIEVAL_SHARE,
        )
        merged = run.inline(
            "merge",
            lambda: merge(list(found.values()), budget=placement.budget) if found else Merged.empty(len(asked)),
            len(found),
            lambda m: len(m.items),
        )
        pools = [self._candidates(placement, merged, row, one) for row, one in enumerate(asked)]
        splits = np.zeros(len(pools) + 1, np.int64)
        np.cumsum([len(pool.items) for pool in pools], out=splits[1:])
        predictions = self._predictions(run, placement, pools, splits, histories, asked)
        return [
            self._page(run, placement, one, pool, _rows(predictions, splits, row), merged.sources)
            for row, (one, pool) in enumerate(zip(asked, pools, strict=True))
        ]

    def _predictions(
        self,
        run: StageRun,
        placement: Placement,
        pools: Sequence[_Pool],
        splits: npt.NDArray[np.int64],
        histories: Interactions,
        asked: Sequence[_Asked],
    ) -> Predictions | None:
        features, ranker = self.features, self.ranker
        if not placement.rank or features is None or ranker is None:
            return None
        items = np.concatenate([pool.items for pool in pools])
        contexts = [{"placement": placement.name, **one.request.context} for one in asked]
        query = FeatureQuery.of(
            histories,
            items,
            splits,
            np.array([one.request.timestamp for one in asked], np.int64),
            {name: [_text(c.get(name)) for c in contexts] for name in features.context_names},
        )
        batch = run.one("features", lambda: features.gather(query), len(items), len)
        if batch is None:
            return None
        return run.one("ranker", lambda: ranker.predict(batch), len(items), lambda p: len(p.pctr))

    def _page(
        self,
        run: StageRun,
        placement: Placement,
        one: _Asked,
        pool: _Pool,
        predictions: Predictions | None,
        sources: tuple[str, ...],
    ) -> Response:
        """Order the candidates of one request by the objective, apply the rules, and say how it came about."""
        request, items = one.request, pool.items
        nothing = np.full(len(items), np.nan, np.float32)
        pctr, pcvr = (nothing, nothing) if predictions is None else (predictions.pctr, predictions.pcvr)
        numbers = {name: values[items] for name, values in self.items.numbers.items()}
        flags = [*one.flags, *(f"{stage.name}: {stage.outcome}" for stage in run.stages if stage.outcome != OK)]
        scores = pool.scores.astype(np.float64)
        if predictions is not None and len(items):
            columns = {**numbers, "pctr": pctr, "pcvr": pcvr, "bid": pool.bids, "retrieval": pool.scores}
            scores, problem = placement.objective(columns)
            flags += [problem] * bool(problem)
        slate = self._slate(placement, one, pool, scores, pctr, pcvr, numbers)
        context = self._rule_context(one)
        page, taken = timed(lambda: placement.rules.run(slate, context))
        item_ids = [self.items.item_ids[i] for i in items[page.order].tolist()]
        best = scores[page.order]
        full = len(item_ids) == request.k
        return Response(
            item_ids,
            best,
            Trace(
                request,
                self.digest,
                (*run.stages, Stage("rules", taken, len(items), len(page.order))),
                page,
                (*flags, *page.flags),
                item_ids,
                best.tolist(),
                context.goal_probability,
            ),
            page.short_reason,
            encode_cursor([*one.shown, *item_ids]) if full else None,
            {
                "sources": sources,
                "ranks": pool.ranks[page.order],
                "source_scores": pool.source_scores[page.order],
                "pctr": pctr[page.order],
                "pcvr": pcvr[page.order],
                "is_ad": page.is_ad,
                "propensity": page.propensities,
            },
        )

    def _slate(
        self,
        placement: Placement,
        one: _Asked,
        pool: _Pool,
        scores: npt.NDArray[np.float64],
        pctr: npt.NDArray[np.float32],
        pcvr: npt.NDArray[np.float32],
        numbers: Mapping[str, npt.NDArray[np.float32]],
    ) -> Slate:
        """Return the candidates with the columns that the placement's rules need."""
        needs, items = placement.rules.columns, pool.items
        columns: dict[str, Any] = {}
        if "age_days" in needs:
            registered = self.items.registered_at[items]
            age = ((one.request.timestamp or 0) - registered) / DAY_MS
            columns["age_days"] = np.where(registered < 0, np.nan, age).astype(np.float32)
        if "impressions" in needs and self.features is not None:
            columns["impressions"] = self.features.counts[items, 0]
        if "vectors" in needs and self.vectors is not None:
            columns["vectors"] = self.vectors[items]
        if "in_stock" in needs and "in_stock" in numbers:
            columns["in_stock"] = numbers["in_stock"] > 0
        if "seen" in needs:
            columns["seen"] = contained(items, np.sort(one.history))
        if "bought" in needs:
            columns["bought"] = contained(items, np.sort(one.bought))
        if self.ads is not None:
            columns |= {"is_ad": ~np.isnan(pool.bids), "bid": pool.bids}
        return Slate(items, scores, pctr, pcvr, numbers.get("price"), codes=_Codes(self.items, items), **columns)

    def _rule_context(self, one: _Asked) -> RuleContext:
        request = one.request
        name = request.request_id or ""
        goal = _share(request.context.get("goal_probability"))
        if goal is None and self.user_mode is not None:
            goal = self.user_mode.probability(request, len(one.shown))
        return RuleContext(
            request.k,
            seed=int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big"),
            history_codes=_Codes(self.items, one.history),
            previous_items=one.previous,
            excluded_items=one.excluded,
            goal_probability=goal,
            cold_share=_share(request.context.get("cold_share")),
        )

    def _asked(self, requests: Sequence[Request]) -> tuple[list[_Asked], Interactions]:
        """Return the requests as positions, and their histories over the catalogue."""
        asked = [self._one_asked(request) for request in requests]
        splits = np.zeros(len(asked) + 1, np.int64)
        np.cumsum([len(one.history) for one in asked], out=splits[1:])
        histories = Interactions(
            [one.request.user_id or "" for one in asked],
            self.items.item_ids,
            splits,
            np.concatenate([one.history for one in asked]),
            np.concatenate([one.times for one in asked]),
        )
        return asked, histories

    def _one_asked(self, request: Request) -> _Asked:
        flags: list[str] = []
        if request.timestamp is None or request.request_id is None:
            now = int(time.time() * 1000) if request.timestamp is None else request.timestamp
            request = replace(request, timestamp=now, request_id=request.request_id or secrets.token_hex(8))
        positions = self.items.positions_by_id
        bought: list[int] = []
        known = self._rows_of_users.get(request.user_id or "") if not request.history else None
        if known is not None and self.histories is not None:
            stored = slice(*self.histories.splits[known : known + 2].tolist())
            history, times = self.histories.items[stored], self.histories.times[stored]
        else:
            places, when = [], []
            for event in request.history[-HISTORY_LIMIT:]:
                item, at = (event, -1) if isinstance(event, str) else (event.item_id, event.timestamp)
                place = positions.get(item)
                if place is not None:
                    places.append(place)
                    when.append(at)
                    if isinstance(event, HistoryEvent) and event.event_type == "purchase":
                        bought.append(place)
            history, times = np.array(places, np.int32), np.array(when, np.int64)
            unknown = min(len(request.history), HISTORY_LIMIT) - len(history)
            if unknown:
                flags.append(f"{unknown} events of the history are of items that the catalogue lacks")
            if len(request.history) > HISTORY_LIMIT:
                flags.append(f"the history has {len(request.history)} events; the newest {HISTORY_LIMIT} are used")
        shown = decode_cursor(request.cursor) if request.cursor else []
        excluded, previous = self.items.positions(request.exclude), self.items.positions(shown)
        return _Asked(
            request,
            history[-HISTORY_LIMIT:],
            times[-HISTORY_LIMIT:],
            np.array(bought, np.int32),
            excluded[excluded >= 0],
            shown,
            previous[previous >= 0],
            flags,
        )

    def _candidates(self, placement: Placement, merged: Merged, row: int, one: _Asked) -> _Pool:
        """Return the candidates of one request, never fewer than a page of what may be shown."""
        own = slice(int(merged.splits[row]), int(merged.splits[row + 1]))
        items = merged.items[own]
        bids = np.full(len(items), np.nan, np.float32)
        pool = _Pool(items, merged.scores[own], merged.ranks[own], merged.source_scores[own], bids)
        hidden = np.concatenate([one.excluded, one.previous])
        showable = len(items) - (int(np.isin(items, hidden).sum()) if len(hidden) else 0)
        if placement.exclude_seen:
            hidden = np.concatenate([hidden, one.history])
        if showable < one.request.k:
            popular = self.popular[~np.isin(self.popular, np.concatenate([hidden, items]))]
            pool = pool.extended(popular[: one.request.k - showable + FALLBACK_SPARE])
            one.flags.append(f"retrievers found {showable} items for {one.request.k} places: popular ones fill up")
        if self.ads is not None and placement.ads:
            ads = self.ads.items[: placement.ads]
            kept = ~np.isin(ads, hidden)
            pool = pool.extended(ads[kept], self.ads.bids[: placement.ads][kept])
        return pool

    def describe(self) -> dict[str, Any]:
        """Return what is loaded, as plain values."""
        return {
            "items": len(self.items),
            "users": 0 if self.histories is None else len(self.histories),
            "retrievers": {name: source.retriever.kind for name, source in self.sources.items()},
            "ranker": self.ranker is not None,
            "ads": 0 if self.ads is None else len(self.ads.items),
            "user_mode": self.user_mode is not None,
            "placements": list(self.placements),
        }


def _rows(predictions: Predictions | None, splits: npt.NDArray[np.int64], row: int) -> Predictions | None:
    if predictions is None:
        return None
    own = slice(int(splits[row]), int(splits[row + 1]))
    return Predictions(predictions.pctr[own], predictions.pcvr[own])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _share(value: Any) -> float | None:
    """Return a number from 0 to 1; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None
