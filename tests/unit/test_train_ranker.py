"""Training of the ranking networks: learning, early stopping, resuming, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from aitems_engine.errors import InvalidInputError, ModelMismatchError, TrainingError
from aitems_engine.evaluation.binary import auc
from aitems_engine.ranking import Examples, FieldSpec
from aitems_engine.training.rankers import RANKERS, RankerShape
from aitems_engine.training.ranking import RankerSettings, best_epoch, predict_logits, ranking_loss, train_ranker

FIELDS = FieldSpec((13, 9), 2)


def examples(count=1500, seed=0):
    """Clicks by a sum over codes and a dense column, purchases by another one."""
    rng = np.random.default_rng(seed)
    effects = np.random.default_rng(99).normal(size=(2, 2, 13)) * 1.5
    codes = np.stack([rng.integers(0, size, count) for size in FIELDS.cardinalities], 1).astype(np.int32)
    dense = rng.normal(size=(count, 2)).astype(np.float32)
    ctr, cvr = (sum(e[f][codes[:, f]] for f in range(2)) + dense[:, i] for i, e in enumerate(effects))
    click = rng.random(count) < 1 / (1 + np.exp(-ctr))
    bought = click & (rng.random(count) < 1 / (1 + np.exp(-cvr)))
    return Examples(
        codes,
        dense,
        click.astype(np.float32),
        bought.astype(np.float32),
        np.arange(count) % 50,
        np.arange(count),
        np.ones(count, bool),
    )


def settings(name, **changes):
    shape = RankerShape(name, dim=4, hidden=(8,), bottom=(8,), dropout=0.1)
    return RankerSettings(
        shape, **{"epochs": 6, "batch_size": 64, "learning_rate": 0.01, "threads": 1, "device": "cpu", **changes}
    )


def weights_of(training):
    return {name: value.clone() for name, value in training.model.state_dict().items()}


@pytest.mark.parametrize("name", RANKERS)
def test_learns_and_exports_what_it_learnt(name):
    found = train_ranker(examples(), examples(seed=1), FIELDS, settings(name))
    fresh = examples(3000, seed=2)
    logits = predict_logits(found.model, fresh.batch)
    assert auc(fresh.click, logits[:, 0]) > 0.8
    assert found.history[-1].loss < found.history[0].loss
    assert found.history[-1].auc > 0.8
    assert np.abs(found.validation_logits - predict_logits(found.model, examples(seed=1).batch)).max() < 1e-5
    session = onnxruntime.InferenceSession(found.onnx, providers=["CPUExecutionProvider"])
    (served,) = session.run(["logits"], {"codes": fresh.codes, "dense": fresh.dense})
    assert np.abs(served - logits).max() <= 1e-4
    if name == "esmm":
        assert auc(fresh.purchase, logits[:, 1]) > 0.7
        assert found.history[-1].purchase_auc > 0.7


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not():
    first, second, other = (
        weights_of(train_ranker(examples(), examples(seed=1), FIELDS, settings("deepfm", epochs=2, seed=seed)))
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["deep.0.weight"], other["deep.0.weight"])


def test_a_stopped_training_goes_on_to_the_same_figures(tmp_path):
    path = tmp_path / "state.safetensors"
    data, chosen = (examples(), examples(seed=1), FIELDS), settings("esmm", unknown_share=0.1)
    whole = train_ranker(*data, chosen)
    train_ranker(*data, chosen, checkpoint=path, stop_after=2)
    torch.rand(10)
    resumed = train_ranker(*data, chosen, checkpoint=path)
    assert [replace(r, seconds=0) for r in resumed.history] == [replace(r, seconds=0) for r in whole.history]
    one, two = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert resumed.onnx == whole.onnx


def test_a_killed_training_goes_on_to_the_same_figures(tmp_path):
    path = tmp_path / "state.safetensors"
    data, chosen = (examples(), examples(seed=1), FIELDS), settings("dcn-v2", epochs=4)
    whole = train_ranker(*data, chosen)
    steps = 0

    def kill(epoch, batches, loss):
        nonlocal steps
        steps += 1
        if steps == 2 * batches + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ranker(*data, chosen, checkpoint=path, on_step=kill)
    resumed = train_ranker(*data, chosen, checkpoint=path)
    assert [r.validation_loss for r in resumed.history] == [r.validation_loss for r in whole.history]
    assert np.array_equal(resumed.validation_logits, whole.validation_logits)


def test_stops_when_the_validation_loss_rises_and_returns_the_best_epoch(tmp_path):
    path = tmp_path / "state.safetensors"
    train = examples(150)
    chosen = settings("dcn-v2", epochs=60, patience=3, learning_rate=0.05, table_learning_rate=0.5)
    found = train_ranker(train, examples(seed=1), FIELDS, chosen, checkpoint=path)
    losses = [r.validation_loss for r in found.history]
    assert len(losses) == best_epoch(found.history) + 3 < 60
    labels = [torch.from_numpy(x) for x in (examples(seed=1).click, examples(seed=1).purchase)]
    loss = ranking_loss(torch.from_numpy(found.validation_logits), *labels, torch.ones(1500, dtype=torch.bool))
    assert float(loss) == pytest.approx(min(losses))
    again = train_ranker(train, examples(seed=1), FIELDS, chosen, checkpoint=path)
    assert np.array_equal(again.validation_logits, found.validation_logits)


def test_loss_is_that_of_the_papers():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 2)).astype(np.float32) * 3
    click = (rng.random(50) < 0.5).astype(np.float32)
    bought = click * (rng.random(50) < 0.5).astype(np.float32)
    known = rng.random(50) < 0.7
    tensors = [torch.from_numpy(x) for x in (logits, click, bought, known)]
    entire = clicked = 0.0
    for (a, b), c, p, k in zip(logits.tolist(), click, bought, known, strict=True):
        ctr, cvr = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        click_loss = -math.log(ctr if c else 1 - ctr)
        entire += click_loss - (math.log(ctr * cvr if p else 1 - ctr * cvr) if k else 0)
        clicked += click_loss - (math.log(cvr if p else 1 - cvr) if k and c else 0)
    assert float(ranking_loss(*tensors)) == pytest.approx(entire / 50, rel=1e-5)
    assert float(ranking_loss(*tensors, entire_space=False)) == pytest.approx(clicked / 50, rel=1e-5)
    assert math.isfinite(
        float(ranking_loss(torch.full((1, 2), 90.0), *(torch.zeros(1), torch.zeros(1), torch.ones(1))))
    )


def test_unknown_codes_are_learnt():
    """Without the share of unknown codes nothing ever trains row 0 of a field whose codes are all known."""
    train = examples()
    train.codes[train.codes == 0] = 1
    moved = []
    for share in (0.0, 0.3):
        found = train_ranker(train, examples(seed=1), FIELDS, settings("deepfm", epochs=2, unknown_share=share))
        moved.append(float(found.model.features.table.accumulator[0]))
    assert moved[0] == 0 < moved[1]


def test_a_strong_l2_keeps_vectors_short():
    lengths = [
        float(
            train_ranker(examples(), examples(seed=1), FIELDS, settings("deepfm", epochs=2, table_l2=l2))
            .model.features.table.weight.square()
            .sum()
        )
        for l2 in (0.0, 1.0)
    ]
    assert lengths[1] < lengths[0] / 4


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    train_ranker(examples(), examples(seed=1), FIELDS, settings("deepfm", epochs=1), checkpoint=path)
    with pytest.raises(ModelMismatchError, match=r"does not fit this network.*delete it"):
        train_ranker(examples(), examples(seed=1), FIELDS, settings("dlrm"), checkpoint=path)


def changed(**columns):
    return replace(examples(), **columns)


@pytest.mark.parametrize(
    ("train", "change", "error", "message"),
    [
        (
            changed(codes=examples().codes + 5),
            {},
            InvalidInputError,
            "train: codes of field 0 must be from 0 to 12, got 5",
        ),
        (changed(dense=np.full((1500, 2), np.nan, np.float32)), {}, InvalidInputError, "train: dense holds NaN"),
        (changed(dense=np.zeros((1500, 3), np.float32)), {}, InvalidInputError, r"shapes \(1500, 2\) and \(1500, 2\)"),
        (changed(click=np.zeros(1500, np.float32)), {}, TrainingError, "both kinds are needed"),
        (examples().take(slice(0, 0)), {}, TrainingError, "all 0 training examples"),
        (examples(), {"epochs": 0}, InvalidInputError, "must be at least 1, got 0"),
        (examples(), {"learning_rate": -1.0}, InvalidInputError, "learning rates must be positive"),
        (examples(), {"unknown_share": 1.0}, InvalidInputError, "unknown_share must be"),
        (examples(), {"learning_rate": 1e30}, TrainingError, "lower the learning rate"),
    ],
)
def test_bad_input_is_refused(train, change, error, message):
    with pytest.raises(error, match=message):
        train_ranker(train, examples(seed=1), FIELDS, settings("dcn-v2", **change))


def test_rows_behind_an_open_purchase_are_not_settled():
    data = changed(time=np.arange(1500)[::-1].copy())
    assert data.settled.all()
    data.purchase_known[[700, 900]] = False
    assert np.flatnonzero(data.settled).tolist() == list(range(901, 1500))
