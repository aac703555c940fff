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

from aitems_engine._native.batch import contained
from aitems_engine.catalog import ItemTable
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureQuery, FeatureSet, Predictions, Ranker
from aitems_engine.recommendation.placement import Placement
from aitems_engine.recommendation.request import HistoryEvent, Request, decode_cursor
from aitems_engine.recommendation.response import Response, Stage, Trace
from aitems_engine.recommendation.stages import OK, StageRun, outcomes_of, timed
from aitems_engine.recommendation.user_mode import UserMode
from aitems_engine.rerank import RuleContext, Slate
from aitems_engine.retrieval import Candidates, Retriever
from aitems_engine.retrieval.merge import Merged, merge

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

    def __contains__(self, attribute: object) -> bool:
        return attribute in self._table.codes

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
    """The candidates of a batch, one request after the other, organic ones first; arrays of one length."""

    splits: npt.NDArray[np.int64]
    items: IntVector
    scores: npt.NDArray[np.float32]
    """Of the merge; below all others for items that no retriever found."""
    ranks: npt.NDArray[np.int32]
    """(n, sources), from 1; 0 where the source did not find the item."""
    source_scores: npt.NDArray[np.float32]
    bids: npt.NDArray[np.float32]
    """Of ads, a click; NaN for organic items. Empty where there are no ads."""

    @classmethod
    def together(cls, pools: Sequence[_Pool]) -> _Pool:
        splits, items = _packed([pool.items for pool in pools])
        columns = ("scores", "ranks", "source_scores", "bids")
        return cls(splits, items, *(np.concatenate([getattr(pool, name) for pool in pools]) for name in columns))

    def own(self, row: int) -> slice:
        return slice(int(self.splits[row]), int(self.splits[row + 1]))

    def of(self, row: int) -> _Pool:
        own = self.own(row)
        bids = self.bids[own] if len(self.bids) else np.full(own.stop - own.start, np.nan, np.float32)
        columns = self.items[own], self.scores[own], self.ranks[own], self.source_scores[own]
        return _Pool(np.array([0, own.stop - own.start]), *columns, bids)

    def extended(self, items: IntVector, bids: npt.NDArray[np.float32] | None = None) -> _Pool:
        more, sources = len(items), self.ranks.shape[1]
        lowest = self.scores.min(initial=0.0) - 1
        return _Pool(
            np.array([0, len(self.items) + more]),
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
        pool = self._candidates(placement, merged, asked)
        predictions = self._predictions(run, placement, pool, histories, asked)
        price = self.items.numbers["price"][pool.items] if "price" in self.items.numbers else None
        scores, problems = self._scores(placement, pool, predictions, price)
        slate = self._slate(placement, pool, scores, predictions, price, histories, asked)
        return [
            self._page(run, placement, one, pool, slate, row, merged.sources, problems) for row, one in enumerate(asked)
        ]

    def _predictions(
        self,
        run: StageRun,
        placement: Placement,
        pool: _Pool,
        histories: Interactions,
        asked: Sequence[_Asked],
    ) -> Predictions | None:
        features, ranker = self.features, self.ranker
        if not placement.rank or features is None or ranker is None:
            return None
        contexts = [{"placement": placement.name, **one.request.context} for one in asked]
        query = FeatureQuery.of(
            histories,
            pool.items,
            pool.splits,
            np.array([one.request.timestamp for one in asked], np.int64),
            {name: [_text(c.get(name)) for c in contexts] for name in features.context_names},
        )
        batch = run.one("features", lambda: features.gather(query), len(pool.items), len)
        if batch is None:
            return None
        return run.one("ranker", lambda: ranker.predict(batch), len(pool.items), lambda p: len(p.pctr))

    def _scores(
        self,
        placement: Placement,
        pool: _Pool,
        predictions: Predictions | None,
        price: npt.NDArray[np.float32] | None,
    ) -> tuple[npt.NDArray[np.float64], Mapping[int, str]]:
        """Return what orders the candidates, and what went wrong with the objective, by request."""
        if predictions is None or not len(pool.items):
            return pool.scores.astype(np.float64), {}
        wanted = placement.objective.columns
        columns: dict[str, npt.NDArray[Any]] = {
            name: price if name == "price" and price is not None else values[pool.items]
            for name, values in self.items.numbers.items()
            if name in wanted
        }
        columns |= {"pctr": predictions.pctr, "pcvr": predictions.pcvr, "retrieval": pool.scores}
        if "bid" in wanted:
            columns["bid"] = pool.bids if len(pool.bids) else np.full(len(pool.items), np.nan, np.float32)
        scores, problem = placement.objective(columns)
        if not problem:
            return scores, {}
        rows = range(len(pool.splits) - 1)
        each = {row: {name: values[pool.own(row)] for name, values in columns.items()} for row in rows}
        return scores, {row: placement.objective(own)[1] for row, own in each.items() if len(own["pctr"])}

    def _slate(
        self,
        placement: Placement,
        pool: _Pool,
        scores: npt.NDArray[np.float64],
        predictions: Predictions | None,
        price: npt.NDArray[np.float32] | None,
        histories: Interactions,
        asked: Sequence[_Asked],
    ) -> Slate:
        """Return the candidates of all requests with the columns that the placement's rules need."""
        needs, items, numbers = placement.rules.columns, pool.items, self.items.numbers
        if predictions is None:
            nothing = np.full(len(items), np.nan, np.float32)
            predictions = Predictions(nothing, nothing)
        columns: dict[str, Any] = {}
        if "age_days" in needs:
            registered = self.items.registered_at[items]
            now = np.array([one.request.timestamp or 0 for one in asked])
            age = ((now if len(now) == 1 else np.repeat(now, np.diff(pool.splits))) - registered) / DAY_MS
            if registered.min(initial=0) < 0:
                age[registered < 0] = np.nan
            age = age.astype(np.float32)
            columns["age_days"] = age
        if "impressions" in needs and self.features is not None:
            columns["impressions"] = self.features.counts[items, 0]
        if "vectors" in needs and self.vectors is not None:
            columns |= {"vectors": self.vectors, "vector_rows": items}
        if "in_stock" in needs and "in_stock" in numbers:
            columns["in_stock"] = numbers["in_stock"][items] > 0
        if "seen" in needs:
            columns["seen"] = contained(pool.splits, items, histories.splits, histories.items)
        if "bought" in needs:
            columns["bought"] = contained(pool.splits, items, *_packed([one.bought for one in asked]))
        if self.ads is not None:
            bids = pool.bids if len(pool.bids) else np.full(len(items), np.nan, np.float32)
            columns |= {"is_ad": ~np.isnan(bids), "bid": bids}
        return Slate(items, scores, predictions.pctr, predictions.pcvr, price, catalogue=self.items.codes, **columns)

    def _page(
        self,
        run: StageRun,
        placement: Placement,
        one: _Asked,
        pool: _Pool,
        slate: Slate,
        row: int,
        sources: tuple[str, ...],
        problems: Mapping[int, str],
    ) -> Response:
        """Apply the rules to the candidates of one request, and say how its page came about."""
        request, own = one.request, pool.own(row)
        slate = slate.part(own) if len(slate) > own.stop - own.start else slate
        flags = [*one.flags, *(f"{stage.name}: {stage.outcome}" for stage in run.stages if stage.outcome != OK)]
        flags += [problem] if (problem := problems.get(row)) else []
        context = self._rule_context(one)
        page, taken = timed(lambda: placement.rules.run(slate, context))
        order = page.order
        ids = self.items.item_ids
        item_ids = [ids[i] for i in slate.items[order].tolist()]
        best = slate.scores[order]
        assert slate.pctr is not None
        assert slate.pcvr is not None
        return Response(
            item_ids,
            best,
            Trace(
                request,
                self.digest,
                (*run.stages, Stage("rules", taken, len(slate), len(order))),
                page,
                (*flags, *page.flags),
                item_ids,
                best.tolist(),
                context.goal_probability,
            ),
            page.short_reason,
            one.shown if len(item_ids) == request.k else None,
            {
                "sources": sources,
                "ranks": pool.ranks[own][order],
                "source_scores": pool.source_scores[own][order],
                "pctr": slate.pctr[order],
                "pcvr": slate.pcvr[order],
                "is_ad": page.is_ad,
                "propensity": page.propensities,
            },
        )

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
            previous_codes=_Codes(self.items, one.previous),
            excluded_items=one.excluded,
            goal_probability=goal,
            cold_share=_share(request.context.get("cold_share")),
        )

    def _asked(self, requests: Sequence[Request]) -> tuple[list[_Asked], Interactions]:
        """Return the requests as positions, and their histories over the catalogue."""
        asked = [self._one_asked(request) for request in requests]
        histories = Interactions(
            [one.request.user_id or "" for one in asked],
            self.items.item_ids,
            *_packed([one.history for one in asked]),
            np.concatenate([one.times for one in asked]),
        )
        return asked, histories

    def _one_asked(self, request: Request) -> _Asked:
        flags: list[str] = []
        if request.timestamp is None or request.request_id is None:
            now = int(time.time() * 1000) if request.timestamp is None else request.timestamp
            request = replace(request, timestamp=now, request_id=request.request_id or secrets.token_hex(8))
        positions = self.items.positions_by_id
        bought = np.zeros(0, np.int32)
        known = self._rows_of_users.get(request.user_id or "") if not request.history else None
        if known is not None and self.histories is not None:
            stored = slice(*self.histories.splits[known : known + 2].tolist())
            history, times = self.histories.items[stored], self.histories.times[stored]
            if self.histories.bought is not None:
                bought = history[self.histories.bought[stored]]
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
        excluded, previous = self.items.positions(request.exclude), self.items.positions(shown)
        return _Asked(
            request,
            history[-HISTORY_LIMIT:],
            times[-HISTORY_LIMIT:],
            bought,
            excluded[excluded >= 0],
            shown,
            previous[previous >= 0],
            flags,
        )

    def _candidates(self, placement: Placement, merged: Merged, asked: Sequence[_Asked]) -> _Pool:
        """Return the candidates of each request, never fewer than a page of what may be shown."""
        nothing = np.zeros(0, np.float32)
        pool = _Pool(merged.splits, merged.items, merged.scores, merged.ranks, merged.source_scores, nothing)
        enough = np.diff(merged.splits).tolist()
        if not (self.ads is not None and placement.ads) and all(
            found >= one.request.k and not len(one.excluded) and not len(one.previous)
            for found, one in zip(enough, asked, strict=True)
        ):
            return pool
        return _Pool.together([self._own_candidates(placement, pool.of(row), one) for row, one in enumerate(asked)])

    def _own_candidates(self, placement: Placement, pool: _Pool, one: _Asked) -> _Pool:
        items = pool.items
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


def _packed(lists: Sequence[IntVector]) -> tuple[npt.NDArray[np.int64], IntVector]:
    splits = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(one) for one in lists], out=splits[1:])
    return splits, np.concatenate(lists)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _share(value: Any) -> float | None:
    """Return a number from 0 to 1; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None
