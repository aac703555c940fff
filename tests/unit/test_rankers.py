"""Ranking networks against their slow twins on the same weights."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from tests.reference import rankers as slow

from aitems_engine.errors import InvalidInputError
from aitems_engine.ranking import FeatureBatch, FieldSpec, Ranker
from aitems_engine.serving.plan_graph import plan_graph, run_graph
from aitems_engine.serving.plans import check_answers
from aitems_engine.training.ranker_onnx import build_ranker_onnx
from aitems_engine.training.rankers import RANKERS, RankerShape, make_ranker

FIELDS = FieldSpec((7, 1, 30), 4)


def inputs(fields, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, rows) for size in fields.cardinalities], 1).astype(np.int32)
    return codes, rng.normal(size=(rows, fields.dense)).astype(np.float32)


def randomised(fields, shape):
    """Return a network in which every weight matters, the biases and the first-order column as well."""
    model = make_ranker(fields, shape).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*model.parameters(), model.features.table.weight]:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model


def as_arrays(model):
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


SHAPES = [
    *(RankerShape(name, dim=5, hidden=(8, 6), bottom=(7,)) for name in RANKERS),
    RankerShape("dcn-v2", dim=3, hidden=(4,), cross_layers=3, cross_rank=2),
    RankerShape("dcn-v2", dim=3, hidden=(), cross_layers=0),
    RankerShape("deepfm", dim=1, hidden=()),
    RankerShape("dlrm", dim=2, hidden=(3,), bottom=()),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.name}-{s.dim}-{len(s.hidden)}-{s.cross_rank}")
@pytest.mark.parametrize("fields", [FIELDS, FieldSpec((3, 5), 0), FieldSpec((4,), 2)], ids=["mixed", "codes", "one"])
def test_equals_its_slow_twin(fields, shape):
    model = randomised(fields, shape)
    codes, dense = inputs(fields)
    with torch.no_grad():
        got = model(torch.from_numpy(codes), torch.from_numpy(dense)).numpy()
    want = slow.logits(shape.name, as_arrays(model), codes, dense)
    assert got.shape == want.shape == (40, len(model.targets))
    assert np.abs(got - want).max() <= 1e-5


@pytest.mark.parametrize("name", RANKERS)
def test_training_mode_answers_alike_and_every_weight_learns(name):
    model = randomised(FIELDS, RankerShape(name, dim=5, hidden=(8,), bottom=(7,)))
    codes, dense = (torch.from_numpy(x) for x in inputs(FIELDS))
    want = model(codes, dense).detach()
    model.train()
    got = model(codes, dense)
    assert torch.allclose(got, want, atol=1e-6)
    got.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    before = model.features.table.weight.clone()
    model.tables()[0].step(0.1)
    rows = torch.unique(codes + model.features.offsets)
    changed = (model.features.table.weight != before).any(1)
    assert changed[rows].all()
    assert int(changed.sum()) == len(rows)


def test_codes_of_different_fields_have_different_rows():
    model = randomised(FieldSpec((2, 2), 0), RankerShape("deepfm", dim=2, hidden=(3,)))
    a, b = (model(torch.tensor([row]), torch.zeros(1, 0)).item() for row in ([0, 1], [1, 0]))
    assert a != b


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        (FIELDS, RankerShape("dcn"), "must be one of deepfm, dlrm, dcn-v2, esmm, got 'dcn'"),
        (FieldSpec((), 3), RankerShape(), "at least one field of codes"),
        (FIELDS, RankerShape(dim=0), "at least 1 wide"),
        (FIELDS, RankerShape(dropout=1.0), "dropout must be from 0 and below 1, got 1.0"),
    ],
)
def test_impossible_sizes_are_refused(fields, shape, message):
    with pytest.raises(InvalidInputError, match=message):
        make_ranker(fields, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.name}-{s.dim}-{len(s.hidden)}-{s.cross_rank}")
@pytest.mark.parametrize("fields", [FIELDS, FieldSpec((3, 5), 0), FieldSpec((4,), 2)], ids=["mixed", "codes", "one"])
def test_onnx_answers_alike_for_any_number_of_rows(fields, shape):
    model = randomised(fields, shape)
    session = onnxruntime.InferenceSession(build_ranker_onnx(model), providers=["CPUExecutionProvider"])
    for rows in (0, 1, 33):
        codes, dense = inputs(fields, rows)
        (got,) = session.run(["logits"], {"codes": codes, "dense": dense})
        with torch.no_grad():
            want = model(torch.from_numpy(codes), torch.from_numpy(dense)).numpy()
        assert got.dtype == np.float32
        assert got.shape == want.shape
        assert np.abs(got - want).max(initial=0) <= 1e-4


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.name}-{s.dim}-{len(s.hidden)}-{s.cross_rank}")
@pytest.mark.parametrize(
    "fields",
    [
        FieldSpec((7, 1, 30), 4, request_codes=1),
        FieldSpec((3, 5), 0, request_codes=1),
        FieldSpec((4, 6), 2, request_codes=2),
    ],
    ids=["mixed", "codes", "request"],
)
def test_a_request_is_told_once_or_by_every_row(fields, shape):
    ranker = Ranker(build_ranker_onnx(model := randomised(fields, shape)), fields)
    codes, dense = inputs(fields, 1300)
    with torch.no_grad():
        want = model(torch.from_numpy(codes), torch.from_numpy(dense)).numpy()
    assert np.abs(ranker.logits(FeatureBatch(codes, dense)) - want).max() <= 1e-5

    splits = np.array([0, 0, 1, 1200, 1300, 1300])  # none, one, more than go through at once
    of_request = np.repeat(splits[:-1], np.diff(splits))
    codes[:, -fields.request_codes :] = codes[of_request, -fields.request_codes :]
    together = ranker.logits(FeatureBatch(codes, dense, splits))
    with torch.no_grad():
        want = model(torch.from_numpy(codes), torch.from_numpy(dense)).numpy()
    assert np.abs(together - want).max() <= 1e-5
    for first, last in itertools.pairwise(splits.tolist()):
        alone = FeatureBatch(codes[first:last], dense[first:last], np.array([0, last - first]))
        np.testing.assert_array_equal(ranker.logits(alone), together[first:last])


@pytest.mark.parametrize(("precision", "major"), [("fp16", 11), ("int8", 10)])
@pytest.mark.parametrize("name", RANKERS)
def test_graphs_that_plans_are_built_from(name, precision, major):
    fields = FieldSpec((50, 30, 20, 7, 5), 6, request_codes=2)
    graph = build_ranker_onnx(randomised(fields, RankerShape(name, dim=5, hidden=(8, 6), bottom=(7,))))
    feeds = dict(zip(("codes", "dense"), inputs(fields, 256), strict=True))
    plan = plan_graph(graph, precision, major, feeds)
    assert check_answers(name, run_graph(graph, feeds), run_graph(plan, feeds), precision) > 0
