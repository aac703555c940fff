"""The native text classifier and the ONNX graph against the slow twin in tests/reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine._native import isa, textcnn
from aitems_engine.errors import ConfigError, InvalidInputError
from aitems_engine.runtime import NativeScorer, OnnxScorer, ScorerInputs
from aitems_engine.training.onnx_graph import build_onnx

pytestmark = pytest.mark.native

_spec = importlib.util.spec_from_file_location(
    "reference_textcnn", Path(__file__).resolve().parent.parent / "reference" / "textcnn.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def make_tensors(
    rng,
    *,
    vocabulary=50,
    dimension=9,
    title=((2, 7), (3, 33)),
    bag=None,
    mall=(),
    fc=0,
    classes=45,
):
    tensors = {"embedding.weight": rng.normal(size=(vocabulary, dimension))}
    tensors["embedding.weight"][0] = 0
    depth = 0
    for branch, convs in (("title", title), ("mall", mall)):
        for width, filters in convs:
            tensors[f"{branch}.conv{width}.weight"] = rng.normal(size=(filters, dimension, width)) / 4
            tensors[f"{branch}.conv{width}.bias"] = rng.normal(size=filters)
            depth += filters
    if bag:
        tensors["title.bag.weight"] = rng.normal(size=bag)
        tensors["title.bag.bias"] = rng.normal(size=bag[1])
        depth += bag[1]
    if fc:
        tensors["fc.weight"] = rng.normal(size=(fc, depth)) / np.sqrt(depth)
        tensors["fc.bias"] = rng.normal(size=fc)
        depth = fc
    tensors["head.weight"] = rng.normal(size=(classes, depth)) / np.sqrt(depth)
    tensors["head.bias"] = rng.normal(size=classes)
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    tensors["aux.title.head.weight"] = np.full((3, 3), np.nan, np.float32)
    return tensors


def make_inputs(rng, tensors, count, *, width=11, mall_width=5, grams=20):
    vocabulary = len(tensors["embedding.weight"])

    def tokens(columns):
        lengths = rng.integers(0, columns + 1, count).astype(np.int32)
        if count:
            lengths[rng.integers(count)] = 0
        # what lies behind the length is garbage that must never be looked at
        ids = rng.integers(-5, vocabulary + 5, (count, columns))
        used = np.arange(columns) < lengths[:, None]
        ids[used] = rng.integers(0, vocabulary, used.sum())
        return ids.astype(np.int32), lengths

    title_ids, title_lengths = tokens(width)
    mall_ids, mall_lengths = tokens(mall_width)
    gram_ids = gram_splits = None
    if "title.bag.weight" in tensors:
        counts = rng.integers(0, grams, count)
        gram_splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        gram_ids = rng.integers(0, len(tensors["title.bag.weight"]), counts.sum()).astype(np.int32)
    return ScorerInputs(title_ids, title_lengths, gram_ids, gram_splits, mall_ids, mall_lengths)


MODELS = {
    "title only": {},
    "one class": {"classes": 1, "title": ((1, 1),)},
    "bag": {"bag": (13, 5)},
    "everything": {"bag": (64, 40), "mall": ((1, 6), (2, 64), (3, 3)), "classes": 97},
    "low rank": {"bag": (64, 32), "mall": ((2, 8),), "fc": 21, "classes": 64},
    "wide": {"title": ((1, 32), (5, 64), (16, 2)), "classes": 33},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", isa.runnable())
def test_exact_mode_equals_the_definition(name, level):
    rng = np.random.default_rng(len(name))
    tensors = make_tensors(rng, **MODELS[name])
    scorer = NativeScorer(tensors, mode="exact", isa=level)
    for count in (0, 1, 2, 5, 13, 200, 401):
        inputs = make_inputs(rng, tensors, count)
        expected = reference.logits(tensors, inputs)
        np.testing.assert_allclose(scorer.logits(inputs), expected, rtol=1e-5, atol=1e-5)
        if count == 0:
            continue
        probabilities = reference.softmax(expected)
        np.testing.assert_allclose(scorer.probabilities(inputs), probabilities, rtol=1e-4, atol=1e-6)
        for k in {1, min(5, scorer.classes), scorer.classes}:
            indices, values = scorer.score(inputs, k, threads=2)
            order, best = reference.top(probabilities, k)
            np.testing.assert_allclose(values, best, rtol=1e-4, atol=1e-6)
            close = np.abs(np.take_along_axis(probabilities, indices, 1) - best) < 1e-6
            assert ((indices == order) | close).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", isa.runnable())
def test_int8_mode_equals_its_definition(name, level):
    rng = np.random.default_rng(len(name))
    tensors = make_tensors(rng, **MODELS[name])
    scorer = NativeScorer(tensors, mode="int8", isa=level)
    largest_code = 127 if level == "v3" else 255
    for count in (1, 7, 40):
        inputs = make_inputs(rng, tensors, count)
        expected = reference.int8_logits(tensors, inputs, largest_code)
        logits = scorer.logits(inputs)
        # a sum that lies on the edge of two codes may fall to either side: one code of one feature
        np.testing.assert_allclose(logits, expected, atol=0.05)
        assert np.abs(logits - expected).mean() < 2e-3
        probabilities = reference.softmax(logits.astype(np.float64))
        k = min(6, scorer.classes)
        indices, values = scorer.score(inputs, k)
        order, best = reference.top(probabilities, k)
        assert (indices == order).all()
        np.testing.assert_allclose(values, best, rtol=1e-4, atol=1e-7)


def test_int8_mode_stays_close_to_exact():
    rng = np.random.default_rng(5)
    tensors = make_tensors(rng, dimension=32, title=((2, 64), (3, 64)), bag=(64, 32), mall=((2, 32),), classes=300)
    inputs = make_inputs(rng, tensors, 500)
    exact = NativeScorer(tensors, mode="exact")
    for level in isa.runnable():
        scorer = NativeScorer(tensors, mode="int8", isa=level)
        assert (scorer.score(inputs, 1)[0] == exact.score(inputs, 1)[0]).mean() > 0.96
        assert np.abs(scorer.probabilities(inputs) - exact.probabilities(inputs)).max() < 0.05
    assert scorer.describe()["table_bytes"] * 3.9 < exact.describe()["table_bytes"]


@pytest.mark.parametrize("name", MODELS)
def test_onnx_equals_the_definition(name):
    rng = np.random.default_rng(7)
    tensors = make_tensors(rng, **MODELS[name])
    scorer = OnnxScorer(build_onnx(tensors))
    native = NativeScorer(tensors, mode="exact")
    assert scorer.classes == native.classes
    for count in (0, 1, 33):
        inputs = make_inputs(rng, tensors, count)
        expected = reference.logits(tensors, inputs)
        np.testing.assert_allclose(scorer.logits(inputs), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scorer.probabilities(inputs), native.probabilities(inputs), atol=1e-4)
        k = min(3, scorer.classes)
        for ours, theirs in zip(native.score(inputs, k), scorer.score(inputs, k), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("make", [lambda t: NativeScorer(t, mode="exact"), lambda t: OnnxScorer(build_onnx(t))])
def test_padding_and_batch_mates_do_not_change_a_row(make):
    rng = np.random.default_rng(3)
    tensors = make_tensors(rng, **MODELS["everything"])
    scorer = make(tensors)
    inputs = make_inputs(rng, tensors, 7)
    whole = scorer.logits(inputs)
    wider = np.full((7, 40), -99, np.int32)
    wider[:, :11] = inputs.title_ids
    padded = ScorerInputs(wider, inputs.title_lengths, *inputs.arrays()[2:])
    np.testing.assert_allclose(scorer.logits(padded), whole, atol=2e-6)
    for i in range(7):
        n, g = inputs.title_lengths[i], inputs.gram_splits[i : i + 2]
        alone = ScorerInputs(
            np.ascontiguousarray(inputs.title_ids[i : i + 1, :n]),
            inputs.title_lengths[i : i + 1],
            inputs.gram_ids[g[0] : g[1]],
            g - g[0],
            inputs.mall_ids[i : i + 1],
            inputs.mall_lengths[i : i + 1],
        )
        np.testing.assert_allclose(scorer.logits(alone)[0], whole[i], atol=2e-6)


@pytest.mark.parametrize("level", isa.runnable())
def test_ties_go_to_the_lower_index(level):
    rng = np.random.default_rng(1)
    tensors = make_tensors(rng, classes=130)
    tensors["head.weight"][:] = 0
    tensors["head.bias"] = np.repeat(np.arange(13, dtype=np.float32) % 5, 10)
    inputs = make_inputs(rng, tensors, 9)
    order = np.argsort(-tensors["head.bias"], kind="stable")
    for mode in ("exact", "int8"):
        scorer = NativeScorer(tensors, mode=mode, isa=level)
        for k in (1, 5, 17, 64, 65, 130):
            assert (scorer.score(inputs, k)[0] == order[:k]).all()


@pytest.mark.parametrize("level", isa.runnable())
def test_probabilities_survive_any_range_of_logits(level):
    rng = np.random.default_rng(1)
    tensors = make_tensors(rng, classes=200)
    tensors["head.weight"][:] = 0
    for bias in (
        np.linspace(-500, 500, 200),
        np.linspace(500, -500, 200),
        np.where(np.arange(200) == 150, 0, -1e9),
        np.where(np.arange(200) == 3, 0, -1e9),
        np.full(200, -1e9),
    ):
        tensors["head.bias"] = bias.astype(np.float32)
        inputs = make_inputs(rng, tensors, 4)
        expected = reference.softmax(np.repeat(tensors["head.bias"][None].astype(np.float64), 4, 0))
        for mode in ("exact", "int8"):
            scorer = NativeScorer(tensors, mode=mode, isa=level)
            np.testing.assert_allclose(scorer.probabilities(inputs), expected, atol=1e-6)
            np.testing.assert_allclose(scorer.score(inputs, 7)[1], reference.top(expected, 7)[1], rtol=1e-5, atol=1e-30)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_small_model(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = st.integers(1, 40)
    widths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
    tensors = make_tensors(
        rng,
        vocabulary=data.draw(size),
        dimension=data.draw(size),
        title=[(w, data.draw(size)) for w in widths],
        bag=data.draw(st.none() | st.tuples(size, size)),
        mall=[(w, data.draw(size)) for w in data.draw(st.lists(st.integers(1, 3), max_size=2, unique=True))],
        fc=data.draw(st.just(0) | size),
        classes=data.draw(st.integers(1, 150)),
    )
    inputs = make_inputs(rng, tensors, data.draw(st.integers(1, 9)), width=data.draw(st.integers(0, 8)))
    expected = reference.logits(tensors, inputs)
    level = data.draw(st.sampled_from(isa.runnable()))
    np.testing.assert_allclose(NativeScorer(tensors, "exact", level).logits(inputs), expected, rtol=1e-4, atol=1e-4)


def test_bad_tensors_are_named():
    rng = np.random.default_rng(0)
    good = make_tensors(rng, bag=(8, 4))

    def refuse(change, match):
        tensors = dict(good)
        change(tensors)
        with pytest.raises(InvalidInputError, match=match):
            NativeScorer(tensors, mode="exact")

    refuse(lambda t: t.pop("embedding.weight"), r"no tensor 'embedding.weight'; it must have shape \(n, n\)")
    refuse(lambda t: t.pop("head.bias"), r"no tensor 'head.bias'; it must have shape \(45,\)")
    refuse(lambda t: t.pop("title.conv3.bias"), "no tensor 'title.conv3.bias'")
    refuse(lambda t: t.update({"head.weight": np.zeros((45, 3), np.float32)}), r"shape \(n, 44\), got \(45, 3\)")
    refuse(lambda t: t.update({"head.weight": np.zeros((45, 44))}), "must be a C-contiguous float32 array")
    refuse(lambda t: t.update({"head.weight": np.zeros((44, 45), np.float32).T}), "not contiguous")
    refuse(lambda t: t.update({"head.bias": [1.0]}), "must be a NumPy array, got list")
    refuse(lambda t: t.update({"title.bag.weight": np.zeros((0, 4), np.float32)}), r"got \(0, 4\)")
    refuse(lambda t: t.update({"title.convx.weight": np.zeros(3, np.float32)}), "'title.convx.weight'.*does not know")
    refuse(lambda t: [t.pop(n) for n in list(t) if n.startswith("title.conv")], "no title convolution")
    for value in (np.nan, np.inf, -np.inf, 2e9):
        for name in [n for n in good if not n.startswith("aux.")]:
            broken = good[name].copy()
            broken.flat[-1] = value
            refuse(lambda t, name=name, broken=broken: t.update({name: broken}), f"'{name}' holds .* finite")
    absurd = {
        "embedding.weight": np.zeros((2_000_000, 1), np.float32),
        "title.conv16.weight": np.zeros((8192, 1, 16), np.float32),
    }
    with pytest.raises(InvalidInputError, match=r"would take 1000000 MiB .* at most 32768 are allowed"):
        NativeScorer(absurd, mode="exact")
    with pytest.raises(InvalidInputError, match="vocabulary must be at most 4000000, got 4000001"):
        NativeScorer({"embedding.weight": np.zeros((4_000_001, 1), np.float32)}, mode="exact")
    with pytest.raises(InvalidInputError, match="mode must be"):
        NativeScorer(good, mode="int4")
    with pytest.raises(ConfigError, match="cannot run here"):
        NativeScorer(good, isa="v9")


def replaced(inputs, **changes):
    names = ("title_ids", "title_lengths", "gram_ids", "gram_splits", "mall_ids", "mall_lengths")
    return ScorerInputs(**{**dict(zip(names, inputs.arrays(), strict=True)), **changes})


@pytest.mark.parametrize("make", [lambda t: NativeScorer(t, mode="exact"), lambda t: OnnxScorer(build_onnx(t))])
def test_bad_inputs_are_named(make):
    rng = np.random.default_rng(0)
    tensors = make_tensors(rng, bag=(8, 4), mall=((1, 3),))
    scorer = make(tensors)
    good = make_inputs(rng, tensors, 6)
    ids = np.zeros((6, 11), np.int32)
    full = np.full(6, 11, np.int32)

    def refuse(match, k=2, **changes):
        with pytest.raises(InvalidInputError, match=match):
            scorer.score(replaced(good, **changes), k)

    for bad in (-1, 50, 2**31 - 1, -(2**31)):
        wrong = ids.copy()
        wrong[4, 10] = bad
        refuse(f"title_ids must be from 0 to 49.*{bad}", title_ids=wrong, title_lengths=full)
        refuse(f"mall_ids must be from 0 to 49.*{bad}", mall_ids=wrong, mall_lengths=full)
    for bad in (-1, 12):
        refuse(f"title_lengths must be from 0 to the width.*{bad}", title_lengths=np.full(6, bad, np.int32))
        refuse("mall_lengths must be from 0 to the width", mall_lengths=np.full(6, bad, np.int32))
    refuse("gram_ids must be from 0 to 7", gram_ids=np.full(len(good.gram_ids), 8, np.int32))
    refuse("gram_ids and gram_splits are needed", gram_ids=None, gram_splits=None)
    refuse("gram_splits", gram_splits=good.gram_splits + 1)
    refuse("gram_splits", gram_splits=np.array([0, 5, 3, 3, 3, 3, len(good.gram_ids)], np.int64))
    refuse("gram_splits", gram_splits=good.gram_splits[:-1])
    refuse("title_ids must be", title_ids=ids.astype(np.int64))
    refuse("title_ids must be", title_ids=ids[0])
    refuse("title_lengths", title_lengths=full[:3])
    refuse("mall_ids must", mall_ids=ids[:3])
    refuse("top_k must be from 1 to the number of classes", k=0)
    refuse(r"top_k must be from 1 to the number of classes \(45\), got 46", k=46)
    with pytest.raises(InvalidInputError, match="threads must be 0"):
        scorer.score(good, 1, threads=-1)


def test_a_missing_mall_path_equals_an_empty_one():
    rng = np.random.default_rng(2)
    tensors = make_tensors(rng, mall=((1, 3), (2, 4)))
    inputs = make_inputs(rng, tensors, 5)
    empty = replaced(inputs, mall_lengths=np.zeros(5, np.int32))
    missing = replaced(inputs, mall_ids=None, mall_lengths=None)
    for scorer in (NativeScorer(tensors, mode="exact"), OnnxScorer(build_onnx(tensors))):
        assert (scorer.logits(empty) == scorer.logits(missing)).all()


def grams_of(texts, min_n=2, max_n=4, buckets=1 << 17, threads=1):
    encoded = [t if isinstance(t, bytes) else t.encode() for t in texts]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in encoded])]).astype(np.int64)
    data = np.frombuffer(b"".join(encoded), np.uint8)
    ids, splits = textcnn.char_ngrams(data, offsets, min_n, max_n, buckets, threads)
    assert ids.dtype == np.int32
    assert splits.dtype == np.int64
    return [ids[splits[i] : splits[i + 1]].tolist() for i in range(len(texts))]


def test_char_ngrams_by_hand():
    def fnv(text):
        h = 0xCBF29CE484222325
        for byte in text.encode():
            h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
        return (h ^ (h >> 32)) % 1000

    expected = [fnv(g) for g in (" 컵", " 컵 ", "컵 ")]
    assert grams_of(["컵", "", " \t\n", "\u3000컵\u2003\u00a0"], buckets=1000) == [expected, [], [], expected]
    assert grams_of(["a b"], 3, 3, 1000) == [[fnv(" a "), fnv("a b"), fnv(" b ")]]
    assert grams_of([]) == []
    assert grams_of(["x"], 1, 1, 1) == [[0, 0, 0]]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.text(" \t\u3000\u2028가나ab\U0001f600\u200b")),
    st.integers(1, 8),
    st.integers(0, 7),
    st.sampled_from([1, 7, 1000, 1 << 17, 2**31 - 1]),
)
def test_char_ngrams_equal_the_definition(texts, min_n, more, buckets):
    max_n = min(8, min_n + more)
    assert grams_of(texts, min_n, max_n, buckets, threads=2) == [
        reference.char_ngrams(t, min_n, max_n, buckets) for t in texts
    ]


@given(st.lists(st.binary()))
def test_char_ngrams_take_any_bytes(texts):
    for text, ids in zip(texts, grams_of(texts), strict=True):
        assert len(ids) <= 3 * (len(text) + 2)


def test_char_ngrams_refuse_what_they_cannot_do():
    data, offsets = np.zeros(4, np.uint8), np.array([0, 4], np.int64)
    for args, match in (
        ((data, offsets, 0, 4, 10), "min_n 0"),
        ((data, offsets, 3, 2, 10), "min_n 3, max_n 2"),
        ((data, offsets, 2, 9, 10), "max_n 9"),
        ((data, offsets, 2, 4, 0), "buckets must be"),
        ((data, offsets, 2, 4, 2**31), "buckets must be"),
        ((data, np.array([0, 5], np.int64), 2, 4, 10), "offsets must ascend"),
        ((data, np.array([2, 1], np.int64), 2, 4, 10), "offsets must ascend"),
        ((data, np.array([-1, 1], np.int64), 2, 4, 10), "offsets must ascend"),
        ((data, np.zeros(0, np.int64), 2, 4, 10), "one element more"),
        ((b"abcd", offsets, 2, 4, 10), "must be a NumPy array"),
        ((data, offsets.astype(np.int32), 2, 4, 10), "int64"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            textcnn.char_ngrams(*args)
