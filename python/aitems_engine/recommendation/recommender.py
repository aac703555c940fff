"""The way of a request: history -> retrievers -> merge -> features -> ranker -> objective -> rules -> page.

A batch of requests passes every stage together; a single request is a batch of one. Nothing here raises on what a
request holds: what cannot be used is left out, what fails is replaced, and the trace says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native.batch import contained
from aitems_engine.catalog import ItemTable
from aitems_engine.errors import InvalidInputError
from aitems_engine.events import Interactions
from aitems_engine.ranking import FeatureQuery, FeatureSet, Predictions, Ranker
from aitems_engine.recommendation.asked import Asked
from aitems_engine.recommendation.placement import Placement
from aitems_engine.recommendation.pool import Ads, IntVector, Pool, Source, packed
from aitems_engine.recommendation.request import Request
from aitems_engine.recommendation.response import Response, Stage, Trace
from aitems_engine.recommendation.stages import OK, StageRun, outcomes_of, timed
from aitems_engine.recommendation.user_mode import UserMode
from aitems_engine.rerank import RuleContext, Slate
from aitems_engine.retrieval.merge import Merged, merge

THREADS = 8
DAY_MS = 86_400_000
# popular items beyond a page's worth, where retrievers found too few: rules may take some
FALLBACK_SPARE = 100
# of a deadline: a slow retriever leaves time to rank what the others found
RETRIEVAL_SHARE = 0.5


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
        pool: Pool,
        histories: Interactions,
        asked: Sequence[Asked],
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
        pool: Pool,
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
        pool: Pool,
        scores: npt.NDArray[np.float64],
        predictions: Predictions | None,
        price: npt.NDArray[np.float32] | None,
        histories: Interactions,
        asked: Sequence[Asked],
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
            columns["bought"] = contained(pool.splits, items, *packed([one.bought for one in asked]))
        if self.ads is not None:
            bids = pool.bids if len(pool.bids) else np.full(len(items), np.nan, np.float32)
            columns |= {"is_ad": ~np.isnan(bids), "bid": bids}
        return Slate(items, scores, predictions.pctr, predictions.pcvr, price, catalogue=self.items.codes, **columns)

    def _page(
        self,
        run: StageRun,
        placement: Placement,
        one: Asked,
        pool: Pool,
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

    def _rule_context(self, one: Asked) -> RuleContext:
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

    def _asked(self, requests: Sequence[Request]) -> tuple[list[Asked], Interactions]:
        """Return the requests as positions, and their histories over the catalogue."""
        asked = [Asked.of(request, self.items, self.histories, self._rows_of_users) for request in requests]
        histories = Interactions(
            [one.request.user_id or "" for one in asked],
            self.items.item_ids,
            *packed([one.history for one in asked]),
            np.concatenate([one.times for one in asked]),
        )
        return asked, histories

    def _candidates(self, placement: Placement, merged: Merged, asked: Sequence[Asked]) -> Pool:
        """Return the candidates of each request, never fewer than a page of what may be shown."""
        nothing = np.zeros(0, np.float32)
        pool = Pool(merged.splits, merged.items, merged.scores, merged.ranks, merged.source_scores, nothing)
        enough = np.diff(merged.splits).tolist()
        if not (self.ads is not None and placement.ads) and all(
            found >= one.request.k and not len(one.excluded) and not len(one.previous)
            for found, one in zip(enough, asked, strict=True)
        ):
            return pool
        return Pool.together([self._own_candidates(placement, pool.of(row), one) for row, one in enumerate(asked)])

    def _own_candidates(self, placement: Placement, pool: Pool, one: Asked) -> Pool:
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


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _share(value: Any) -> float | None:
    """Return a number from 0 to 1; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None
