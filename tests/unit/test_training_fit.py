"""The training loop without tokenisers: tables, batches, learning, determinism, resuming, export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aitems_engine.errors import ModelMismatchError, TrainingError
from aitems_engine.runtime import NativeScorer, ScorerInputs
from aitems_engine.training.calibration import softmax
from aitems_engine.training.epochs import rate_at
from aitems_engine.training.fit import (
    FitSettings,
    best_epoch,
    fit,
    gram_scales,
    log_prior,
    predict_logits,
    schedule_epochs,
)
from aitems_engine.training.row_table import RowTable
from aitems_engine.training.textcnn import TextCNNShape, export_tensors
from aitems_engine.training.title_batches import EncodedTitles, batch_rows, concatenate, make_batch, take_ragged

VOCABULARY, BUCKETS = 40, 64
SHAPE = TextCNNShape(
    vocab_size=VOCABULARY,
    num_leaves=4,
    dim=8,
    title_widths=(1, 2),
    title_filters=8,
    gram_buckets=BUCKETS,
    gram_dim=8,
    gram_groups=2,
    mall_widths=(1,),
    mall_filters=8,
)
SETTINGS = FitSettings(epochs=8, batch_size=8, learning_rate=0.02, table_learning_rate=0.5, threads=1, device="cpu")


def ragged(rows):
    splits = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(r) for r in rows], out=splits[1:])
    return np.array([x for r in rows for x in r], np.int32), splits


def toy(count=200, seed=0, *, mall=True):
    """Every leaf has its own token, n-gram and (half of the time) mall token; the rest is noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, SHAPE.num_leaves, count)
    titles = [[*rng.integers(10, VOCABULARY, rng.integers(0, 5)), 1 + y] for y in labels]
    grams = [[*rng.integers(8, BUCKETS, rng.integers(0, 9)), y] for y in labels]
    malls = [[5 + y] if mall and rng.random() < 0.5 else [] for y in labels]
    return EncodedTitles(*ragged(titles), *ragged(grams), *ragged(malls)), labels.astype(np.int64)


def accuracy(model, encoded, labels):
    return float((predict_logits(model, encoded).sum(0).argmax(1) == labels).mean())


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_row_table_is_adagrad_with_one_accumulator_a_row():
    torch.manual_seed(0)
    table = RowTable(torch.ones(5, 3), row_scale=torch.tensor([[1.0], [2], [1], [1], [1]]))
    want, squares = np.array([[1.0] * 3, [2.0] * 3]), np.zeros((2, 1))
    for _ in range(4):
        gradient = torch.randn(2, 3)
        (table.gather(torch.tensor([0, 1])) * gradient).sum().backward()
        table.step(0.1)
        squares += (gradient.numpy() ** 2).mean(1, keepdims=True)
        want -= 0.1 * np.array([[1.0], [2.0]]) * gradient.numpy() / (np.sqrt(squares) + 1e-4)
    assert np.allclose(table.weight[:2], want, atol=1e-5)


def test_row_table_leaves_untouched_rows_alone():
    table = RowTable(torch.ones(6, 2))
    table.gather(torch.tensor([1, 4])).sum().backward()
    table.step(0.1)
    assert (table.weight[[0, 2, 3, 5]] == 1).all()
    assert (table.weight[[1, 4]] < 1).all()
    table.step(0.1)  # nothing gathered since: no change
    table.eval()
    assert not table.gather(torch.tensor([0])).requires_grad


def test_take_ragged_is_row_selection():
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(30)]
    ids, splits = ragged(rows)
    chosen = rng.integers(0, 30, 12)
    got_ids, got_splits = take_ragged(ids, splits, chosen)
    want_ids, want_splits = ragged([rows[i] for i in chosen])
    assert (got_ids == want_ids).all()
    assert (got_splits == want_splits).all()
    empty_ids, empty_splits = take_ragged(ids, splits, np.zeros(0, np.int64))
    assert len(empty_ids) == 0
    assert empty_splits.tolist() == [0]


def test_batches_hold_every_row_once_and_similar_lengths():
    encoded, _ = toy(500)
    for generator in (None, np.random.default_rng(0)):
        batches = batch_rows(encoded, 32, generator)
        assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    first = batch_rows(encoded, 32, np.random.default_rng(3))
    second = batch_rows(encoded, 32, np.random.default_rng(3))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_batch_holds_the_ids_of_its_rows():
    encoded, _ = toy(50)
    rows = np.array([7, 3, 41])
    batch = make_batch(encoded, rows)
    with_padding = np.concatenate([[-1], batch.token_rows.numpy()])
    for i, row in enumerate(rows):
        want = encoded.title_ids[encoded.title_splits[row] : encoded.title_splits[row + 1]]
        assert (with_padding[batch.title[i, : batch.title_lengths[i]].numpy()] == want).all()
        assert (batch.title[i, batch.title_lengths[i] :] == 0).all()
        grams = encoded.gram_ids[encoded.gram_splits[row] : encoded.gram_splits[row + 1]]
        assert batch.gram_scales[i] == pytest.approx(1 / np.sqrt(len(grams)))
    everything = make_batch(encoded, rows, generator=np.random.default_rng(0), mall_dropout=1.0)
    assert (everything.mall_lengths == 0).all()
    assert everything.mall.shape == (3, 0)


def test_concatenate_is_the_inverse_of_take():
    encoded, _ = toy(40)
    rows = np.arange(40)
    joined = concatenate([encoded.take(rows[:15]), encoded.take(rows[15:])])
    for name in ("title_ids", "title_splits", "gram_ids", "gram_splits", "mall_ids", "mall_splits"):
        assert (getattr(joined, name) == getattr(encoded, name)).all()


def test_more_rows_need_fewer_epochs():
    assert [schedule_epochs(n) for n in (1, 50_000, 200_000, 10**9)] == [10, 8, 4, 4]


def test_learning_rate_rises_then_falls_to_zero():
    rates = [rate_at(step, 100, 0.1) for step in range(101)]
    assert rates[0] < rates[5] < rates[9]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0


@pytest.mark.parametrize("mall", [True, False])
def test_learns_a_separable_set_and_survives_missing_malls(mall):
    encoded, labels = toy(mall=mall)
    model, history = fit(encoded, labels, SHAPE, SETTINGS)
    assert history[-1].loss < history[0].loss
    fresh, truth = toy(seed=9, mall=False)
    assert accuracy(model, fresh, truth) == 1.0
    parts = predict_logits(model, fresh)
    assert SHAPE.parts == ("cnn", "bag", "mall")
    assert parts.shape == (3, 200, SHAPE.num_leaves)
    assert all((part.argmax(1) == truth).mean() > 0.9 for part in parts[:2])
    assert (parts[2] == 0).all()  # no mall path adds nothing


def test_mall_head_learns_from_rows_that_have_a_mall():
    encoded, labels = toy()
    model, _ = fit(encoded, labels, SHAPE, replace(SETTINGS, epochs=20))
    has_mall = np.diff(encoded.mall_splits) > 0
    predicted = predict_logits(model, encoded)[-1].argmax(1)
    assert (predicted[has_mall] == labels[has_mall]).mean() > 0.95


@pytest.mark.parametrize("change", [{"title_widths": ()}, {"gram_buckets": 0}, {"mall_widths": ()}])
def test_branches_can_be_left_out(change):
    encoded, labels = toy()
    shape = replace(SHAPE, **change)
    model, _ = fit(encoded, labels, shape, SETTINGS)
    assert accuracy(model, encoded, labels) > 0.98
    assert len(predict_logits(model, encoded)) == len(shape.parts) == 2


def test_frequent_ngrams_take_smaller_steps():
    encoded = EncodedTitles(*ragged([[]] * 4), *ragged([[0, 1], [0, 0], [0], [0, 2]]), *ragged([[]] * 4))
    scale = gram_scales(encoded, 5)
    assert scale[0] < scale[1] == scale[2] < scale[3] == scale[4]
    assert np.average(scale, weights=[4, 1, 1, 0, 0]) == pytest.approx(1)


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not():
    encoded, labels = toy()
    first = weights_of(fit(encoded, labels, SHAPE, SETTINGS)[0])
    second = weights_of(fit(encoded, labels, SHAPE, SETTINGS)[0])
    other = weights_of(fit(encoded, labels, SHAPE, replace(SETTINGS, seed=1))[0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["heads.0.weight"], other["heads.0.weight"])


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    encoded, labels = toy()
    path = tmp_path / "state.safetensors"
    whole, history = fit(encoded, labels, SHAPE, SETTINGS)
    fit(encoded, labels, SHAPE, SETTINGS, stop_after=3, checkpoint=path)
    torch.rand(100)
    resumed, resumed_history = fit(encoded, labels, SHAPE, SETTINGS, checkpoint=path)
    assert [r.loss for r in resumed_history] == [r.loss for r in history]
    one, two = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_stopped_training_remembers_its_best_epoch(tmp_path):
    encoded, labels = toy()
    scores = iter([0.905, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1])  # the second is as good as the first
    states = {}

    def validate(model):
        states[len(states) + 1] = weights_of(model)
        return next(scores), 0.0

    settings = replace(SETTINGS, patience=3)
    path = tmp_path / "state.safetensors"
    fit(encoded, labels, SHAPE, settings, validate=validate, stop_after=4, checkpoint=path)
    model, history = fit(encoded, labels, SHAPE, settings, validate=validate, checkpoint=path)
    assert len(history) == 5  # best 2 + patience 3
    assert best_epoch(history) == 2
    best = weights_of(model)
    assert all(torch.equal(best[name], states[2][name]) for name in best)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    encoded, labels = toy()
    path = tmp_path / "state.safetensors"
    fit(encoded, labels, SHAPE, SETTINGS, stop_after=1, checkpoint=path)
    with pytest.raises(ModelMismatchError, match=r"does not fit this network.*delete it"):
        fit(encoded, labels, replace(SHAPE, gram_dim=4), SETTINGS, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelMismatchError, match="no training checkpoint"):
        fit(encoded, labels, SHAPE, SETTINGS, checkpoint=path)


def test_a_loss_that_is_no_number_stops_at_once():
    encoded, labels = toy()
    vectors = np.full((VOCABULARY, SHAPE.dim), np.nan, np.float32)
    with pytest.raises(TrainingError, match=r"loss is nan in batch 1 of epoch 1; lower the learning rate"):
        fit(encoded, labels, SHAPE, SETTINGS, vectors=vectors)


def test_rows_of_weight_zero_teach_nothing():
    encoded, labels = toy()
    wrong = labels.copy()
    wrong[:100] = (wrong[:100] + 1) % SHAPE.num_leaves
    weights = np.r_[np.zeros(100), np.full(100, 2.0)].astype(np.float32)
    model, _ = fit(encoded, wrong, SHAPE, SETTINGS, weights=weights)
    assert accuracy(model, encoded, labels) == 1.0


def test_exported_tensors_answer_like_the_network_natively():
    encoded, labels = toy()
    model, _ = fit(encoded, labels, SHAPE, replace(SETTINGS, epochs=2))
    shift, weights = 0.5 * log_prior(labels, SHAPE.num_leaves), np.array([0.2, 0.5, 0.7])
    tensors = export_tensors(model, weights, log_prior=shift)
    scorer = NativeScorer(tensors, mode="exact")

    def padded(ids, splits):
        lengths = np.diff(splits).astype(np.int32)
        out = np.zeros((len(lengths), max(1, lengths.max())), np.int32)
        out[np.arange(out.shape[1]) < lengths[:, None]] = ids
        return out, lengths

    title, mall = padded(encoded.title_ids, encoded.title_splits), padded(encoded.mall_ids, encoded.mall_splits)
    got = scorer.probabilities(ScorerInputs(*title, encoded.gram_ids, encoded.gram_splits, *mall))
    want = softmax(np.tensordot(weights, predict_logits(model, encoded), 1) + shift)
    assert np.abs(got - want).max() < 1e-5
