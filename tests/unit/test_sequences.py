"""SASRec and BERT4Rec: network against its definition and serving, losses, packing, training, resuming, refusals."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aitems_engine import Engine
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.catalog import ItemTable
from aitems_engine.cli import main
from aitems_engine.errors import BundleError, InvalidInputError, ModelMismatchError, TrainingError
from aitems_engine.evaluation.ranking import evaluate_ranking
from aitems_engine.events import Interactions, leave_one_out
from aitems_engine.recommendation import Request, recommender_parts
from aitems_engine.retrieval import Bert4Rec, Sasrec, open_retriever, save_retriever
from aitems_engine.training import bert4rec, sasrec
from aitems_engine.training.bert4rec import Bert4RecSettings, fit_bert4rec, masked_places
from aitems_engine.training.losses import full_cross_entropy, gbce_loss
from aitems_engine.training.sasrec import SasrecSettings, export, fit_sasrec, next_item_loss
from aitems_engine.training.sequences import Pieces, best_epoch
from aitems_engine.training.transformer import NORM_EPSILON, Stream, Transformer

_spec = importlib.util.spec_from_file_location(
    "slow_sequences", Path(__file__).resolve().parent.parent / "reference" / "slow_sequences.py"
)
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)


def histories(*lists: list[int], items: int = 30) -> Interactions:
    splits = np.cumsum([0, *map(len, lists)])
    packed = np.array([i for one in lists for i in one], np.int32)
    users = [f"u{n}" for n in range(len(lists))]
    return Interactions(users, [f"i{i}" for i in range(items)], splits, packed, np.full(len(packed), -1))


def walks(seed: int = 0, users: int = 150, items: int = 30) -> Interactions:
    """After item i comes i + 1 or i + 2, mostly."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(users):
        steps = np.where(rng.random(rng.integers(1, 12)) < 0.9, rng.integers(1, 3), rng.integers(3, items))
        lists.append(((rng.integers(items) + np.cumsum(steps)) % items).tolist())
    return histories(*lists, items=items)


FEW = {"dim": 8, "longest": 6, "tokens": 128, "epochs": 6, "validation": 50, "dropout": 0.1, "learning_rate": 0.01}


def settings(**changes) -> SasrecSettings:
    return SasrecSettings(**{**FEW, "threads": 1, "device": "cpu", **changes})


def bert_settings(**changes) -> Bert4RecSettings:
    return Bert4RecSettings(**{**FEW, "threads": 1, "device": "cpu", "patience": 5, **changes})


def shaken(chosen: SasrecSettings | Bert4RecSettings, causal: bool = True, extra: int = 0) -> Transformer:
    """A network none of whose weights is at its start value, biases least of all."""
    torch.manual_seed(0)
    model = Transformer(30, chosen, causal=causal, extra=extra)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return model.eval()


def weights_of(model: Transformer) -> dict[str, np.ndarray]:
    weights = {name: value.detach().clone().numpy() for name, value in model.state_dict().items()}
    if model.temperature:
        weights["items"] /= np.sqrt((weights["items"].astype(np.float64) ** 2).sum(1, keepdims=True)).astype(np.float32)
    return weights


def whole(x: Interactions) -> Stream:
    place = np.arange(len(x.items)) - x.splits[:-1][x.users()]
    return Stream(x.items.astype(np.int64), x.items.astype(np.int64), x.users().astype(np.int64), place)


SHAPES = [{"temperature": 0.1}, {"heads": 1, "blocks": 1}, {"heads": 4, "blocks": 3}, {"longest": 1}]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("changes", SHAPES)
def test_the_network_is_its_definition(changes, causal: bool) -> None:
    chosen = settings(**changes)
    model = shaken(chosen, causal)
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, chosen.longest + 1, 25)
    x = histories(*(rng.integers(0, 30, n).tolist() for n in lengths))
    with torch.no_grad():
        found = model(whole(x)).numpy()
    for u in range(len(x)):
        wanted = slow.encode(
            x.history(u).tolist(), weights_of(model), chosen.blocks, chosen.heads, causal, NORM_EPSILON
        )
        np.testing.assert_allclose(found[x.splits[u] : x.splits[u + 1]], wanted, atol=1e-5)


@pytest.mark.parametrize("changes", SHAPES)
def test_serving_equals_torch(changes) -> None:
    chosen = settings(**changes)
    model = shaken(chosen)
    retriever = export(model, [f"i{i}" for i in range(30)])
    rng = np.random.default_rng(2)
    x = histories(*(rng.integers(0, 30, n).tolist() for n in rng.integers(0, 20, 300)))
    from_end = x.splits[1:][x.users()] - np.arange(len(x.items))
    newest = x.where(from_end <= chosen.longest)
    with torch.no_grad():
        at_all = model(whole(newest)).numpy()
    served = retriever.queries(x)
    somebody = np.diff(x.splits) > 0
    np.testing.assert_allclose(served[somebody], at_all[newest.splits[1:][somebody] - 1], atol=1e-4)
    assert not served[~somebody].any()
    np.testing.assert_allclose(retriever.queries(x.take([7]))[0], served[7], atol=1e-5)
    np.testing.assert_allclose(retriever.scores(x), served @ weights_of(model)["items"].T, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"heads": 1, "blocks": 1, "temperature": 0.1}, {"longest": 2}])
def test_serving_equals_torch_with_the_mask_appended(changes) -> None:
    chosen = bert_settings(**changes)
    model = shaken(chosen, causal=False, extra=1)
    retriever = bert4rec.export(model, [f"i{i}" for i in range(30)])
    rng = np.random.default_rng(2)
    lists = [rng.integers(0, 30, n).tolist() for n in rng.integers(0, 12, 100)]
    served = retriever.queries(histories(*lists))
    weights = weights_of(model)
    for own, found in zip(lists, served, strict=True):
        if not own:
            assert not found.any()
            continue
        asked = [*own[-(chosen.longest - 1) :], 30]
        wanted = slow.encode(asked, weights, chosen.blocks, chosen.heads, False, NORM_EPSILON)[-1]
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert retriever.scores(histories(*lists)).shape == (100, 30)


def test_masked_places() -> None:
    rng = np.random.default_rng(0)
    x = histories(*(rng.integers(0, 30, n).tolist() for n in rng.integers(1, 9, 2000)))
    stream = whole(x)
    lengths = np.diff(x.splits)
    for share, last in ((0, 0), (0.3, 0.4), (1, 0), (0.5, 1)):
        masked = masked_places(stream, share, last, rng)
        count = np.bincount(stream.history, masked)
        assert count.min() >= 1
        newest = masked[x.splits[1:] - 1]
        if last == 1:
            assert newest.all()
            assert (count == 1).all()
        if share == 0:
            assert (count == 1).all()
            assert newest[lengths == 8].mean() == pytest.approx(1 / 8, abs=0.08)
        if share == 1:
            assert masked.all()
        if last == 0.4:
            only = (count == 1) & newest
            assert only[lengths == 8].mean() == pytest.approx(0.4 + 0.6 * 0.7**7 / 8, abs=0.1)


@pytest.mark.slow
def test_the_masked_network_learns_goes_on_and_is_opened_again(tmp_path: Path) -> None:
    split = leave_one_out(walks(7, users=300))
    chosen = bert_settings(dim=16, epochs=40, patience=40)
    through = fit_bert4rec(split.train, chosen)
    scores = evaluate_ranking(through.retriever, split.train, split.validation, (5,), exclude_seen=False).means()
    assert scores["recall@5"] > 0.5
    path = tmp_path / "state.safetensors"
    fit_bert4rec(split.train, chosen, checkpoint=path, stop_after=20)
    resumed = fit_bert4rec(split.train, chosen, checkpoint=path)
    np.testing.assert_array_equal(resumed.retriever.vectors, through.retriever.vectors)
    save_retriever(tmp_path / "model", through.retriever, split.train)
    opened, _ = open_retriever(tmp_path / "model")
    assert isinstance(opened, Bert4Rec)
    np.testing.assert_array_equal(opened.scores(split.train), through.retriever.scores(split.train))
    with pytest.raises(ModelMismatchError, match="does not fit this network"):
        fit_sasrec(split.train, settings(dim=16), checkpoint=path)


@pytest.mark.parametrize(
    ("change", "message"), [({"longest": 1}, "an item and the mask"), ({"mask": 2}, "mask must be")]
)
def test_settings_of_the_masked_network_out_of_range(change, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit_bert4rec(walks(), bert_settings(**change))


@pytest.mark.parametrize("rows", [1, 300])  # one chunk, and two
def test_full_cross_entropy(rows: int) -> None:
    rng = np.random.default_rng(3)
    queries = torch.from_numpy(rng.normal(size=(rows, 5)).astype(np.float32)).requires_grad_()
    table = torch.from_numpy(rng.normal(size=(11, 5)).astype(np.float32)).requires_grad_()
    targets = torch.from_numpy(rng.integers(0, 11, rows))
    loss = full_cross_entropy(queries, table, targets)
    wanted = slow.full_cross_entropy(queries.detach().numpy(), table.detach().numpy(), targets.tolist())
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    plain = torch.nn.functional.cross_entropy(queries @ table.T, targets)
    for own, other in zip(
        torch.autograd.grad(3 * loss, (queries, table)), torch.autograd.grad(3 * plain, (queries, table)), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    rough = full_cross_entropy(queries, table, targets, torch.bfloat16)
    assert rough.item() == pytest.approx(wanted, rel=0.02)


def test_gbce_is_its_definition() -> None:
    rng = np.random.default_rng(4)
    queries, table = (rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 11))
    targets, negatives = rng.integers(0, 11, 7), rng.integers(0, 11, 6)
    for calibration in (0, 0.75, 1):
        tensors = [torch.from_numpy(v) for v in (queries, table, targets, negatives)]
        wanted = slow.gbce(queries, table, targets.tolist(), negatives.tolist(), calibration)
        assert gbce_loss(*tensors, calibration).item() == pytest.approx(wanted, rel=1e-5)


def test_sampled_softmax_estimates_the_full_one() -> None:
    rng = np.random.default_rng(5)
    queries, table = (torch.from_numpy(rng.normal(size=(n, 5)).astype(np.float32)) for n in (50, 30))
    targets = torch.from_numpy(rng.integers(0, 30, 50) // 2)  # the later half is never a target
    frequency = torch.bincount(targets, minlength=30) / 50
    chosen = settings(loss="sampled", negatives=20_000)
    found = next_item_loss(queries, table, targets, frequency, chosen, rng).item()
    full = next_item_loss(queries, table, targets, frequency, settings(), rng).item()
    assert found == pytest.approx(full, rel=0.01)


def test_pieces_hold_each_target_once() -> None:
    x = walks(6)
    x = histories(*(x.history(u).tolist() for u in range(len(x))), list(range(20)), [3] * 9, [], [1])
    pieces = Pieces(x, 6)
    found = []
    for rows in pieces.epoch(64, np.random.default_rng(0)):
        stream = pieces.stream(rows)
        assert len(stream.items) <= 64 + 6
        assert stream.place.max() < 6
        assert (np.diff(stream.history) >= 0).all()
        found += list(zip(stream.items.tolist(), stream.targets.tolist(), strict=True))
    wanted = [
        (a, b) for u in range(len(x)) for a, b in zip(x.history(u).tolist(), x.history(u).tolist()[1:], strict=False)
    ]
    assert sorted(found) == sorted(wanted)
    long = Pieces(histories(list(range(20))), 6).stream(np.arange(4))
    assert long.targets[long.history == 0].tolist() == [14, 15, 16, 17, 18, 19]  # the newest piece is a full one
    assert long.targets[long.history == 3].tolist() == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "sampled", "negatives": 16},
        {"loss": "gbce", "negatives": 4, "dim": 32, "learning_rate": 0.01, "epochs": 50, "patience": 50},
        {"bfloat16": True, "history_dropout": 0.1, "temperature": 0.1},
    ],
)
def test_it_learns_what_comes_next(changes) -> None:
    split = leave_one_out(walks(7, users=300))
    found = fit_sasrec(split.train, settings(**{"epochs": 20, **changes}))
    assert found.history[-1].loss < found.history[0].loss
    scores = evaluate_ranking(found.retriever, split.train, split.validation, (5,), exclude_seen=False).means()
    assert scores["recall@5"] > 0.5


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not() -> None:
    first, second, other = (weights_of(fit_sasrec(walks(), settings(epochs=2, seed=s)).model) for s in (0, 0, 1))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["items"], other["items"])


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_a_stopped_and_a_killed_training_go_on_to_the_same_figures(loss: str, tmp_path: Path) -> None:
    x, chosen = walks(), settings(loss=loss, negatives=8, history_dropout=0.1, patience=8)
    through = fit_sasrec(x, chosen)
    path = tmp_path / "state.safetensors"
    fit_sasrec(x, chosen, checkpoint=path, stop_after=2)
    torch.rand(10)

    def kill(epoch: int, batches: int, loss: float) -> None:
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_sasrec(x, chosen, checkpoint=path, on_step=kill)
    resumed = fit_sasrec(x, chosen, checkpoint=path)
    assert [replace(r, seconds=0) for r in resumed.history] == [replace(r, seconds=0) for r in through.history]
    one, two = weights_of(through.model), weights_of(resumed.model)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(TrainingError, match="lower the learning rate"):
        fit_sasrec(walks(), settings(learning_rate=1e30, warmup_share=1.0), checkpoint=path)
    assert not path.exists()
    chosen = settings()
    fit_sasrec(walks(), chosen, checkpoint=path, stop_after=2)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sasrec, "full_cross_entropy", lambda *_: torch.tensor(torch.nan, requires_grad=True))
        with pytest.raises(TrainingError, match="the loss is nan in batch 1 of epoch 3; lower the learning rate"):
            fit_sasrec(walks(), chosen, checkpoint=path)
    assert path.read_bytes() == before


def test_a_state_that_cannot_be_written_keeps_the_last_one(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "state"
    fit_sasrec(walks(), settings(), checkpoint=path, stop_after=1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as good as a full disk
    try:
        with pytest.raises(TrainingError, match="the state after epoch 2 could not be written"):
            fit_sasrec(walks(), settings(), checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert len(fit_sasrec(walks(), settings(), checkpoint=path, stop_after=2).history) == 2


@pytest.mark.slow
def test_early_stopping_and_refit(tmp_path: Path) -> None:
    found = fit_sasrec(walks(), settings(epochs=40, patience=2))
    best = best_epoch(found.history)
    assert len(found.history) == best + 2 < 40
    assert found.history[best - 1].ndcg == max(r.ndcg for r in found.history)
    path = tmp_path / "state"
    refitted = fit_sasrec(walks(), settings(epochs=40, patience=2, refit=True), checkpoint=path)
    assert refitted.refitted == best
    assert path.exists()
    assert (tmp_path / "state.refit").exists()
    plain = fit_sasrec(walks(), settings(epochs=40, patience=2, validation=0), stop_after=best)
    np.testing.assert_array_equal(refitted.retriever.vectors, plain.retriever.vectors)


@pytest.mark.parametrize("change", [{"learning_rate": 0.2}, {"dim": 16}, {"blocks": 1}, "events"])
def test_a_foreign_checkpoint_is_refused(change, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    fit_sasrec(walks(), settings(), checkpoint=path, stop_after=1)
    x, chosen = (walks(9), settings()) if change == "events" else (walks(), settings(**change))
    with pytest.raises(ModelMismatchError, match="delete it to start anew"):
        fit_sasrec(x, chosen, checkpoint=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 7}, "multiple of heads"),
        ({"longest": 0}, "longest is out of range, got 0"),
        ({"dropout": 1.0}, "dropout is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate is out of range"),
        ({"loss": "hinge"}, "one of full, sampled, gbce, got 'hinge'"),
        ({"negatives": 0}, "negatives must be from 1"),
        ({"history_dropout": 1}, "history_dropout must be from 0"),
    ],
)
def test_settings_out_of_range(change, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit_sasrec(walks(), settings(**change))


def test_hostile_histories() -> None:
    with pytest.raises(TrainingError, match="two items left to learn from"):
        fit_sasrec(histories([1], [], [2]), settings())
    long = np.random.default_rng(0).integers(0, 29, 100_000).tolist()  # nobody touched the last item
    x = histories(long, [5] * 9, [], [4])
    retriever = fit_sasrec(x, settings(epochs=1, tokens=20_000)).retriever
    scores = retriever.scores(x)
    assert np.isfinite(scores).all()
    assert not scores[2].any()
    assert (retriever.candidates(x, 3).items[2] == -1).all()
    assert (retriever.candidates(x, 30).items[1] >= 0).sum() == 29


def test_files_and_what_does_not_fit(tmp_path: Path) -> None:
    x = walks()
    retriever = fit_sasrec(x, settings(epochs=1)).retriever
    save_retriever(tmp_path / "model", retriever, x)
    opened, found = open_retriever(tmp_path / "model")
    assert isinstance(opened, Sasrec)
    assert found is not None
    np.testing.assert_array_equal(opened.candidates(x, 5).items, retriever.candidates(x, 5).items)
    for changes, message in [
        ({"vectors": retriever.vectors[1:]}, "one row for each of 30 items"),
        ({"vectors": retriever.vectors[:, :4].copy()}, "vectors of 4 values"),
        ({"longest": 7}, "longest must be from 1 to 6"),
        ({"encoder": retriever.encoder[:100]}, "cannot load the model"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            replace(retriever, **changes)
    bundle = Bundle.open(tmp_path / "model")
    parts = {name: bundle.read(name) for name in bundle.parts}
    parts["items.json"] = parts["items.json"].replace(b'"i29"', b'"i29", "i30"')
    write_bundle(tmp_path / "other", parts, config={})
    with pytest.raises(BundleError, match="do not fit together"):
        open_retriever(tmp_path / "other")


def test_an_engine_asks_it_about_a_history_it_has_never_seen(tmp_path: Path) -> None:
    x = walks(users=300)
    retriever = fit_sasrec(x, settings(epochs=12)).retriever
    items = ItemTable.from_columns(x.item_ids, {"mall": [None] * 30})
    write_bundle(tmp_path / "bundle", recommender_parts(items, {"next": retriever}, x))
    page = Engine.open(tmp_path / "bundle").recommend(
        Request(history=["i1", "i3", "gone", "i4"], placement="home", k=5, timestamp=0, request_id="r")
    )
    asked = histories([1, 3, 4])
    found = retriever.candidates(asked, 5)
    assert [item.item_id for item in page.items] == [f"i{i}" for i in found.items[0]]
    assert {"i5", "i6"} <= {item.item_id for item in page.items}
    for rank, item in enumerate(page.items):
        assert [(o.retriever, o.rank) for o in item.provenance] == [("next", rank + 1)]
        assert item.provenance[0].score == pytest.approx(found.scores[0, rank], rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("sasrec", Sasrec), ("bert4rec", Bert4Rec)])
def test_command_line(name: str, kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = walks(users=60)
    lines = ["user_id,item_id", *(f"u{u},i{i}" for u in range(60) for i in x.history(u).tolist())]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    command = ["train", "retrieval", name, "--events", str(tmp_path / "events.csv"), "--out", str(tmp_path / "m")]
    options = ["--dim", "8", "--epochs", "3", "--longest", "6", "--checkpoint", str(tmp_path / "state")]
    for _ in range(2):  # the second time everything comes from the checkpoint
        assert main([*command, *options, "--threads", "1", "--refit", "--quiet"]) == 0
        said = capsys.readouterr().out
        assert "is best, NDCG@10" in said.splitlines()[0]
        assert f"{name}: 60 users, 30 items" in said
    assert isinstance(open_retriever(tmp_path / "m")[0], kind)
    assert main([*command, *options, "--dim", "10", "--heads", "4"]) == 1
    assert "multiple of heads" in capsys.readouterr().err
