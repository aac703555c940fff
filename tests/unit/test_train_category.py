"""From products to a verified bundle, on data small enough for seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aitems_engine import Engine
from aitems_engine.catalog.products import Products
from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError, TrainingError
from aitems_engine.training import category
from aitems_engine.training.category import CategorySettings, recency_weights, split_rows, train_category
from aitems_engine.training.encode import TextLimits
from aitems_engine.training.fit import FitSettings
from aitems_engine.training.tokenizer import train_tokenizer

WORDS = {"shoe": "운동화 sneaker", "sock": "양말 socks", "lamp": "스탠드 lamp", "desk": "책상 desk"}
TREE = "category_id,parent_id,name\n1,,wear\n2,,home\nshoe,1,shoes\nsock,1,socks\nlamp,2,lamps\ndesk,2,desks\n"
SETTINGS = CategorySettings(
    vocab_size=300,
    limits=TextLimits(gram_buckets=2048),
    dim=8,
    title_filters=8,
    gram_dim=16,
    gram_groups=2,
    mall_filters=8,
    skipgram=False,
    target_accuracy=0.9,
    fit=FitSettings(epochs=6, batch_size=8, learning_rate=0.01, table_learning_rate=0.5, threads=1, device="cpu"),
)


def make_products(count=160, seed=0, **columns):
    rng = np.random.default_rng(seed)
    leaves = [list(WORDS)[i] for i in rng.integers(0, 4, count)]
    titles = [f"{rng.choice(WORDS[leaf].split())} AB{rng.integers(10, 99)} {rng.integers(1, 9)}개" for leaf in leaves]
    return Products.from_columns(titles, **{"category": leaves, **columns})


def train(products, out, taxonomy=None, settings=SETTINGS, **options):
    return train_category(products, taxonomy, out=out, settings=settings, **options)


@pytest.fixture(scope="module")
def tokenizer():
    """The `tokenizers` package does not train the same vocabulary twice, so tests of equality share one."""
    return train_tokenizer(make_products().title, vocab_size=300)


def test_a_separable_set_is_learnt_and_the_bundle_answers_it(tmp_path):
    result = train(make_products(), tmp_path / "bundle", Taxonomy.from_csv(TREE))
    assert result.labels == ("shoe", "sock", "lamp", "desk")  # in the order of the tree
    assert result.validation is not None
    assert result.validation.scores["accuracy"] == 1.0
    assert result.execution_difference <= 1e-4
    fresh = make_products(60, seed=7)
    for mode in ("exact", "int8"):
        answer = Engine.open(tmp_path / "bundle", mode=mode).classify(fresh.title, top_k=2)
        assert answer.leaf_ids[:, 0].tolist() == fresh.category
        assert answer.bundle_digest == result.digest


def test_flat_labels_and_mall_categories(tmp_path):
    products = make_products(300)
    # a third of the titles say nothing, another third has no mall category
    titles = ["특가 AB12" if i % 3 == 0 else title for i, title in enumerate(products.title)]
    malls = [None if i % 3 == 1 else f"mall > {leaf} corner" for i, leaf in enumerate(products.category)]
    settings = replace(SETTINGS, skipgram=True)
    result = train(replace(products, title=titles, mall_category=malls), tmp_path / "bundle", settings=settings)
    assert result.labels == ("desk", "lamp", "shoe", "sock")
    assert {"accuracy_title", "accuracy_mall"} <= result.validation.scores.keys()
    engine = Engine.open(tmp_path / "bundle", mode="exact")
    answer = engine.classify(["운동화", "", "운동화 AB12"], ["mall > shoe corner", "mall > lamp corner", None], top_k=1)
    assert answer.leaf_ids[:, 0].tolist() == ["shoe", "lamp", "shoe"]


def test_equal_input_gives_an_equal_bundle(tmp_path, tokenizer):
    products = make_products(80)
    first, second = (train(products, tmp_path / name, tokenizer=tokenizer) for name in ("a", "b"))
    assert first.digest == second.digest
    other = train(
        products, tmp_path / "c", tokenizer=tokenizer, settings=replace(SETTINGS, fit=replace(SETTINGS.fit, seed=1))
    )
    assert other.digest != first.digest


def test_a_training_that_was_stopped_gives_the_same_bundle(tmp_path, monkeypatch, tokenizer):
    products = make_products(80)
    whole = train(products, tmp_path / "whole", tokenizer=tokenizer)
    save = category_checkpoints().save

    def interrupted(path, *args):
        save(path, *args)
        if path.name == "refit.safetensors":
            raise KeyboardInterrupt

    monkeypatch.setattr(category_checkpoints(), "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(products, tmp_path / "bundle", checkpoint=tmp_path / "states", tokenizer=tokenizer)
    assert not (tmp_path / "bundle").exists()
    monkeypatch.undo()
    resumed = train(products, tmp_path / "bundle", checkpoint=tmp_path / "states", tokenizer=tokenizer)
    assert resumed.digest == whole.digest
    assert list((tmp_path / "states").iterdir()) == []


def category_checkpoints():
    from aitems_engine.training import checkpoint

    return checkpoint


def test_unlabelled_rows_are_counted_and_left_out(tmp_path):
    products = make_products(80)
    labels = [None if i % 4 == 0 else leaf for i, leaf in enumerate(products.category)]
    result = train(replace(products, category=labels), tmp_path / "bundle")
    assert result.skipped_unlabelled == 20
    assert all(labels[row] for row in result.validation.rows)


def test_without_validation_rows_nothing_abstains(tmp_path):
    result = train(make_products(40), tmp_path / "bundle", settings=replace(SETTINGS, validation_share=0.0))
    assert result.validation is None
    assert len(result.history) == SETTINGS.fit.epochs
    assert not Engine.open(tmp_path / "bundle").classify(["운동화"]).abstained.any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None] * 8, r"none of the 8 products has a category"),
        (["shoe"] * 8, r"all products have the category 'shoe'; a classifier needs at least two"),
        (["shoe"] * 7 + ["boat"], r"product '8' \(row 8\) has the category 'boat', which is not a node"),
        (["shoe"] * 7 + ["1"], r"category '1', which is an inner node"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tmp_path, labels, message):
    with pytest.raises(InvalidInputError, match=message):
        train(make_products(8, category=labels), tmp_path / "bundle", Taxonomy.from_csv(TREE))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_share": 1.0}, "validation_share must be at least 0 and below 1, got 1.0"),
        ({"target_accuracy": 0.0}, "target_accuracy must be above 0"),
        ({"half_life_days": -1.0}, "half_life_days must be 0 or more"),
        ({"gram_dim": 10, "gram_groups": 4}, "gram_dim must be a multiple of gram_groups"),
        ({"fit": FitSettings(epochs=-1)}, "fit.epochs must be 0 .* or more, got -1"),
        ({"fit": FitSettings(learning_rate=float("nan"))}, "fit.learning_rate must be positive, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(InvalidInputError, match=message):
        train(make_products(8), tmp_path / "bundle", settings=replace(SETTINGS, **change))


def test_a_loss_that_is_no_number_leaves_no_bundle(tmp_path, monkeypatch):
    nan = np.full((400, SETTINGS.dim), np.nan, np.float32)
    monkeypatch.setattr(category, "word_vectors", lambda encoded, shape, settings: nan[: shape.vocab_size])
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(make_products(40), tmp_path / "bundle", settings=replace(SETTINGS, skipgram=True))
    assert not (tmp_path / "bundle").exists()


def test_validation_rows_are_the_newest_where_times_are_known():
    n = 50
    products = make_products(n, registered_at=np.random.default_rng(0).permutation(n) * 1000)
    labels = np.zeros(n, np.int64)
    training, validation = split_rows(products, np.arange(n), labels, SETTINGS, None)
    assert len(validation) == 5
    assert products.registered_at[validation].min() > products.registered_at[training].max()


def test_validation_rows_are_spread_over_leaves_and_leave_each_something_to_learn():
    labels = np.r_[np.zeros(60, np.int64), np.ones(30, np.int64), [2]]
    products = make_products(len(labels))
    training, validation = split_rows(products, np.arange(len(labels)), labels, SETTINGS, None)
    assert sorted(np.r_[training, validation].tolist()) == list(range(len(labels)))
    assert np.bincount(labels[validation], minlength=3).tolist() == [6, 3, 0]
    _, asked = split_rows(products, np.arange(len(labels)), labels, SETTINGS, np.array([0, 90]))
    assert asked.tolist() == [0]  # the only row of leaf 2 stays in training
    with pytest.raises(InvalidInputError, match="validation_rows must be between 0 and 90"):
        split_rows(products, np.arange(len(labels)), labels, SETTINGS, np.array([91]))


def test_recency_weights_halve():
    day = category.DAY_MS
    weights = recency_weights(np.array([100, 90, -1]) * day, 10.0)
    assert weights[0] / weights[1] == pytest.approx(2)
    assert weights[2] == weights[1]  # unknown counts as the oldest known
    assert weights.mean() == pytest.approx(1)
    assert recency_weights(np.array([100, 90]) * day, 0.0) is None
    assert recency_weights(np.array([-1, -1]), 10.0) is None
