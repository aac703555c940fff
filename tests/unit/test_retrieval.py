"""Retrievers against their definitions written slowly, their files, their measures and their commands."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine.cli import main
from aitems_engine.errors import BundleError, InvalidInputError
from aitems_engine.evaluation.ranking import bootstrap_mean, evaluate_ranking, gini
from aitems_engine.events import Interactions, leave_one_out
from aitems_engine.retrieval import Popularity, Retriever, open_retriever, save_retriever
from aitems_engine.training import retrieval as training
from aitems_engine.training.two_tower import TwoTowerSettings, fit_two_tower

_spec = importlib.util.spec_from_file_location(
    "slow_ranking", Path(__file__).resolve().parent.parent / "reference" / "slow_ranking.py"
)
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)


def shop(seed: int = 0, users: int = 60, items: int = 25, repeats: bool = True) -> Interactions:
    """Two groups of users with own favourites, items nobody touched, an item twice in a history."""
    rng = np.random.default_rng(seed)
    events = []
    for u in range(users):
        weights = 0.1 + rng.random(items - 2) / 5 + 4 * (np.arange(items - 2) % 2 == u % 2)
        chosen = rng.choice(items - 2, rng.integers(1, 9), p=weights / weights.sum(), replace=repeats)
        events += [(f"u{u}", f"i{i}") for i in chosen]
    x = Interactions.from_events([e[0] for e in events], [e[1] for e in events])
    return x.over([f"i{i}" for i in range(items)])


def dense(x: Interactions) -> np.ndarray:
    matrix = np.zeros((len(x), x.num_items))
    matrix[x.users(), x.items] = 1
    return matrix


FITS = {
    "popularity": training.fit_popularity,
    "item-knn": lambda x: training.fit_item_knn(x, neighbours=6, shrinkage=3, decay=0.9),
    "ease": lambda x: training.fit_ease(x, l2=5),
    "gf-cf": lambda x: training.fit_gf_cf(x, rank=5),
    "ials": lambda x: training.fit_ials(x, rank=6, epochs=3),
    "two-tower": lambda x: fit_two_tower(x, TwoTowerSettings(dim=8, users=32, uniform=16, threads=1)).retriever,
}


@pytest.fixture(params=FITS)
def retriever(request: pytest.FixtureRequest) -> Retriever:
    return FITS[request.param](shop())


def test_popularity_decays() -> None:
    x = Interactions.from_events(["u", "u", "v"], ["a", "b", "b"], np.array([0, 86_400_000, 3 * 86_400_000]))
    assert training.fit_popularity(x, half_life_days=1).weights.tolist() == [0.125, 1.25]
    assert training.fit_popularity(x).weights.tolist() == [1, 2]


def test_item_knn_equals_its_definition() -> None:
    x = shop()
    r = dense(x)
    common = r.T @ r
    degree = np.diag(common).copy()
    np.fill_diagonal(common, 0)
    similar = common / (np.sqrt(np.outer(degree, degree)) + 3 + 1e-9)
    kept = np.zeros_like(similar)
    for i, row in enumerate(similar):
        best = np.argsort(-row, kind="stable")[:6]
        kept[i, best] = row[best]
    scores = FITS["item-knn"](x).scores(x)
    for u in range(len(x)):
        expected = sum(0.9**age * kept[i] for age, i in enumerate(x.history(u)[::-1]))
        np.testing.assert_allclose(scores[u], expected, rtol=1e-5, atol=1e-6)


def test_ease_equals_its_definition() -> None:
    x = shop(repeats=False)
    r = dense(x)
    inverse = np.linalg.inv(r.T @ r + 5 * np.eye(r.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(FITS["ease"](x).scores(x), r @ weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0.5, 0.3])
def test_gf_cf_equals_its_definition(power: float) -> None:
    x = shop(repeats=False)
    r = dense(x)
    users, items = r.sum(1), r.sum(0)
    root = np.where(items > 0, 1 / np.sqrt(np.maximum(items, 1)), 0)
    graph = r / (users**power)[:, None] * root
    v = np.linalg.svd(graph)[2][:5].T
    expected = r @ (graph.T @ graph + 0.3 * np.diag(root) @ v @ v.T @ np.diag(np.sqrt(items)))
    model = training.fit_gf_cf(x, rank=5, user_power=power)
    np.testing.assert_allclose(model.scores(x), expected, rtol=1e-4, atol=1e-5)


def test_ials_solves_its_equations() -> None:
    x = shop(repeats=False)
    model = FITS["ials"](x)
    y, r = model.vectors.astype(np.float64), dense(x)
    for u in range(len(x)):
        a = 0.1 * y.T @ y + (y * r[u][:, None]).T @ y + 0.002 * (r[u].sum() + 0.1 * len(y)) * np.eye(6)
        np.testing.assert_allclose(model.scores(x)[u], y @ np.linalg.solve(a, y.T @ r[u]), rtol=1e-3, atol=1e-4)


def test_histories_do_not_influence_one_another(retriever: Retriever) -> None:
    x = shop(1)
    together = retriever.scores(x)
    for u in (0, 7, 30):
        np.testing.assert_allclose(retriever.scores(x.take([u]))[0], together[u], rtol=1e-4, atol=1e-6)


def test_an_empty_history(retriever: Retriever) -> None:
    nobody = Interactions(
        ["n"], list(retriever.item_ids), np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.int64)
    )
    scores = retriever.scores(nobody)
    assert scores.shape == (1, 25)
    assert np.isfinite(scores).all()


def test_it_finds_the_group_again(retriever: Retriever) -> None:
    split = leave_one_out(shop(2, users=300, repeats=False))
    fitted = FITS[retriever.kind](split.train)
    found = evaluate_ranking(fitted, split.train, split.test, (5,)).means()["recall@5"]
    # of some 20 unseen items about 8 are of the user's group
    assert found > (0.15 if retriever.kind == "popularity" else 0.45)


def test_files(retriever: Retriever, tmp_path: Path) -> None:
    x = shop()
    save_retriever(tmp_path / "m", retriever, x, facts={"seconds": 1.5})
    opened, known = open_retriever(tmp_path / "m")
    np.testing.assert_array_equal(opened.scores(x), retriever.scores(x))
    assert known is not None
    assert known.user_ids == x.user_ids
    np.testing.assert_array_equal(known.items, x.items)
    save_retriever(tmp_path / "n", retriever)
    assert open_retriever(tmp_path / "n")[1] is None
    path = tmp_path / "m" / "retriever.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"retriever\.safetensors"):
        open_retriever(tmp_path / "m")


def test_what_does_not_fit_is_refused() -> None:
    x = shop()
    for fit, options in [
        (training.fit_popularity, {"half_life_days": -1}),
        (training.fit_item_knn, {"neighbours": 0}),
        (training.fit_item_knn, {"decay": 1.5}),
        (training.fit_ease, {"l2": 0}),
        (training.fit_ease, {"l2": float("nan")}),
        (training.fit_gf_cf, {"alpha": -1}),
        (training.fit_gf_cf, {"user_power": float("nan")}),
        (training.fit_ials, {"rank": 0}),
        (training.fit_ials, {"unobserved": 0}),
    ]:
        with pytest.raises(InvalidInputError, match="got"):
            fit(x, **options)


class Fixed:
    """A retriever with given scores."""

    kind = "fixed"

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores
        self.item_ids = [str(i) for i in range(scores.shape[1])]

    def scores(self, histories: Interactions) -> np.ndarray:
        """Return the row that a user's id names."""
        return self._scores[[int(user) for user in histories.user_ids]].astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_measures_equal_all_orders(data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    seen = data.draw(st.sets(st.integers(0, 4), max_size=2))
    wanted = data.draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
    ids = [str(i) for i in range(5)]

    def histories(items: set[int]) -> Interactions:
        n = len(items)
        return Interactions(["0"], ids, np.array([0, n]), np.array(sorted(items), np.int32), np.full(n, -1))

    ks = (1, 2, 3, 7)
    found = evaluate_ranking(Fixed(np.array([scores])), histories(seen), histories(wanted), ks)
    left = {ids[i]: float(s) for i, s in enumerate(scores) if i not in seen}
    relevant = {ids[i] for i in wanted}
    for k in ks:
        for name in ("recall", "ndcg", "mrr"):
            expected = slow.expected(getattr(slow, name), left, relevant, k)
            assert found.by_user[f"{name}@{k}"][0] == pytest.approx(expected)
    assert found.seen_targets == len(seen & wanted)


def test_measures_equal_trec_eval() -> None:
    """trec_eval breaks ties by id, ours are means over all orders of tied items: it is asked about each of these."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng, users, items, ks = np.random.default_rng(0), 40, 7, (1, 3, 5, 7)
    ids = [f"i{i}" for i in range(items)]
    scores = rng.integers(0, 3, (users, items)).astype(np.float32)
    scores[::3] = rng.permuted(np.tile(np.arange(items), (len(scores[::3]), 1)), axis=1)  # without ties
    wanted = [rng.permutation(items)[: rng.integers(0, 4)] for _ in range(users)]  # some have nothing to find
    seen = [rng.permutation(items)[: rng.integers(0, 3)] for _ in range(users)]

    def histories(lists: list[np.ndarray]) -> Interactions:
        splits = np.cumsum([0, *map(len, lists)])
        packed = np.concatenate(lists).astype(np.int32)
        return Interactions([str(u) for u in range(users)], ids, splits, packed, np.full(len(packed), -1))

    found = evaluate_ranking(Fixed(scores), histories(seen), histories(wanted), ks)
    assert found.users.tolist() == [u for u in range(users) if len(wanted[u])]
    relevant, runs, orders_of = {}, {}, {}
    for u in found.users.tolist():
        left = [i for i in range(items) if i not in seen[u]]
        falling = -np.sort(-scores[u, left])
        orders_of[u] = [o for o in itertools.permutations(left) if (scores[u, list(o)] == falling).all()]
        for number, order in enumerate(orders_of[u]):
            relevant[f"{u}.{number}"] = {ids[i]: 1 for i in wanted[u]}
            runs[f"{u}.{number}"] = {ids[i]: float(-place) for place, i in enumerate(order)}
    measures = {f"{name}.{','.join(map(str, ks))}" for name in ("recall", "ndcg_cut")} | {"recip_rank"}
    told = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(runs)
    for row, u in enumerate(found.users.tolist()):
        each = [told[f"{u}.{number}"] for number in range(len(orders_of[u]))]
        for k in ks:
            expected = {
                "recall": [one[f"recall_{k}"] for one in each],
                "ndcg": [one[f"ndcg_cut_{k}"] for one in each],
                "mrr": [one["recip_rank"] * (one["recip_rank"] >= 1 / k - 1e-9) for one in each],
            }
            for name, values in expected.items():
                assert found.by_user[f"{name}@{k}"][row] == pytest.approx(np.mean(values), abs=1e-9)


def test_one_score_for_all_is_worth_a_random_order() -> None:
    x = shop(4, users=300)
    split = leave_one_out(x)
    flat = Popularity(x.item_ids, np.ones(25, np.float32))
    found = evaluate_ranking(flat, split.train, split.test, (5,), exclude_seen=False).means()
    assert found["recall@5"] == pytest.approx(5 / 25)


def test_measures_of_lists() -> None:
    assert gini(np.array([1, 1, 1])) == pytest.approx(0)
    assert gini(np.array([0, 0, 9])) == pytest.approx(2 / 3)
    assert gini(np.zeros(3, np.int64)) == 0
    x = shop(5)
    split = leave_one_out(x)
    found = evaluate_ranking(FITS["popularity"](x), split.train, split.test, (3,), exclude_seen=False).means()
    assert found["coverage@3"] == pytest.approx(3 / 25)
    mean, low, high = bootstrap_mean(np.arange(100.0))
    assert low < mean == 49.5 < high


def test_wrong_questions() -> None:
    x = shop()
    split = leave_one_out(x)
    flat = FITS["popularity"](x)
    with pytest.raises(InvalidInputError, match="no user has an item"):
        evaluate_ranking(flat, x, x.where(np.zeros(len(x.items), bool)))
    with pytest.raises(InvalidInputError, match="same users"):
        evaluate_ranking(flat, x.take([0]), split.test)
    with pytest.raises(InvalidInputError, match="every k"):
        evaluate_ranking(flat, split.train, split.test, (0,))


def write_lines(path: Path, x: Interactions) -> None:
    lines = [
        " ".join([u, *(x.item_ids[i] for i in x.history(n))]) for n, u in enumerate(x.user_ids) if len(x.history(n))
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", FITS)
def test_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = leave_one_out(shop(6, users=80))
    write_lines(tmp_path / "train.txt", split.train)
    write_lines(tmp_path / "test.txt", split.test)
    model, top = tmp_path / "model", tmp_path / "top.jsonl"
    assert main(["train", "retrieval", name, "--events", str(tmp_path / "train.txt"), "--out", str(model)]) == 0
    assert f"{name}: 80 users" in capsys.readouterr().out
    other = tmp_path / "other"
    assert main(["train", "retrieval", "popularity", "--events", str(tmp_path / "train.txt"), "--out", str(other)]) == 0
    asked = ["--model", str(model), "--model", str(other), "--test", str(tmp_path / "test.txt"), "--k", "5"]
    assert main(["evaluate", "retrieval", *asked, "--out", str(tmp_path / "report")]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert 0 < metrics["model"]["recall@5"] <= 1
    page = (tmp_path / "report" / "report.md").read_text()
    assert "model minus the others" in page
    assert (tmp_path / "report" / "measures.png").exists()
    known = ["--histories", str(tmp_path / "train.txt")]
    assert main(["recommend", "--model", str(model), *known, "--k", "3", "--exclude-seen", "--out", str(top)]) == 0
    rows = [json.loads(line) for line in top.read_text().splitlines()]
    assert {r["user_id"] for r in rows} == set(split.train.user_ids)
    seen = {(u, split.train.item_ids[i]) for n, u in enumerate(split.train.user_ids) for i in split.train.history(n)}
    assert not {(r["user_id"], r["item_id"]) for r in rows} & seen
    assert {r["rank"] for r in rows} == {1, 2, 3}


def test_commands_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "e.txt", shop())
    events = ["--events", str(tmp_path / "e.txt")]
    for words, message in [
        (
            ["train", "retrieval", "ease", *events, "--out", str(tmp_path / "m"), "--rank", "3"],
            "--rank is for gf-cf, ials",
        ),
        (
            ["train", "retrieval", "ease", "--events", str(tmp_path / "no.txt"), "--out", str(tmp_path / "m")],
            "No such file",
        ),
        (["recommend", "--model", str(tmp_path), "--out", str(tmp_path / "o.csv")], "is not a bundle"),
        (
            ["evaluate", "retrieval", "--model", "a", "--model", "b/a", "--test", "t.txt", "--out", "r"],
            "different names",
        ),
    ]:
        assert main(words) == 1
        assert message in capsys.readouterr().err


def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "retrieval.md").read_text(encoding="utf-8")
    commands, programs = (re.findall(rf"```{kind}\n(.*?)```", page, re.S) for kind in ("bash", "python"))
    monkeypatch.chdir(tmp_path)
    split = leave_one_out(shop(7, users=80))
    write_lines(tmp_path / "histories.txt", shop(7, users=80))
    for name, side in (("events.txt", split.train), ("later.txt", split.test)):
        write_lines(tmp_path / name, side)
    rows = ["product_id,title,category", *(f"i{i},t,c{i % 2}" for i in range(25))]
    (tmp_path / "products.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    exec("\n".join(programs), {})  # noqa: S102
    for command in "".join(commands).splitlines():
        words = command.replace("events.parquet", "events.txt").replace("later.parquet", "later.txt").split()
        assert words[0] == "aitems"
        assert main(words[1:]) == 0
    assert (tmp_path / "top.parquet").exists()
