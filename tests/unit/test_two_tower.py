"""The two towers: torch against serving, the loss against its definition, training, resuming, cold items, refusals."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.cli import main
from aitems_engine.errors import BundleError, InvalidInputError, ModelMismatchError, TrainingError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import Interactions, leave_one_out
from aitems_engine.retrieval import TwoTower, open_retriever, save_retriever
from aitems_engine.retrieval import files as retriever_files
from aitems_engine.runtime import safetensors_bytes
from aitems_engine.training.losses import sampled_softmax_loss
from aitems_engine.training.two_tower import (
    TwoTowerSettings,
    TwoTowerTraining,
    _Batches,
    best_epoch,
    fit_two_tower,
    normalize,
)

_spec = importlib.util.spec_from_file_location(
    "slow_two_tower", Path(__file__).resolve().parent.parent / "reference" / "slow_two_tower.py"
)
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)


def shop(seed: int = 0, users: int = 200, items: int = 30, cold: int = 0, skew: float = 0.0) -> Interactions:
    """Users of three tastes; item i is of taste i % 3; the last `cold` items are never touched."""
    rng = np.random.default_rng(seed)
    who, what = [], []
    touched = items - cold
    for u in range(users):
        weights = (0.05 + (np.arange(touched) % 3 == u % 3)) / (1 + np.arange(touched)) ** skew
        chosen = rng.choice(touched, rng.integers(1, 9), p=weights / weights.sum(), replace=False)
        who += [f"u{u}"] * len(chosen)
        what += [f"i{i}" for i in chosen]
    return Interactions.from_events(who, what).over([f"i{i}" for i in range(items)])


def tastes(items: int = 30) -> ItemTable:
    ids = [f"i{i}" for i in range(items)]
    return ItemTable.from_columns(ids, {"taste": [str(i % 3) for i in range(items)], "mall": [None] * items})


def settings(**changes) -> TwoTowerSettings:
    return TwoTowerSettings(
        **{"dim": 8, "users": 32, "uniform": 16, "epochs": 8, "threads": 1, "device": "cpu", **changes}
    )


def weights_of(training: TwoTowerTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


VARIANTS = {
    "mean": {},
    "hidden layers": {"hidden": (12, 6)},
    "recent items of the past": {"past_only": True, "decay": 0.7, "longest": 3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_torch_and_serving_are_equal(name: str) -> None:
    x = shop(1)
    chosen = settings(epochs=2, **VARIANTS[name])
    found = fit_two_tower(x, chosen, items=tastes())
    model, retriever = found.model, found.retriever
    with torch.no_grad():
        vectors = model.items(torch.arange(30))
        items = normalize(vectors).numpy()
        assert np.abs(items - retriever.vectors).max() <= 1e-5
        for u in range(0, 200, 7):
            history = x.history(u)[-chosen.longest :] if chosen.past_only else x.history(u)
            ages = np.arange(len(history))[::-1].copy()
            weights = torch.from_numpy(chosen.decay**ages).float()
            user = model.user_tower(vectors[history.tolist()][None], weights[None, None])[0, 0].numpy()
            served = retriever.queries(x.take([u]))[0]
            assert np.abs(user - served).max() <= 1e-5
            assert np.abs(retriever.scores(x.take([u]))[0] - items @ user).max() <= 1e-5
            layers = [(w, b) for w, b in retriever.layers]
            expected = slow.user_vector(
                x.history(u).tolist(), retriever.items, layers, retriever.decay, retriever.longest
            )
            np.testing.assert_allclose(served, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(retriever.vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("logq", [0.0, 0.4, 1.0])
def test_the_loss_is_its_definition(logq: float) -> None:
    rng = np.random.default_rng(5)
    users, columns = rng.normal(size=(6, 3, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    own, hidden = rng.integers(0, 9, (6, 3)), rng.random((6, 9)) < 0.3
    np.put_along_axis(hidden, own, True, 1)
    draws, expected = rng.integers(1, 4, 9).astype(np.float32), rng.uniform(0.01, 5, 9).astype(np.float32)
    tensors = [torch.from_numpy(v) for v in (users, columns, own, hidden, draws, expected)]
    found = sampled_softmax_loss(*tensors, temperature=0.5, logq=logq).numpy()
    for n in range(6):
        for t in range(3):
            wanted = slow.sampled_loss(users[n, t], columns, own[n, t], hidden[n], draws, expected, 0.5, logq)
            assert found[n, t] == pytest.approx(wanted, rel=1e-4)


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    rng = np.random.default_rng(6)
    start = [torch.from_numpy(rng.normal(size=shape)) for shape in ((5, 2, 3), (7, 3))]
    own, hidden = torch.from_numpy(rng.integers(0, 7, (5, 2))), torch.from_numpy(rng.random((5, 7)) < 0.4)
    hidden.scatter_(1, own, True)
    hidden[0] = True  # a user without any negative
    draws, expected = (torch.from_numpy(rng.uniform(0.1, 3, 7)) for _ in range(2))

    def plain(users: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        logits = users @ columns.T / 0.3
        target = logits.gather(2, own[:, :, None])[:, :, 0]
        weights = torch.where(hidden, 0.0, draws / expected)[:, None]
        return torch.log(target.exp() + (weights * logits.exp()).sum(2)) - target

    found = []
    for loss in (
        plain,
        lambda u, c: sampled_softmax_loss(u, c, own, hidden, draws, expected, temperature=0.3),
    ):
        users, columns = (v.clone().requires_grad_() for v in start)
        loss(users, columns).sum().backward()
        found.append((users.grad.numpy(), columns.grad.numpy()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


def test_a_target_whose_negatives_are_all_hidden_costs_nothing() -> None:
    users, columns = torch.ones(1, 1, 2), torch.ones(2, 2)
    hidden = torch.ones(1, 2, dtype=torch.bool)
    loss = sampled_softmax_loss(
        users, columns, torch.zeros(1, 1, dtype=torch.int64), hidden, torch.ones(2), torch.ones(2), temperature=1
    )
    assert loss.tolist() == [[0.0]]


def test_logq_makes_the_sampled_loss_that_of_the_whole_catalogue() -> None:
    """Skewed popularity: averaged over steps, exp(loss) is that of the full softmax with logQ, and far off without."""
    x = shop(3, users=400, skew=1.5)
    chosen = settings(users=60, targets=2, uniform=20)
    batches = _Batches(x, chosen)
    rng = np.random.default_rng(0)
    vectors = np.array([slow.unit(v) for v in rng.normal(size=(30, 4))], np.float32)
    user = vectors[:1].repeat(1, 0)[None]  # one user vector for all, so that a step is a draw of columns alone
    frequent = int(np.argmax(batches.frequency))
    target = 29
    sums = {0.0: [], 1.0: []}
    for _ in range(40):
        for users, first in batches.epoch(rng):
            batch = batches.step(users, first, rng)
            if len(users) < chosen.users:
                continue
            columns, draws = batch.items[: len(batch.draws)], batch.draws
            if target not in columns:
                continue
            own = int(np.flatnonzero(columns == target)[0])
            hidden = np.zeros((1, len(columns)), bool)
            hidden[0, own] = True
            expected = (draws.sum() - chosen.uniform) * batches.frequency[columns] + chosen.uniform / 30
            for logq, values in sums.items():
                loss = sampled_softmax_loss(
                    torch.from_numpy(user),
                    torch.from_numpy(vectors[columns]),
                    torch.tensor([[own]]),
                    torch.from_numpy(hidden),
                    torch.from_numpy(draws).float(),
                    torch.from_numpy(expected).float(),
                    temperature=0.5,
                    logq=logq,
                )
                values.append(float(torch.exp(loss)))
    wanted = np.exp(slow.full_loss(user[0, 0], vectors, target, set(), 0.5))
    assert batches.frequency[frequent] > 5 * np.median(batches.frequency)
    assert len(sums[1.0]) > 100
    assert np.mean(sums[1.0]) == pytest.approx(wanted, rel=0.05)
    assert np.mean(sums[0.0]) > 1.5 * wanted


def test_every_interaction_is_a_target_once_and_never_sees_itself() -> None:
    x = shop(4, users=50)
    for past_only in (False, True):
        batches = _Batches(x, settings(users=7, targets=3, longest=4, past_only=past_only))
        rng = np.random.default_rng(2)
        targets = []
        for users, first in batches.epoch(rng):
            batch = batches.step(users, first, rng)
            seen = batch.items[batch.history]
            assert len(np.unique(batch.items)) == len(batch.items)
            for n, user in enumerate(users.tolist()):
                history = x.history(user).tolist()
                known = set(history)
                for t in range(3):
                    place = int(first[n]) + t
                    if not 0 <= place < len(history):
                        assert not batch.used[n, t]
                        continue
                    target = int(batch.items[batch.own[n, t]])
                    targets.append((user, target))
                    assert target == history[place]
                    shown = seen[n][batch.weights[n, t] > 0].tolist()
                    assert target not in shown
                    assert len(shown) <= 4
                    assert set(shown) <= (set(history[:place]) if past_only else known)
                    assert batch.used[n, t] == bool(shown)
                    assert batch.hidden[n, batch.own[n, t]]
                assert set(batch.items[: len(batch.draws)][batch.hidden[n]].tolist()) <= known
        usable = [(u, i) for u in range(50) if len(x.history(u)) >= 2 for i in x.history(u).tolist()]
        assert sorted(targets) == sorted(usable)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_tastes(name: str) -> None:
    split = leave_one_out(shop(6, users=600))
    found = fit_two_tower(split.train, settings(epochs=12, **VARIANTS[name]))
    assert found.history[-1].loss < found.history[0].loss
    scores = evaluate_ranking(found.retriever, split.train, split.test, (5,)).means()
    # of some 25 unseen items about 7 are of the taste
    assert scores["recall@5"] > 0.4


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not() -> None:
    first, second, other = (weights_of(fit_two_tower(shop(), settings(epochs=2, seed=seed))) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["ids.weight"], other["ids.weight"])


def test_a_stopped_and_a_killed_training_go_on_to_the_same_figures(tmp_path: Path) -> None:
    x, chosen, items = shop(), settings(hidden=(6,), id_dropout=0.3, patience=8), tastes()
    whole = fit_two_tower(x, chosen, items=items)
    path = tmp_path / "state.safetensors"
    fit_two_tower(x, chosen, items=items, checkpoint=path, stop_after=2)
    torch.rand(10)
    steps = 0

    def kill(epoch: int, batches: int, loss: float) -> None:
        nonlocal steps
        steps += 1
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_two_tower(x, chosen, items=items, checkpoint=path, on_step=kill)
    resumed = fit_two_tower(x, chosen, items=items, checkpoint=path)
    assert [replace(r, seconds=0) for r in resumed.history] == [replace(r, seconds=0) for r in whole.history]
    one, two = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    np.testing.assert_array_equal(resumed.retriever.vectors, whole.retriever.vectors)


def test_it_stops_where_validation_no_longer_rises() -> None:
    found = fit_two_tower(shop(), settings(epochs=60, patience=3))
    assert len(found.history) == best_epoch(found.history) + 3 < 60
    recalls = [record.recall for record in found.history]
    assert recalls[best_epoch(found.history) - 1] == max(recalls)
    everything = fit_two_tower(shop(), settings(epochs=3, validation=0))
    assert [record.recall for record in everything.history] == [None] * 3


@pytest.mark.parametrize("change", [{"temperature": 0.2}, {"epochs": 9}, {"dim": 9}, "events", "items"])
def test_a_foreign_checkpoint_is_refused(change, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    fit_two_tower(shop(), settings(), items=tastes(), checkpoint=path, stop_after=1)
    x = shop(9) if change == "events" else shop()
    items = replace(tastes(), codes={"taste": np.zeros(30, np.int32)}, names={"taste": ["0"]})
    with pytest.raises(ModelMismatchError, match="delete it to start anew"):
        fit_two_tower(
            x,
            settings(**change) if isinstance(change, dict) else settings(),
            items=items if change == "items" else tastes(),
            checkpoint=path,
        )


def test_cold_items_are_placed_by_their_attributes() -> None:
    """Items that nobody touched stand beside those of their taste, and are of use in a history as well."""
    x = shop(7, users=600, cold=6)
    retriever = fit_two_tower(x, settings(epochs=10, id_dropout=0.3), items=tastes()).retriever
    cold = np.arange(24, 30)
    only_cold = np.zeros(30, bool)
    only_cold[cold] = True
    found = retriever.candidates(x, 2, allowed=only_cold).items
    right = np.concatenate([found[u] % 3 == u % 3 for u in range(600) if len(x.history(u)) >= 3])
    assert right.mean() > 0.8
    likes_cold = Interactions(["n"], x.item_ids, np.array([0, 2]), np.array([24, 27], np.int32), np.full(2, -1))
    assert (retriever.candidates(likes_cold, 5).items[0] % 3 == 0).mean() >= 0.8
    blind = fit_two_tower(x, settings(epochs=2)).retriever
    assert not blind.vectors[cold].any()
    assert np.isfinite(blind.scores(likes_cold)).all()


def test_hostile_histories() -> None:
    retriever = fit_two_tower(shop(), settings(epochs=1)).retriever
    long = np.random.default_rng(0).integers(0, 30, 100_000).astype(np.int32)
    lists = [long, np.array([5, 5, 5], np.int32), np.zeros(0, np.int32)]
    splits = np.cumsum([0, *map(len, lists)])
    items = np.concatenate(lists)
    x = Interactions(["a", "b", "c"], [f"i{i}" for i in range(30)], splits, items, np.full(len(items), -1))
    scores = retriever.scores(x)
    assert np.isfinite(scores).all()
    assert not scores[2].any()
    assert (retriever.candidates(x, 3).items[[0, 2]] == -1).all()
    alone = fit_two_tower(Interactions.from_events(["u", "u"], ["a", "a"]), settings(epochs=1, validation=0))
    assert np.isfinite(alone.retriever.vectors).all()


def test_towers_with_the_index_of_another_training_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_files, "INDEXED_FROM", 20)
    x = shop()
    for name, seed in (("a", 0), ("b", 1)):
        save_retriever(tmp_path / name, fit_two_tower(x, settings(epochs=1, seed=seed)).retriever, x)
    opened, _ = open_retriever(tmp_path / "a")
    assert isinstance(opened, TwoTower)
    assert opened.index is not None
    plain = replace(opened, index=None)
    allowed = np.arange(30) % 2 == 0
    for options in ({}, {"allowed": allowed}, {"exclude_seen": False}):
        np.testing.assert_array_equal(opened.candidates(x, 5, **options).items, plain.candidates(x, 5, **options).items)
    for mixed in ("index.ann", "retriever.safetensors"):
        parts = {p.name: p for p in (tmp_path / "a").iterdir() if p.name != "manifest.json"}
        write_bundle(tmp_path / "mixed", {**parts, mixed: tmp_path / "b" / mixed})
        with pytest.raises(BundleError, match="of two trainings") as error:
            open_retriever(tmp_path / "mixed")
        for name in ("a", "b"):
            digest = Bundle.open(tmp_path / name).parts["retriever.safetensors"].sha256
            assert digest[:12] in str(error.value)


def test_files_of_other_shapes_are_refused(tmp_path: Path) -> None:
    x = shop()
    retriever = fit_two_tower(x, settings(epochs=1, hidden=(5,))).retriever
    save_retriever(tmp_path / "m", retriever)
    opened, _ = open_retriever(tmp_path / "m")
    np.testing.assert_array_equal(opened.scores(x), retriever.scores(x))
    parts = {p.name: p for p in (tmp_path / "m").iterdir() if p.name != "manifest.json"}
    for wrong in ({"items": np.zeros((30, 7), np.float32)}, {"layer.1.bias": np.zeros(5, np.float32)}):
        arrays = safetensors_bytes({**retriever.arrays(), **wrong})
        write_bundle(tmp_path / "wrong", {**parts, "retriever.safetensors": arrays})
        with pytest.raises(BundleError, match="do not fit together"):
            open_retriever(tmp_path / "wrong")
    for change, message in (
        ({"item_ids": list(retriever.item_ids)[1:]}, "one row for each of 29 items"),
        ({"layers": retriever.layers[:1]}, "must end with 8 values as the vectors do, got 5"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            replace(retriever, **change)


@pytest.mark.parametrize(
    ("x", "change", "error", "message"),
    [
        (shop(users=1).take([]), {}, TrainingError, "none of 0 users has two items"),
        (Interactions.from_events(["u", "v"], ["a", "b"]), {}, TrainingError, "none of 2 users has two items"),
        (shop(), {"temperature": 0.0}, InvalidInputError, "temperature is out of range, got 0.0"),
        (shop(), {"decay": 1.5}, InvalidInputError, "decay is out of range, got 1.5"),
        (shop(), {"hidden": (8, 0)}, InvalidInputError, "hidden is out of range"),
        (shop(), {"logq": float("nan")}, InvalidInputError, "logq is out of range, got nan"),
        (shop(), {"uniform": -1}, InvalidInputError, "uniform is out of range, got -1"),
        (shop(), {"temperature": 1e-44}, TrainingError, "lower the learning rates"),
    ],
)
def test_bad_input_is_refused(x: Interactions, change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit_two_tower(x, settings(**change))


def test_the_command_takes_products_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = shop(8, users=60, items=12)
    lines = ["user_id,item_id", *(f"{u},i{i}" for n, u in enumerate(x.user_ids) for i in x.history(n).tolist())]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    rows = ["product_id,title,category", *(f"i{i},t,c{i % 3}" for i in range(15))]
    (tmp_path / "products.csv").write_text("\n".join(rows) + "\n")
    model, state = str(tmp_path / "model"), str(tmp_path / "state")
    command = ["train", "retrieval", "two-tower", "--events", str(tmp_path / "events.csv"), "--out", model]
    options = ["--products", str(tmp_path / "products.csv"), "--checkpoint", state, "--dim", "8", "--epochs", "4"]
    for _ in range(2):  # the second time everything comes from the checkpoint
        assert main([*command, *options, "--hidden", "8,4", "--past-only", "--threads", "1", "--quiet"]) == 0
        said = capsys.readouterr().out
        assert "epoch" in said.splitlines()[0]
        assert "two-tower: 60 users, 15 items" in said
    retriever, histories = open_retriever(model)
    assert isinstance(retriever, TwoTower)
    assert np.linalg.norm(retriever.vectors[12:], axis=1) == pytest.approx(1)
    assert histories is not None
    assert histories.item_ids == list(retriever.item_ids)
    for options, message in [
        (["--taxonomy", "t.csv"], "give both"),
        (["--checkpoint", state, "--dim", "9"], "delete it to start anew"),
        (["--dim", "0"], "dim is out of range, got 0"),
    ]:
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
