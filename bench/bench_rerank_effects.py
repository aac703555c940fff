"""What freshness, ads, user mode and exploration do on the simulated shop, whose truth is known.

A policy of the closed loop ranks the candidates of a visit by a click model that was fitted on what visitors clicked
before, and makes the page by a chain of rules. What is expected of each page is known exactly, so policies are compared
on the same visits. Intervals: 95 %, Student's t over seeds of the loop. Simulated figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from aitems_engine.evaluation.binary import auc
from aitems_engine.evaluation.off_policy import estimate_policy
from aitems_engine.rerank import Chain, FreshnessController, Reranked, RuleContext, Slate, UserModeModel
from aitems_engine.simulator import simulate_shop
from aitems_engine.simulator.closed_loop import ClosedLoop, Visits
from aitems_engine.simulator.world import DAY_MS

K, SEEDS = 20, range(5)
SHOP = f"Shop of 4,000 products, {len(SEEDS)} seeds"
LEARNT, VISITS, AT_ONCE = 800, 500, 100
COLD_DAYS = 30  # nothing new comes once the log has ended, so what is cold must be cold for a while
PRIOR = 2.0  # expected clicks that stand before an item's own
Floats = np.ndarray[Any, np.dtype[np.float64]]
pytestmark = pytest.mark.timeout(3600)


def interval(values: list[float] | Floats, form: str = ".3f") -> str:
    values = np.asarray(values, np.float64)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{form}} ± {half:{form}}"


@dataclass
class ClickModel:
    """P(click at the first place) by what anybody sees: history, query, price, counts; and what a place is worth."""

    fitted: LogisticRegression
    items_known: bool

    @classmethod
    def of(cls, loop: ClosedLoop, *, items_known: bool = True) -> ClickModel:
        """Return the model of the clicks on pages without order, two ads among them, of the loop's next visits."""
        model = cls(LogisticRegression(C=10.0, max_iter=1000), items_known)
        rows, labels = [], []
        for _ in range(LEARNT // AT_ONCE):
            visits = loop.visits(AT_ONCE)
            page, is_ad = visits.pool[:, :K].copy(), np.zeros((len(visits), K), bool)
            for ad, place in enumerate((2, 12)):
                fits = (visits.ads[:, ad] >= 0) & (page != visits.ads[:, ad, None]).all(1)
                page[fits, place], is_ad[fits, place] = visits.ads[fits, ad], True
            seen = page >= 0
            rows.append(model.features(loop, visits, page, is_ad, np.arange(1, K + 1))[seen])
            labels.append(loop.show(visits, page, is_ad).clicked[seen])
        model.fitted.fit(np.concatenate(rows), np.concatenate(labels))
        return model

    def features(self, loop: ClosedLoop, visits: Visits, items: np.ndarray, is_ad: Any, position: Any) -> Floats:
        """Return float64 (visits, places, columns)."""
        world, query = loop.world, visits.truth.query[:, None]
        kind, leaves = world.items.product_type, len(world.categories.leaf_names)
        of_history = np.where(visits.history >= 0, kind[visits.history], -1)
        same = (of_history[:, None, :] == kind[items][:, :, None]).sum(2)
        length = (visits.history >= 0).sum(1)[:, None]
        types = len(world.categories.type_names)
        clicks, shown = (np.bincount(kind, n, types) for n in (loop.clicks, loop.impressions))
        usual = (clicks + 5) / (shown + 100)
        columns = [
            np.log1p(same),
            same / (length + 2.0),
            np.log1p(length),
            query == world.items.leaf[items],
            query == leaves + kind[items],
            query >= 0,
            np.log(usual[kind[items]]),
            world.dear[items],
            is_ad,
            np.log(position),
        ]
        if self.items_known:
            expected = loop.impressions * usual[kind]
            columns.append(np.log((loop.clicks + PRIOR) / (expected + PRIOR))[items])
        return np.stack(np.broadcast_arrays(*(np.asarray(c, np.float64) for c in columns)), 2)

    def pctr(self, loop: ClosedLoop, visits: Visits, items: np.ndarray, *, is_ad: bool = False) -> Floats:
        x = self.features(loop, visits, items, is_ad, 1)
        return self.fitted.predict_proba(x.reshape(-1, x.shape[2]))[:, 1].reshape(items.shape)

    @property
    def weights(self) -> list[float]:
        """Of the places: how much they are looked at, by the fitted effect of the position."""
        return (np.arange(1.0, K + 1) ** min(self.fitted.coef_[0][9], 0.0)).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = simulate_shop(
        tmp_path_factory.mktemp("effects"), products=4000, leaves=120, users=8000, seed=1, progress=False
    )
    return made.products.parent


def slates(loop: ClosedLoop, visits: Visits, model: ClickModel, *, ads: bool = False) -> Iterator[Slate]:
    """Yield the candidates of each visit, the advertised ones behind the organic ones."""
    items = np.concatenate([visits.pool, visits.ads], 1) if ads else visits.pool
    pctr = model.pctr(loop, visits, visits.pool)
    is_ad = np.arange(items.shape[1]) >= visits.pool.shape[1]
    if ads:
        pctr = np.concatenate([pctr, model.pctr(loop, visits, visits.ads, is_ad=True)], 1)
    bids = np.full(len(loop.world.quality), np.nan, np.float32)
    bids[loop.world.ads.item] = loop.world.ads.bid
    types = np.eye(len(loop.world.categories.type_names), dtype=np.float32)
    for visit in range(len(visits)):
        there = items[visit] >= 0
        own, p = items[visit, there], pctr[visit, there]
        yield Slate(
            own,
            p,
            pctr=p.astype(np.float32),
            price=loop.world.items.price[own].astype(np.float32),
            age_days=((visits.truth.start[visit] - loop.world.items.registered_at[own]) / DAY_MS).astype(np.float32),
            impressions=loop.impressions[own],
            vectors=types[loop.world.items.product_type[own]],
            is_ad=is_ad[there] if ads else None,
            bid=np.where(is_ad[there], bids[own], np.nan).astype(np.float32) if ads else None,
        )


def shown(pages: list[Reranked], given: list[Slate], k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Return the pages as items and ads, as the loop takes them."""
    items, is_ad = np.full((len(pages), k), -1, np.int32), np.zeros((len(pages), k), bool)
    for row, (page, slate) in enumerate(zip(pages, given, strict=True)):
        items[row, : len(page.order)] = slate.items[page.order]
        is_ad[row, : len(page.order)] = page.is_ad
    return items, is_ad


def run(
    loop: ClosedLoop, model: ClickModel, *, ads: bool = False, count: int = VISITS
) -> Iterator[tuple[Visits, list[Slate]]]:
    """Yield visits with their candidates; the best by score are shown, so that the loop goes on for all policies."""
    for _ in range(count // AT_ONCE):
        visits = loop.visits(AT_ONCE)
        yield visits, list(slates(loop, visits, model, ads=ads))
        best = np.argsort(-np.where(visits.pool >= 0, model.pctr(loop, visits, visits.pool), -1), 1)[:, :K]
        loop.show(visits, np.take_along_axis(visits.pool, best, 1))


def chain(model: ClickModel, *rules: dict[str, Any], **options: Any) -> Chain:
    return Chain.from_config({"rules": list(rules), "position_weights": model.weights, **options})


FRESH = ((0.05, 0.5, True), (0.1, 0.5, False), (0.1, 0.5, True), (0.2, 0.5, True), (0.2, 0.8, True))


def test_freshness(folder: Path, publish: Callable[[str, str], None]) -> None:
    found: dict[Any, list[list[float]]] = {policy: [] for policy in FRESH}
    without = []
    for seed in SEEDS:
        loop = ClosedLoop.open(folder, seed)
        model = ClickModel.of(loop)
        plain, weights = chain(model), np.array(model.weights)
        chains = {
            (share, floor, held): chain(
                model, {"rule": "freshness", "share": share, "max_age_days": COLD_DAYS, "quality_floor": floor}
            )
            for share, floor, held in FRESH
        }
        controllers = {policy: FreshnessController(policy[0]) for policy in FRESH}
        sums = {policy: np.zeros(5) for policy in FRESH}
        cold = []
        for visits, given in run(loop, model):
            base = [plain.run(slate, RuleContext(K)) for slate in given]
            best = loop.expected(visits, shown(base, given)[0]).clicks.sum()
            cold += [
                float(
                    ((s.age_days[p.order] <= COLD_DAYS) * weights[: len(p.order)]).sum() / weights[: len(p.order)].sum()
                )
                for p, s in zip(base, given, strict=True)
            ]
            for policy, rules in chains.items():
                pages = []
                for number, slate in enumerate(given):
                    asked = controllers[policy].share if policy[2] else None
                    page = rules.run(slate, RuleContext(K, seed=len(cold) * AT_ONCE + number, cold_share=asked))
                    controllers[policy].observe(page.cold_share)
                    pages.append(page)
                sums[policy] += [
                    np.mean([page.cold_share for page in pages]),
                    np.mean(["freshness_infeasible" in page.flags for page in pages]),
                    1 - sum(p.steps[-1].clicks for p in pages) / sum(p.steps[0].clicks for p in pages),
                    1 - loop.expected(visits, shown(pages, given)[0]).clicks.sum() / best,
                    1,
                ]
        without.append(np.mean(cold))
        for policy in FRESH:
            found[policy].append((sums[policy][:4] / sums[policy][4]).tolist())
    lines = []
    for (share, floor, held), rows in found.items():
        columns = [interval(column, ".2%") for column in np.array(rows).T]
        lines.append(f"| {share:.0%} | {floor} | {'yes' if held else 'no'} | {' | '.join(columns)} |")
    publish(
        "rerank_freshness",
        f"{SHOP}, {VISITS} pages of {K} from 200 candidates each; cold: at most "
        f"{COLD_DAYS} days old; without the rule they have {interval(without, '.2%')} of the exposure.\n\n"
        "| target share | quality floor | controller | share of exposure | pages infeasible | predicted clicks lost | "
        "clicks really lost |\n|---|---|---|---|---|---|---|\n" + "\n".join(lines),
    )
    reached = np.array(found[0.1, 0.5, True])[:, 0]
    assert abs(reached.mean() - 0.1) < 0.01


def test_ads(folder: Path, publish: Callable[[str, str], None]) -> None:
    budgets, gap, most = (0.0, 0.02, 0.05, 0.1, 0.2), 3, 5
    found: dict[float, list[list[float]]] = {budget: [] for budget in budgets}
    for seed in SEEDS:
        loop = ClosedLoop.open(folder, seed)
        model = ClickModel.of(loop)
        worth = float(np.median(loop.world.ads.bid))
        rule = {"rule": "ads", "max_ads": most, "gap": gap, "organic_weight": worth}
        plain = chain(model)
        chains = {budget: chain(model, {**rule, "organic_loss_budget": budget}) for budget in budgets}
        sums = {budget: np.zeros(5) for budget in budgets}
        for visits, given in run(loop, model, ads=True):
            best = loop.expected(visits, shown([plain.run(s, RuleContext(K)) for s in given], given)[0]).clicks.sum()
            for budget, rules in chains.items():
                pages = [rules.run(slate, RuleContext(K)) for slate in given]
                items, is_ad = shown(pages, given)
                expected = loop.expected(visits, items, is_ad)
                places = [np.flatnonzero(page.is_ad) for page in pages]
                assert all((np.diff(p) > gap).all() and len(p) <= most and 0 not in p for p in places)
                assert all(page.organic_loss <= budget for page in pages)
                sums[budget] += [
                    is_ad.sum() / len(pages),
                    np.mean([page.organic_loss for page in pages]),
                    expected.payments.sum() / len(pages),
                    1 - expected.clicks[~is_ad].sum() / best,
                    1,
                ]
        for budget in budgets:
            found[budget].append((sums[budget][:4] / sums[budget][4]).tolist())
    lines = []
    for budget, rows in found.items():
        cells = [interval(c, form) for c, form in zip(np.array(rows).T, (".2f", ".2%", ".2f", ".2%"), strict=True)]
        lines.append(f"| {budget:.0%} | {' | '.join(cells)} |")
    publish(
        "rerank_ads",
        f"{SHOP}, {VISITS} pages of {K} from 200 candidates and up to 20 ads each, at "
        f"most {most} ads on a page, gap {gap}, none at the first place; an organic click is worth the median bid "
        f"({worth:.0f} won). No page broke a rule.\n\n| budget of organic loss | ads a page | organic value lost, "
        "predicted | ad revenue a page, won | organic clicks really lost |\n|---|---|---|---|---|\n" + "\n".join(lines),
    )
    revenue = np.array([np.array(rows)[:, 2].mean() for rows in found.values()])
    assert (np.diff(revenue) >= 0).all()


TUNED = range(100, 103)
STRENGTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
PAIRS = [[strolling, goal] for strolling in STRENGTHS for goal in STRENGTHS]
MODE_RULES = ({"rule": "price", "weight": 1.0}, {"rule": "mmr", "strength": 1.0, "pool": 100})


def by_mode(folder: Path, seed: int, dials: list[dict[str, list[float]]]) -> tuple[float, Floats]:
    """Return the AUC of the mode and, by dial, mode and measure, expected clicks and purchases of a page."""
    loop = ClosedLoop.open(folder, seed)
    known = loop.visits(1000)
    mode, model = UserModeModel.fit(known.signals, known.truth.goal), ClickModel.of(loop)
    chains = [chain(model, *MODE_RULES, dial=dial) for dial in dials]
    goals, probabilities, values = [], [], []
    for visits, given in run(loop, model, count=3 * VISITS):
        p = mode.probabilities(visits.signals)
        contexts = [RuleContext(K, goal_probability=x) for x in p.tolist()]
        expected = []
        for rules in chains:
            pages = [rules.run(slate, context) for slate, context in zip(given, contexts, strict=True)]
            of = loop.expected(visits, shown(pages, given)[0])
            expected.append(np.stack([of.clicks.sum(1), of.purchases.sum(1)]))
        goals.append(visits.truth.goal)
        probabilities.append(p)
        values.append(np.stack(expected))
    goal, value = np.concatenate(goals), np.concatenate(values, 2)
    means = np.stack([value[:, :, goal == g].mean(2) for g in (False, True)], 1)
    return auc(goal, np.concatenate(probabilities)), means


def test_mode(folder: Path, publish: Callable[[str, str], None]) -> None:
    """Pages for those who stroll are judged by clicks, for those with a goal by purchases: what they came for."""

    def best(dials: list[dict[str, list[float]]]) -> dict[str, list[float]]:
        """Return the dial on other seeds whose mode that loses more of its best loses least."""
        found = np.mean([by_mode(folder, seed, dials)[1] for seed in TUNED], 0)
        judged = found[:, [0, 1], [0, 1]]
        return dials[int(np.argmax((judged / judged.max(0)).min(1)))]

    fixed = best([{"price": [p, p], "diversity": [d, d]} for p in STRENGTHS for d in STRENGTHS])
    dial = best([{**fixed, "price": pair} for pair in PAIRS])
    dial = best([{**dial, "diversity": pair} for pair in PAIRS])
    aucs, tables = zip(*(by_mode(folder, seed, [fixed, dial]) for seed in SEEDS), strict=True)
    table = np.array(tables)  # seed, dial, mode, measure
    lines = []
    for g, users in enumerate(("strolling", "goal-oriented")):
        for m, measure in enumerate(("clicks", "purchases")):
            one, other = table[:, :, g, m].T
            gain = interval(100 * (other / one - 1), "+.2f").replace("± +", "± ")
            lines.append(f"| {users} | {measure} | {one.mean():.3f} | {other.mean():.3f} | {gain} |")
    publish(
        "rerank_mode",
        f"{SHOP}, {3 * VISITS} pages of {K} from 200 candidates each. The model of the mode learnt from 1,000 visits "
        f"before; AUC on the visits of the table {interval(aucs)}. Judged by clicks where the user strolls, by "
        "purchases where there is a goal. Price weight and MMR strength were chosen on other seeds, so that the mode "
        f"that loses more of its best loses least: fixed {fixed['price'][0]} and "
        f"{fixed['diversity'][0]}; by the dial {dial['price'][0]} and {dial['diversity'][0]} for those who stroll to "
        f"{dial['price'][1]} and {dial['diversity'][1]} for "
        "those with a goal.\n\n| users | a page | fixed | with the dial | gain, % |\n|---|---|---|---|---|\n"
        + "\n".join(lines),
    )
    for judged in (0, 1):
        assert table[:, 1, judged, judged].mean() > table[:, 0, judged, judged].mean()


PLACES, CANDIDATES, ROUNDS = 5, 40, 8000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = simulate_shop(tmp_path_factory.mktemp("small"), products=400, leaves=20, users=2000, seed=2, progress=False)
    return made.products.parent


@dataclass
class Learner:
    """A ranker that learns each item by its own clicks: the rate of the visit times a gamma posterior of the item."""

    model: ClickModel
    expected: Floats
    """Clicks that the places where each item was shown would have brought it, were it like all others."""

    def candidates(self, loop: ClosedLoop, visits: Visits) -> tuple[Floats, Floats, np.ndarray]:
        """Return rates without and with the item, and the impressions that the posterior is worth; (visits, pool)."""
        usual = self.model.pctr(loop, visits, visits.pool)
        clicks = (loop.clicks + PRIOR)[visits.pool]
        pctr = np.minimum(usual * clicks / (self.expected + PRIOR)[visits.pool], 0.9)
        return usual, pctr, (clicks * (1 - pctr) / pctr).astype(np.int64)

    def remember(self, usual: Floats, pool: np.ndarray, pages: list[Reranked], places: list[np.ndarray]) -> None:
        for row, (page, there) in enumerate(zip(pages, places, strict=True)):
            chosen = there[page.order]
            self.expected[pool[row, chosen]] += usual[row, chosen] * self.model.weights[: len(chosen)]


def explored(
    folder: Path, seed: int, model: ClickModel, rules: list[dict[str, Any]], rounds: int
) -> Iterator[tuple[ClosedLoop, Visits, np.ndarray, Floats, Floats, list[Reranked], np.ndarray]]:
    """Yield loop, visits, items shown, rates without and with the item, pages, clicks; at first no item is known."""
    loop = ClosedLoop(ClosedLoop.open(folder, seed).world, seed, pool=CANDIDATES)
    learner = Learner(model, np.zeros(len(loop.world.quality)))
    chain_ = chain(model, *rules)
    for number in range(rounds // AT_ONCE):
        visits = loop.visits(AT_ONCE)
        usual, pctr, worth = learner.candidates(loop, visits)
        places = [np.flatnonzero(row >= 0) for row in visits.pool]
        given = [
            Slate(
                visits.pool[row, there],
                pctr[row, there],
                pctr=pctr[row, there].astype(np.float32),
                impressions=worth[row, there],
            )
            for row, there in enumerate(places)
        ]
        begin = (seed * rounds + number) * AT_ONCE
        pages = [chain_.run(slate, RuleContext(PLACES, seed=begin + row)) for row, slate in enumerate(given)]
        items = shown(pages, given, PLACES)[0]
        learner.remember(usual, visits.pool, pages, places)
        yield loop, visits, items, usual, pctr, pages, loop.show(visits, items).clicked


def exploration(slots: list[int], rate: float, floor: float = 0.0005) -> list[dict[str, Any]]:
    return [
        {
            "rule": "exploration",
            "slots": slots,
            "rate": rate,
            "floor": floor,
            "pool": CANDIDATES,
            "prior_impressions": 1,
        }
    ]


def test_exploration(small: Path, publish: Callable[[str, str], None]) -> None:
    slots = list(range(1, PLACES + 1))
    policies = {
        "none": [],
        "Thompson at the last place": exploration([PLACES], 1.0),
        "uniform at the last place": exploration([PLACES], 0.0001, 1.0 / CANDIDATES),
        "Thompson at all places, rate 0.2": exploration(slots, 0.2),
        "Thompson at all places": exploration(slots, 1.0),
    }
    missed: dict[str, list[list[float]]] = {name: [] for name in policies}
    for seed in SEEDS:
        model = ClickModel.of(ClosedLoop.open(small, seed + 50), items_known=False)
        for name, rules in policies.items():
            sums = np.zeros((4, 3))
            for number, (loop, visits, items, _, pctr, *_) in enumerate(explored(small, seed, model, rules, ROUNDS)):
                truth, known = (np.where(visits.pool >= 0, x, -1.0) for x in (loop.appeal(visits), pctr))
                tops = (np.take_along_axis(visits.pool, np.argsort(-x, 1)[:, :PLACES], 1) for x in (truth, known))
                most, own = (loop.expected(visits, page).clicks.sum() for page in tops)
                sums[4 * number * AT_ONCE // ROUNDS] += loop.expected(visits, items).clicks.sum(), own, most
            shares = 100 * (1 - sums[:, :2] / sums[:, 2:])
            missed[name].append([*shares[[0, 1, 3], 0].tolist(), shares[3, 1]])
    lines = [
        f"| {name} | {' | '.join(interval(column, '.1f') for column in np.array(rows).T)} |"
        for name, rows in missed.items()
    ]
    publish(
        "rerank_exploration",
        f"Shop of 400 products that knows none of them at first, {len(SEEDS)} seeds, {ROUNDS} pages of {PLACES} from "
        f"{CANDIDATES} candidates each, learnt from after every {AT_ONCE}. Regret: what the page lacks of the expected "
        "clicks of the truly best candidates, in %, by quarters of the pages; what was learnt: of a page without "
        "exploration in the last quarter.\n\n"
        "| exploration | first | second | last | what was learnt |\n|---|---|---|---|---|\n" + "\n".join(lines),
    )


def test_off_policy(small: Path, publish: Callable[[str, str], None]) -> None:
    """The log explores the first place; other policies are judged from it by what that place brought."""
    repeats, rounds = 20, 2000
    targets = ("the present ranker without exploration", "a ranker that knows no items", "one of its five best, by lot")
    ratios: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
    covered = dict.fromkeys(((name, e) for name in targets for e in ("ips", "snips", "dr")), 0)
    for seed in range(repeats):
        model = ClickModel.of(ClosedLoop.open(small, seed + 50), items_known=False)
        rows: dict[str, list[Floats]] = {name: [] for name in targets}
        for loop, visits, items, usual, pctr, pages, clicked in explored(
            small, seed, model, exploration([1], 1.0, 0.005), rounds
        ):
            there = visits.pool >= 0
            by_items, by_visit = (np.argsort(-np.where(there, x, -1.0), 1) for x in (pctr, usual))
            chances = {name: np.zeros(there.shape) for name in targets}
            np.put_along_axis(chances[targets[0]], by_items[:, :1], 1.0, 1)
            np.put_along_axis(chances[targets[1]], by_visit[:, :1], 1.0, 1)
            np.put_along_axis(chances[targets[2]], by_visit[:, :5], 1.0, 1)
            truth = np.nan_to_num(loop.appeal(visits))
            at = np.argmax(visits.pool == items[:, :1], 1)[:, None]
            propensity = np.array([page.propensities[0] for page in pages])
            for name, chance in chances.items():
                chance = chance * there / np.maximum((chance * there).sum(1, keepdims=True), 1)
                q, predicted = (np.take_along_axis(x, at, 1)[:, 0] for x in (chance, pctr))
                columns = [clicked[:, 0], propensity, q, predicted, (chance * np.where(there, pctr, 0)).sum(1)]
                rows[name].append(np.stack([*columns, (chance * truth).sum(1)]))
        for name in targets:
            *log, of_truth = np.concatenate(rows[name], 1)
            found = estimate_policy(*log[:3], predicted=log[3], predicted_target=log[4])
            value = of_truth.mean()
            ratios[name].append({e: found[e].value / value for e in ("logged", "ips", "snips", "dr")})
            for e in ("ips", "snips", "dr"):
                covered[name, e] += found[e].low <= value <= found[e].high
    lines = []
    for name, values in ratios.items():
        cells = [interval([v["logged"] for v in values], ".2f")]
        for e in ("ips", "snips", "dr"):
            cells.append(f"{interval([v[e] for v in values], '.3f')} ({covered[name, e]} of {repeats})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    publish(
        "rerank_off_policy",
        f"Shop of 400 products, {repeats} seeds, {rounds} pages each, whose first place was explored by Thompson "
        "sampling with logged propensities. Judged are other policies for that place: estimate / true expected clicks, "
        "and in how many repetitions the estimate's 95 % interval holds the truth. Logged: clicks of the policy that "
        "made the log, which a naive reading of the log would take. DR with the ranker's own predictions.\n\n"
        "| judged policy | logged | IPS | SNIPS | DR |\n|---|---|---|---|---|\n" + "\n".join(lines),
    )
    for name, values in ratios.items():
        for e in ("ips", "snips", "dr"):
            ratio = np.array([v[e] for v in values])
            assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / np.sqrt(repeats) + 0.02, (name, e)
