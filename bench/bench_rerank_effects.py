"""What freshness, ads, exploration and the user-mode dial do to clicks that are really expected, in a known world.

The world is the simplest that has what the rules trade: items with a true CTR, a ranker whose calibrated estimate is
noisy, positions that are looked at with 1 / log2(position + 1). All clicks and revenues are expectations under the
truth, so the intervals (95 %, normal, over pages or repetitions) hold nothing but the draw of pages. Simulated figures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aitems_engine.rerank import Chain, FreshnessController, Reranked, RuleContext, Slate, UserModeModel

K, N, PAGES = 20, 200, 2000
LOOKED_AT = 1 / np.log2(np.arange(2, K + 2))


def interval(values: np.ndarray, form: str = ".3f") -> str:
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{form}} ± {half:{form}}"


def clicks(page: Reranked, true_ctr: np.ndarray) -> float:
    return float((LOOKED_AT[: len(page.order)] * true_ctr[page.order]).sum())


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return estimated and true CTR of the candidates of a page, best estimate first; the estimate is calibrated."""
    estimate = np.sort(rng.beta(1.2, 30, N))[::-1].copy()
    return estimate, rng.beta(60 * estimate, 60 * (1 - estimate))


def test_freshness(publish: Callable[[str, str], None]) -> None:
    table = [
        "| target share | quality floor | controller | share of exposure | pages infeasible | clicks lost |",
        "|---|---|---|---|---|---|",
    ]
    for target, floor, controlled in (
        (0.05, 0.5, True),
        (0.1, 0.5, False),
        (0.1, 0.5, True),
        (0.2, 0.5, True),
        (0.2, 0.8, True),
    ):
        rng = np.random.default_rng(1)
        rule = {"rule": "freshness", "share": target, "max_age_days": 7, "quality_floor": floor}
        chain, controller = Chain.from_config({"rules": [rule]}), FreshnessController(target)
        shares, lost, infeasible = [], [], []
        for seed in range(PAGES):
            estimate, truth = draw(rng)
            age = np.where(rng.random(N) < 0.06, 1, 90).astype(np.float32)
            given = Slate(np.arange(N, dtype=np.int32), estimate, pctr=estimate.astype(np.float32), age_days=age)
            context = RuleContext(K, seed=seed, cold_share=controller.share if controlled else None)
            page = chain.run(given, context)
            controller.observe(page.cold_share)
            shares.append(page.cold_share)
            infeasible.append("freshness_infeasible" in page.flags)
            best = float((LOOKED_AT * truth[:K]).sum())
            lost.append(1 - clicks(page, truth) / best)
        table.append(
            f"| {target:.0%} | {floor} | {'yes' if controlled else 'no'} | {interval(np.array(shares), '.2%')} | "
            f"{np.mean(infeasible):.1%} | {interval(np.array(lost), '.2%')} |"
        )
    publish(
        "rerank_freshness",
        f"{PAGES} pages of {K} from {N} candidates, 6 % of them cold (without the rule that is their share).\n\n"
        + "\n".join(table),
    )


def test_ads(publish: Callable[[str, str], None]) -> None:
    table = [
        "| budget of organic loss | ads a page | organic value lost | ad revenue a page | organic clicks really lost |",
        "|---|---|---|---|---|",
    ]
    revenues = []
    for budget in (0.0, 0.02, 0.05, 0.1, 0.2):
        rng = np.random.default_rng(2)
        rule = {"rule": "ads", "max_ads": 5, "gap": 3, "organic_loss_budget": budget}
        chain = Chain.from_config({"rules": [rule]})
        shown, predicted, revenue, lost = [], [], [], []
        for seed in range(PAGES):
            estimate, truth = draw(rng)
            is_ad = rng.random(N) < 0.1
            bid = rng.gamma(2, 1, N).astype(np.float32)
            given = Slate(
                np.arange(N, dtype=np.int32), estimate, pctr=estimate.astype(np.float32), is_ad=is_ad, bid=bid
            )
            page = chain.run(given, RuleContext(K, seed=seed))
            looked = LOOKED_AT[: len(page.order)]
            earned = (looked * truth[page.order] * bid[page.order])[page.is_ad].sum()
            best = float((LOOKED_AT * truth[~is_ad][:K]).sum())
            organic = float((looked * truth[page.order])[~page.is_ad].sum())
            shown.append(page.is_ad.sum())
            predicted.append(page.organic_loss)
            revenue.append(earned)
            lost.append(1 - organic / best)
            assert page.organic_loss <= budget
        revenues.append(np.mean(revenue))
        table.append(
            f"| {budget:.0%} | {np.mean(shown):.2f} | {np.mean(predicted):.2%} | {interval(np.array(revenue))} | "
            f"{interval(np.array(lost), '.2%')} |"
        )
    publish(
        "rerank_ads",
        f"{PAGES} pages of {K} from {N} candidates, a tenth of them ads, at most 5 on a page, gap 3; money in units of "
        "one click's worth of the objective.\n\n" + "\n".join(table),
    )
    assert revenues == sorted(revenues)


def test_exploration(publish: Callable[[str, str], None]) -> None:
    """A small shop whose ranker knows an item by its own impressions and clicks only (a beta posterior)."""
    rounds, items, repeats = 3000, 60, 20
    policies = {
        "none": [],
        "Thompson, slots 1-4, rate 0.2": [
            {"rule": "exploration", "slots": [1, 2, 3, 4], "rate": 0.2, "floor": 0.0005, "pool": items}
        ],
        "Thompson, slots 1-4, rate 1": [
            {"rule": "exploration", "slots": [1, 2, 3, 4], "rate": 1.0, "floor": 0.0005, "pool": items}
        ],
        "uniform, slots 1-4, rate 0.2": [
            {"rule": "exploration", "slots": [1, 2, 3, 4], "rate": 0.0001, "floor": 0.2 / items, "pool": items}
        ],
    }
    k = 4
    table = [
        "| exploration | regret a page, first half | second half | IPS of another policy / truth | SNIPS / truth |",
        "|---|---|---|---|---|",
    ]
    for name, rules in policies.items():
        chain = Chain.from_config({"rules": rules, "position_weights": [1.0]})
        regret, ips, snips = np.zeros((repeats, 2)), [], []
        for repeat in range(repeats):
            rng = np.random.default_rng(repeat)
            truth = rng.beta(2, 38, items)
            shown, clicked = np.full(items, 40.0), np.full(items, 2.0)  # the prior
            best = np.sort(truth)[::-1][:k].sum()
            target = np.argsort(-truth)[rng.integers(0, 8, rounds)]  # the policy to be judged, in the first place
            weights, rewards = [], []
            for r in range(rounds):
                estimate = clicked / shown
                given = Slate(
                    np.arange(items, dtype=np.int32), estimate, pctr=estimate.astype(np.float32),
                    impressions=(shown - 40).astype(np.int64),
                )  # fmt: skip
                page = chain.run(given, RuleContext(k, seed=repeat * rounds + r))
                regret[repeat, 2 * r // rounds] += best - truth[page.order].sum()
                click = rng.random(k) < truth[page.order]
                shown[page.order] += 1
                clicked[page.order] += click
                weights.append((page.order[0] == target[r]) / page.propensities[0])
                rewards.append(click[0])
            weight, reward = np.array(weights), np.array(rewards)
            value = truth[target].mean()
            ips.append((weight * reward).mean() / value)
            snips.append((weight * reward).sum() / max(weight.sum(), 1e-9) / value)
        halves = [interval(2 * regret[:, h] / rounds, ".4f") for h in (0, 1)]
        judged = [interval(np.array(v), ".2f") for v in (ips, snips)] if rules else ["no support", "no support"]
        table.append(f"| {name} | {halves[0]} | {halves[1]} | {judged[0]} | {judged[1]} |")
    publish(
        "rerank_exploration",
        f"{items} items, pages of {k}, {rounds} pages, {repeats} repetitions; regret: true expected clicks below the "
        "best page. The judged policy shows one of the eight truly best items first, all alike.\n\n" + "\n".join(table),
    )


def test_mode(publish: Callable[[str, str], None]) -> None:
    """Two ways to click: who knows what they want minds the price, who strolls minds variety."""
    rng = np.random.default_rng(4)

    def session() -> tuple[bool, np.ndarray]:
        goal = bool(rng.random() < 0.5)
        return goal, np.array(
            [
                rng.beta(4, 2) if goal else rng.beta(2, 4),
                rng.poisson(1.5 if goal else 0.4),
                rng.poisson(2 if goal else 4),
                rng.gamma(2, 20 if goal else 8),
            ]
        )

    train = [session() for _ in range(4000)]
    model = UserModeModel.fit(np.array([s for _, s in train]), np.array([g for g, _ in train]))
    rules = [{"rule": "price", "weight": 0.2}, {"rule": "mmr", "strength": 0.4, "pool": N}]
    chains = {
        "fixed": Chain.from_config({"rules": rules}),
        "dial": Chain.from_config({"rules": rules, "dial": {"price": [0, 2], "diversity": [1.5, 0.1]}}),
    }
    gained: dict[str, list[tuple[bool, float]]] = {name: [] for name in chains}
    scored = []
    for seed in range(PAGES):
        goal, signals = session()
        probability = float(model.probabilities(signals[None])[0])
        scored.append((goal, probability))
        estimate, truth = draw(rng)
        group = rng.integers(0, 8, N)
        price = rng.lognormal(9, 0.6, N).astype(np.float32)
        vectors = (np.eye(8)[group] + 0.1 * rng.standard_normal((N, 8))).astype(np.float32)
        given = Slate(
            np.arange(N, dtype=np.int32), estimate, pctr=estimate.astype(np.float32), price=price, vectors=vectors
        )
        z = (np.log(price) - 9) / 0.6
        for name, chain in chains.items():
            page = chain.run(given, RuleContext(K, seed=seed, goal_probability=probability))
            ctr = truth[page.order] * (np.exp(-0.4 * z[page.order]) if goal else 1)
            if not goal:  # the n-th item of a group is worth 0.7 of the one before
                before = np.array(
                    [(group[page.order[:p]] == group[page.order[p]]).sum() for p in range(len(page.order))]
                )
                ctr = ctr * 0.7**before
            gained[name].append((goal, float((LOOKED_AT * ctr).sum())))
    positive = np.array([p for g, p in scored if g])
    negative = np.array([p for g, p in scored if not g])
    auc = (positive[:, None] > negative).mean()
    table = ["| users | clicks a page, fixed | with the dial | gain |", "|---|---|---|---|"]
    for name, wanted in (("strolling", False), ("goal-oriented", True)):
        fixed, dialled = (np.array([v for g, v in gained[c] if g == wanted]) for c in ("fixed", "dial"))
        table.append(f"| {name} | {fixed.mean():.3f} | {dialled.mean():.3f} | {interval(dialled - fixed)} |")
        assert (dialled - fixed).mean() > 0
    publish("rerank_mode", f"AUC of the mode on {PAGES} new sessions {auc:.3f}.\n\n" + "\n".join(table))
