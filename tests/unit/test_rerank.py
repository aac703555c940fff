"""Re-ranking: equal to brute force, no page breaks a rule or is silently short, the ledger adds up, costs are known."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference import rerank as twin

from aitems_engine._native import isa
from aitems_engine._native import rerank as native
from aitems_engine.catalog import ItemTable
from aitems_engine.rerank import Chain, Reranked, RuleContext, Slate

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
        (rng.integers(-1, 4, n).astype(np.int32), int(rng.integers(1, 4)), int(rng.choice([2, 4, 10_000])), relax_level)
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
