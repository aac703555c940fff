"""Re-ranking: equal to brute force, no page breaks a rule or is silently short, the ledger adds up, costs are known."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.reference import rerank as twin

from aitems_engine._native import isa
from aitems_engine._native import rerank as native
from aitems_engine.catalog import ItemTable
from aitems_engine.errors import ConfigError, InvalidInputError
from aitems_engine.rerank import Chain, FreshnessController, Reranked, RuleContext, Slate, UserModeModel, mode
from aitems_engine.rerank.chain import KINDS

pytestmark = pytest.mark.native
NUM_ITEMS = 400
TABLE = ItemTable.from_columns(
    [f"i{i}" for i in range(NUM_ITEMS)],
    {
        "mall": [f"m{i % 13}" for i in range(NUM_ITEMS)],
        "brand": [None if i % 9 == 0 else f"b{i % 31}" for i in range(NUM_ITEMS)],
    },
)


def slate(rng: np.random.Generator, n: int = 120, **columns) -> Slate:
    items = rng.integers(0, NUM_ITEMS, n).astype(np.int32)  # with repeats: a page shows an item once
    scores = np.sort(rng.gamma(1, 0.03, n))[::-1].copy()
    age = rng.exponential(60, n).astype(np.float32)
    age[rng.random(n) < 0.2] = np.nan
    values = {
        "pctr": scores.clip(0, 0.9).astype(np.float32),
        "pcvr": rng.uniform(0, 0.2, n).astype(np.float32),
        "price": rng.lognormal(9, 1, n).astype(np.float32),
        "codes": {name: codes[items] for name, codes in TABLE.codes.items()},
        "age_days": age,
        "impressions": rng.integers(0, 5000, n),
        "is_ad": rng.random(n) < 0.15,
        "bid": rng.gamma(1, 2, n).astype(np.float32),
        "vectors": rng.standard_normal((n, 12)).astype(np.float32),
        "has_vector": rng.random(n) < 0.9,
        "seen": rng.random(n) < 0.1,
        "bought": rng.random(n) < 0.05,
        "in_stock": rng.random(n) < 0.95,
    }
    return Slate(items, scores, **{**values, **columns})


@pytest.mark.parametrize("level", isa.runnable())
@pytest.mark.parametrize("seed", range(25))
def test_diversity_equals_brute_force(seed: int, level: str) -> None:
    rng = np.random.default_rng(seed)
    n, dim = int(rng.integers(1, 13)), int(rng.integers(13, 70))
    relevance = np.sort(rng.random(n))[::-1].copy()
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    if n > 3:
        vectors[n - 1] = 2 * vectors[0]  # a copy: DPP never takes both while other rows are left
    present = (rng.random(n) < 0.8).astype(np.uint8)
    missing = np.flatnonzero(present == 0).tolist()
    rows = np.arange(n, dtype=np.int32)
    k, strength, window = int(rng.integers(1, n + 1)), float(rng.uniform(0.05, 0.95)), int(rng.integers(1, n + 2))
    got = native.mmr(relevance, vectors, rows, present, k, strength, 0.3, level)
    assert got.tolist() == twin.mmr(relevance, vectors, k, strength, 0.3, missing)
    for w in (window, 10_000):
        got = native.dpp(relevance, vectors, rows, present, k, strength, 0.3, w, 1e-4, level)
        assert got.tolist() == twin.dpp(relevance, vectors, k, strength, 0.3, w, 1e-4, missing)


@pytest.mark.parametrize("window", [4, 10_000])
def test_dpp_of_many_equals_brute_force(window: int) -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((150, 20)) + rng.standard_normal((6, 20))[rng.integers(0, 6, 150)]).astype(
        np.float32
    )
    relevance = np.sort(rng.random(150))[::-1].copy()
    rows = np.arange(150, dtype=np.int32)
    got = native.dpp(relevance, vectors, rows, None, 18, 0.4, 0.3, window, 1e-5)
    assert got.tolist() == twin.dpp(relevance, vectors, 18, 0.4, 0.3, window, 1e-5)


def test_dpp_of_almost_equally_relevant_rows_equals_brute_force() -> None:
    """Where bounds spare nothing, another way of computing the same takes over."""
    vectors = np.random.default_rng(2).standard_normal((150, 90)).astype(np.float32)
    relevance = np.linspace(1e-3, 0, 150)  # equal ones would be ordered by the twin's rounding
    rows = np.arange(150, dtype=np.int32)
    got = native.dpp(relevance, vectors, rows, None, 40, 0.4, 0.3, 10_000, 1e-5)
    assert got.tolist() == twin.dpp(relevance, vectors, 40, 0.4, 0.3, 10_000, 1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_calibrated_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, groups = int(rng.integers(1, 13)), int(rng.integers(1, 5))
    relevance = np.sort(rng.random(n))[::-1].copy()
    codes = rng.integers(-1, groups, n).astype(np.int32)
    target = rng.dirichlet(np.ones(groups))
    strength = float(rng.uniform(0, 1))
    got = native.calibrated(relevance, codes, target, n, strength)
    assert got.tolist() == twin.calibrated(relevance, codes.tolist(), target, n, strength)


@pytest.mark.parametrize("seed", range(60))
def test_page_equals_its_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(0, 25)), int(rng.integers(1, 15))
    items = rng.integers(0, 20, n).astype(np.int32)
    organic = rng.permutation(n).astype(np.int32)
    levels = rng.choice([0, 0, 0, 1, 2], n).astype(np.uint8)
    spacings = [
        (
            rng.integers(-1, 4, 20 if by_item else n).astype(np.int32),
            by_item,
            rng.integers(-1, 4, int(rng.choice([0, 2, 20]))).tolist(),
            int(rng.integers(1, 4)),
            int(rng.choice([2, 4, 10_000])),
            relax_level,
        )
        for by_item in [bool(rng.integers(2))]
        for relax_level in (1, 2, twin.NEVER)[: int(rng.integers(0, 4))]
    ]
    got = native.fill_page(
        np.ones(k), items, np.zeros(n), organic, np.zeros(0, np.int32), levels, 2, spacings,
        None, None, None, None, None, None, None,
    )  # fmt: skip
    rows, reached = twin.fill_page(k, items, organic.tolist(), levels, 2, spacings)
    assert got[0].tolist() == rows
    assert got[1].tolist() == reached


def test_chances_to_be_best_equal_many_draws() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, 12)
    deviations = rng.uniform(0.01, 1.5, 12)
    draws = rng.normal(means, deviations, (400_000, 12)).argmax(1)
    drawn = np.bincount(draws, minlength=12) / len(draws)
    np.testing.assert_allclose(native.chances_to_be_best(means, deviations), drawn, atol=0.006)


def random_config(rng: np.random.Generator) -> dict:
    """Any subset of the rules, in any order that is allowed."""
    order = rng.choice(["mmr", "dpp", "calibrated", "none"])
    possible = [
        {"rule": "exclude_items", "item_ids": [f"i{i}" for i in rng.integers(0, NUM_ITEMS, 40)]},
        {"rule": "exclude_attribute", "attribute": "mall", "values": ["m2", "m7"]},
        {"rule": "stock"},
        {"rule": "seen"},
        {"rule": "bought"},
        {"rule": "cap", "attribute": "mall", "most": int(rng.integers(1, 4))},
        {"rule": "cap", "attribute": "brand", "most": int(rng.integers(1, 4))},
        {"rule": "spacing", "attribute": "brand", "window": int(rng.integers(2, 6))},
        {"rule": "spacing", "attribute": "mall", "window": 5, "most": 2},
        {"rule": "freshness", "share": float(rng.uniform(0, 0.5)), "max_age_days": 7, "min_impressions": 100},
        {
            "rule": "ads", "max_ads": int(rng.integers(1, 6)), "gap": int(rng.integers(0, 5)),
            "top_slot_multiple": [None, 1.5][int(rng.integers(2))], "organic_loss_budget": float(rng.uniform(0, 0.5)),
        },
        {"rule": "exploration", "slots": [2, 5, 11], "pool": 20, "floor": 0.01, "ceiling": 0.8},
        {"rule": "price", "weight": 0.3},
    ]  # fmt: skip
    if order == "calibrated":
        possible.append({"rule": "calibrated", "attribute": "mall", "strength": 0.5})
    elif order != "none":
        possible.append({"rule": str(order), "strength": 0.4, "pool": 50})
    picked = [possible[i] for i in rng.permutation(len(possible)) if rng.random() < 0.6]
    picked.sort(key=lambda rule: rule["rule"] in ("mmr", "dpp", "calibrated"))  # a price after them is refused
    names = [
        f"{r['rule']}:{r['attribute']}" if "attribute" in r else r["rule"]
        for r in picked
        if r["rule"] in ("cap", "spacing", "seen", "bought")
    ]
    relax = [str(name) for name in rng.permutation(names)][: int(rng.integers(0, len(names) + 1))]
    return {"rules": picked, "relax": relax}


def check_page(chain: Chain, given: Slate, context: RuleContext, page: Reranked) -> None:
    """Assert everything a page promises, from the configuration alone."""
    rows = page.order
    assert len(set(given.items[rows].tolist())) == len(rows)
    config = {(r["rule"], r.get("attribute")): r for r in chain.config["rules"]}
    relaxed_kind = {name.split(":")[0] for name in page.relaxed}
    assert len(rows) == context.k or page.short_reason
    assert all(f"relaxed {name}" in page.flags for name in page.relaxed)
    assert set(page.relaxed) <= set(chain.config["relax"])
    names = TABLE.names["mall"]
    for (kind, attribute), rule in config.items():
        if kind == "exclude_items":
            assert not set(rule["item_ids"]) & {f"i{i}" for i in given.items[rows]}
        elif kind == "exclude_attribute":
            assert not set(rule["values"]) & {names[c] for c in given.codes["mall"][rows]}
        elif kind == "stock":
            assert given.in_stock[rows].all()
        elif kind in ("seen", "bought") and kind not in relaxed_kind:
            assert not getattr(given, kind)[rows].any()
        elif kind in ("cap", "spacing") and f"{kind}:{attribute}" not in page.relaxed:
            codes = given.codes[attribute][rows]
            window = rule.get("window", 10_000)
            for p in range(len(rows)):
                near = codes[max(0, p - window + 1) : p + 1]
                assert codes[p] < 0 or (near == codes[p]).sum() <= rule.get("most", 1)
    ads = np.flatnonzero(page.is_ad)
    np.testing.assert_array_equal(page.is_ad, given.is_ad[rows])
    if ("ads", None) in config:
        rule = config["ads", None]
        assert len(ads) <= rule["max_ads"]
        assert (np.diff(ads) > rule["gap"]).all()
        assert page.organic_loss <= rule["organic_loss_budget"] + 1e-12
        if rule["top_slot_multiple"] is None:
            assert 0 not in ads
    else:
        assert not len(ads)
    if ("exploration", None) in config:
        drawn = page.propensities < 1
        assert set(np.flatnonzero(drawn) + 1) <= {2, 5, 11}
        assert (page.propensities[drawn] >= 0.01 - 1e-7).all()
        assert (page.propensities[drawn] <= 0.8 + 1e-6).all()
    else:
        assert (page.propensities == 1).all()
    first, last = value_of(chain, given, page.steps[0].rows, ()), value_of(chain, given, rows, ads)
    for i, name in enumerate(("delta_clicks", "delta_revenue")):
        assert sum(getattr(e, name) for e in page.ledger) == pytest.approx(last[i] - first[i], rel=1e-6, abs=1e-9)


def value_of(chain: Chain, given: Slate, rows: np.ndarray, ads) -> tuple[float, float]:
    clicks = revenue = 0.0
    for p, row in enumerate(rows.tolist()):
        click = chain.position_weights(len(rows))[p] * float(given.pctr[row])
        clicks += click
        revenue += click * float(given.pcvr[row]) * float(given.price[row])
        revenue += click * float(given.bid[row]) if p in ads else 0.0
    return clicks, revenue


def random_pages(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count // 8):
        chain = Chain.from_config(random_config(rng), TABLE)
        for _ in range(8):
            given = slate(rng, int(rng.choice([0, 3, 25, 120])))
            context = RuleContext(
                int(rng.integers(1, 16)),
                seed=int(rng.integers(2**63)),
                history_codes={"mall": rng.integers(-1, 13, int(rng.integers(0, 9))).astype(np.int32)},
                previous_items=rng.integers(0, NUM_ITEMS, 5).astype(np.int32),
                goal_probability=float(rng.random()),
            )
            page = chain.run(given, context)
            check_page(chain, given, context, page)
            assert not set(context.previous_items.tolist()) & set(given.items[page.order].tolist())
            again = chain.run(given, context)
            assert again.order.tolist() == page.order.tolist()
            assert again.propensities.tolist() == page.propensities.tolist()


def test_no_random_page_breaks_a_rule() -> None:
    random_pages(2000, 1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_page_of_many_breaks_a_rule() -> None:
    random_pages(100_000, 2)


def test_the_same_on_every_level() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 50)).astype(np.float32)
    relevance = np.sort(rng.random(200))[::-1].copy()
    rows = np.arange(200, dtype=np.int32)
    for kwargs in ({}, {"window": 5}):
        orders = {
            tuple(native.dpp(relevance, vectors, rows, None, 30, 0.5, 0.3, kwargs.get("window", 999), 1e-5, level))
            for level in isa.runnable()
        }
        assert len(orders) == 1
    assert (
        len({tuple(native.mmr(relevance, vectors, rows, None, 30, 0.5, 0.3, level)) for level in isa.runnable()}) == 1
    )


def plain(n: int, **columns) -> Slate:
    """Items 0..n-1 with falling scores."""
    scores = np.linspace(0.9, 0.1, n)
    return Slate(np.arange(n, dtype=np.int32), scores, pctr=scores.astype(np.float32), **columns)


def test_a_hand_made_page() -> None:
    codes = np.array([1, 1, 1, 2, 2, 3], np.int32)
    chain = Chain.from_config(
        {"rules": [{"rule": "spacing", "attribute": "mall", "window": 2}], "relax": ["spacing:mall"]}
    )
    page = chain.run(plain(6, codes={"mall": codes}), RuleContext(6))
    assert page.order.tolist() == [0, 3, 1, 4, 2, 5]
    assert page.flags == ()
    short = chain.run(plain(3, codes={"mall": codes[:3]}), RuleContext(3))
    assert short.order.tolist() == [0, 1, 2]
    assert short.flags == ("relaxed spacing:mall",)
    assert short.relaxed == {"spacing:mall": 2}


def test_a_short_page_says_why() -> None:
    chain = Chain.from_config({"rules": [{"rule": "stock"}, {"rule": "cap", "attribute": "mall", "most": 1}]})
    given = plain(4, in_stock=np.array([True, True, True, False]), codes={"mall": np.array([0, 0, 1, 1], np.int32)})
    page = chain.run(given, RuleContext(4))
    assert page.order.tolist() == [0, 2]
    assert page.short_reason == "2 of 4: 4 candidates; stock took 1; limits: cap:mall"
    assert "short" in page.flags
    empty = chain.run(plain(0, in_stock=np.zeros(0, bool), codes={"mall": np.zeros(0, np.int32)}), RuleContext(4))
    assert empty.short_reason.startswith("0 of 4: 0 candidates")


def test_seen_items_come_back_before_a_page_is_short() -> None:
    seen = np.array([True, False, True, False])
    page = Chain.from_config({"rules": [{"rule": "seen"}], "relax": ["seen"]}).run(plain(4, seen=seen), RuleContext(3))
    assert page.order.tolist() == [1, 3, 0]
    assert page.flags == ("relaxed seen",)


def test_what_cannot_be_used_is_flagged_not_raised() -> None:
    given = plain(4)
    given.scores[1] = np.nan
    rules = [
        {"rule": "dpp", "strength": 0.5},
        {"rule": "cap", "attribute": "mall", "most": 1},
        {"rule": "ads", "max_ads": 1},
        {"rule": "freshness", "share": 0.1, "max_age_days": 7, "min_impressions": 9},
    ]
    page = Chain.from_config({"rules": rules}).run(given, RuleContext(4))
    assert page.order.tolist() == [0, 2, 3]
    assert page.flags == (
        "scores that are no numbers: 1",
        "dpp skipped: no vectors",
        "cap:mall skipped: no mall",
        "ads skipped: no is_ad",
        "freshness skipped: no age_days or impressions",
        "short",
    )


def test_an_item_is_shown_once_as_ad_or_organic() -> None:
    given = Slate(
        np.array([7, 8, 9, 8], np.int32), np.array([0.9, 0.8, 0.7, 0.8]), pctr=np.full(4, 0.1, np.float32),
        is_ad=np.array([False, False, False, True]), bid=np.full(4, 50, np.float32),
    )  # fmt: skip
    chain = Chain.from_config({"rules": [{"rule": "ads", "max_ads": 2, "gap": 1, "organic_loss_budget": 1}]})
    page = chain.run(given, RuleContext(4))
    assert given.items[page.order].tolist() == [7, 8, 9]
    assert page.is_ad.tolist() == [False, True, False]
    assert page.short_reason


def test_cold_share_follows_its_target() -> None:
    rng = np.random.default_rng(3)
    chain = Chain.from_config(
        {"rules": [{"rule": "freshness", "share": 0.15, "max_age_days": 7, "quality_floor": 0.2}]}
    )
    controller = FreshnessController(0.15)
    shares = []
    for seed in range(1500):
        age = np.where(rng.random(100) < 0.06, 1, 30).astype(np.float32)
        given = plain(100, age_days=age)
        page = chain.run(given, RuleContext(20, seed=seed, cold_share=controller.share))
        shares.append(page.cold_share)
        controller.observe(page.cold_share)
    assert np.mean(shares[200:]) == pytest.approx(0.15, abs=0.005)
    page = chain.run(plain(100, age_days=np.full(100, 30, np.float32)), RuleContext(20))
    assert "freshness_infeasible" in page.flags


def test_thompson_sampling_finds_the_uncertain_one() -> None:
    """An item with few impressions is explored more than an equal one with many."""
    scores = np.array([0.10, 0.09, 0.09])
    given = Slate(
        np.arange(3, dtype=np.int32), scores, pctr=scores.astype(np.float32), impressions=np.array([10**7, 10**7, 10])
    )
    chain = Chain.from_config({"rules": [{"rule": "exploration", "slots": [1], "pool": 3, "prior_impressions": 20}]})
    shown = np.bincount([chain.run(given, RuleContext(1, seed=s)).order[0] for s in range(2000)], minlength=3) / 2000
    assert shown[2] > 0.15 > 0.02 > shown[1]


def test_the_dial_turns_with_the_mode() -> None:
    rng = np.random.default_rng(0)
    given = plain(60, price=rng.lognormal(9, 1, 60).astype(np.float32))
    chain = Chain.from_config({"rules": [{"rule": "price", "weight": 0.5}], "dial": {"price": [0, 2]}})
    strolling, goal = (chain.run(given, RuleContext(10, goal_probability=p)) for p in (0.0, 1.0))
    assert strolling.order.tolist() == list(range(10))
    assert given.price[goal.order].mean() < given.price[strolling.order].mean()


def test_user_mode_is_learned() -> None:
    rng = np.random.default_rng(0)
    signals = np.column_stack([rng.random(4000), rng.poisson(1, 4000), rng.poisson(3, 4000), rng.gamma(2, 10, 4000)])
    truth = UserModeModel(-2.0, (3.0, 1.0, 0.2, 0.1))
    goal = rng.random(4000) < truth.probabilities(signals)
    fitted = UserModeModel.fit(signals, goal)
    assert np.abs(fitted.probabilities(signals) - truth.probabilities(signals)).mean() < 0.03
    assert UserModeModel.from_json(fitted.to_json()) == fitted
    assert fitted.probability({"filters": math.nan}) == fitted.probability({})
    with pytest.raises(InvalidInputError, match="both modes"):
        UserModeModel.fit(signals, np.ones(4000, bool))


BAD = [
    ({"rulez": []}, r"config\.rulez is unknown; allowed are page_size"),
    ({"rules": [{"rule": "shuffle"}]}, r"rules\[0\]\.rule must be one of exclude_items, .*, got 'shuffle'"),
    ({"rules": [{"rule": "cap", "attribute": "mall"}]}, r"rules\[0\]\.most is missing; it must be a whole number"),
    ({"rules": [{"rule": "cap", "attribute": "mall", "most": 0}]}, r"rules\[0\]\.most must be a whole number from 1"),
    ({"rules": [{"rule": "cap", "attribute": "shop", "most": 1}]}, r"no 'shop'; it has mall, brand"),
    ({"rules": [{"rule": "mmr", "strength": 2}]}, r"rules\[0\]\.strength must be a number from 0 to 1, got '2'"),
    ({"rules": [{"rule": "seen"}, {"rule": "seen"}]}, r"already a rule 'seen'"),
    ({"rules": [{"rule": "mmr", "strength": 1}, {"rule": "dpp", "strength": 1}]}, r"mmr and dpp each make an order"),
    ({"rules": [{"rule": "mmr", "strength": 1}, {"rule": "price", "weight": 1}]}, r"would undo 'mmr'"),
    ({"rules": [{"rule": "stock"}], "relax": ["stock"]}, r"relax\[0\]: 'stock' is never given up"),
    ({"rules": [], "relax": ["cap:mall"]}, r"there is no rule 'cap:mall'"),
    ({"rules": [{"rule": "spacing", "attribute": "mall", "window": 2, "most": 2}]}, r"forbids nothing"),
    ({"rules": [{"rule": "freshness", "share": 0.1}]}, r"say what is cold"),
    ({"rules": [{"rule": "exploration", "slots": [1], "pool": 50, "floor": 0.1}]}, r"more than 1 together"),
    ({"page_size": 5, "rules": [{"rule": "exploration", "slots": [9]}]}, r"position 9 is beyond page_size 5"),
    ({"page_size": 20, "rules": [{"rule": "cap", "attribute": "mall", "most": 1}]}, r"fewer than the 20 positions"),
    ({"rules": [{"rule": "exclude_attribute", "attribute": "mall", "values": TABLE.names["mall"]}]}, r"every value"),
    ({"rules": [], "dial": {"diversity": [1]}}, r"dial\.diversity must be two numbers"),
    ({"rules": [], "position_weights": [1, 2]}, r"none larger than the one before"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "message"), BAD)
def test_a_bad_configuration_names_the_path(config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chain.from_config(config, TABLE)


def test_a_slate_of_wrong_columns_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"price must be float32 of shape \(3,\), got float64"):
        plain(3, price=np.zeros(3))


def test_falling_order_is_that_of_sorting() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 7, 1000):
        for scores in (
            rng.standard_normal(n),
            rng.integers(-2, 3, n) * 0.5,
            np.zeros(n),
            rng.standard_normal(n) * 1e300,
        ):
            scores = scores.copy()
            scores[rng.random(n) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
            wanted = [i for i in np.argsort(-scores, kind="stable").tolist() if math.isfinite(scores[i])]
            assert native.falling_order(scores).tolist() == wanted


def test_relevance_and_putting_first() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 40):
        scores, organic = rng.standard_normal(n), rng.permutation(n).astype(np.int32)
        rows = organic[: rng.integers(1, n + 1)]
        own = scores[rows]
        span = own.max() - own.min()
        wanted = (own - own.min()) / span if span else np.zeros(len(own))
        assert native.relevance(scores, rows).tolist() == wanted.tolist()
        first = rng.permutation(rows)[: len(rows) // 2]
        others = [row for row in organic.tolist() if row not in first]
        assert native.put_first(first, organic, n).tolist() == first.tolist() + others
    assert native.relevance(np.ones(3), np.array([0, 2], np.int32)).tolist() == [0, 0]
    for rows in ([3], [-1]):
        with pytest.raises(InvalidInputError, match="rows from 0 to 3"):
            native.put_first(np.array(rows, np.int32), np.zeros(1, np.int32), 3)


def test_vectors_of_the_catalogue_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((NUM_ITEMS, 12)).astype(np.float32)
    vectors[::7] = 0
    for rule in ("mmr", "dpp"):
        chain = Chain.from_config({"rules": [{"rule": rule, "strength": 0.5}]}, TABLE)
        given = slate(rng, has_vector=None)
        copied = replace(given, vectors=vectors[given.items])
        shared = replace(given, vectors=vectors, vector_rows=given.items)
        pages = [chain.run(s, RuleContext(20)).order.tolist() for s in (copied, shared)]
        part = shared.part(slice(0, len(shared)))
        assert pages[0] == pages[1] == chain.run(part, RuleContext(20)).order.tolist()
    with pytest.raises(InvalidInputError, match="not with has_vector"):
        replace(given, vectors=vectors, vector_rows=given.items, has_vector=np.ones(len(given), bool))


def test_dry_run_shows_every_rule() -> None:
    rules = [{"rule": "seen"}, {"rule": "cap", "attribute": "mall", "most": 1}]
    given = plain(4, seen=np.array([True, False, False, False]), codes={"mall": np.array([0, 1, 1, 2], np.int32)})
    text = Chain.from_config({"rules": rules}).dry_run(given, RuleContext(2))
    assert [line.split()[0] for line in text.splitlines()] == ["rule", "(by", "seen", "cap:mall", "(page)"]


def test_propensities_are_those_of_the_draw() -> None:
    """Weighting by 1 / propensity counts every item that could be shown once, also where a cap forbids some."""
    scores = np.linspace(0.12, 0.05, 8)
    codes = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32)
    given = Slate(np.arange(8, dtype=np.int32), scores, pctr=scores.astype(np.float32), codes={"mall": codes})
    rules = [
        {"rule": "exploration", "slots": [1, 2], "pool": 8, "floor": 0.03, "ceiling": 0.6},
        {"rule": "cap", "attribute": "mall", "most": 1},
    ]
    chain = Chain.from_config({"rules": rules})
    pages = [chain.run(given, RuleContext(2, seed=seed)) for seed in range(4000)]
    weight = np.array([1 / page.propensities for page in pages])
    first = np.bincount([page.order[0] for page in pages], weight[:, 0], 8) / len(pages)
    np.testing.assert_allclose(first, 1, atol=0.25)  # standard error at the floor: 0.09
    assert weight[:, 1].mean() == pytest.approx(6, abs=0.5)  # the two of the first one's mall cannot come


def test_unknown_predictions_count_as_nothing() -> None:
    """Without a ranker's answer the page stands, and the ledger holds no NaN."""
    rng = np.random.default_rng(0)
    nothing = np.full(120, np.nan, np.float32)
    given = slate(rng, 120, pctr=nothing, pcvr=nothing, price=nothing, bid=nothing)
    for _ in range(20):
        page = Chain.from_config(random_config(rng), TABLE).run(given, RuleContext(10))
        assert len(page.order) == 10 or page.short_reason
        assert all(e.delta_clicks == e.delta_revenue == 0 for e in page.ledger)
        assert (page.propensities == 1).all()


def test_the_page_of_the_docs_is_true() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "reranking.md").read_text(encoding="utf-8")
    config = json.loads(text.split("```json\n")[1].split("```")[0])
    table = ItemTable.from_columns(
        [f"p-{i}" for i in range(300)],
        {name: [f"{name} {i % 30}" for i in range(300)] for name in ("category_1", "category", "mall")},
    )
    chain = Chain.from_config(config, table)
    listed = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")}
    assert {name.strip(" `") for names in listed for name in names.split(",")} == KINDS.keys()
    for kind, rule in KINDS.items():
        row = next(line for line in text.splitlines() if line.startswith("| `") and f"`{kind}`" in line.split("|")[1])
        for name in rule.options:
            assert f"`{name}`" in row, f"docs/reranking.md does not name option {name} of {kind}"
    rng = np.random.default_rng(0)
    items = np.arange(300, dtype=np.int32)
    given = slate(rng, 300, codes={name: codes[items] for name, codes in table.codes.items()})
    page = chain.run(replace(given, items=items), RuleContext(20))
    assert len(page.order) == 20
    assert not {1, 7} & set(page.order.tolist())


def test_the_example_of_the_user_mode_is_true() -> None:
    assert doctest.testmod(mode).failed == 0


def test_a_filter_after_exploration_still_gives_true_propensities() -> None:
    in_stock = np.array([True, False, True, True, False, True])
    given = plain(6, in_stock=in_stock)
    rules = [{"rule": "exploration", "slots": [1], "pool": 6, "floor": 0.05, "ceiling": 0.6}, {"rule": "stock"}]
    chain = Chain.from_config({"rules": rules})
    pages = [chain.run(given, RuleContext(1, seed=seed)) for seed in range(3000)]
    assert all(in_stock[page.order[0]] and page.propensities[0] < 1 for page in pages)
    assert np.mean([1 / page.propensities[0] for page in pages]) == pytest.approx(4, abs=0.3)
