"""The engine on a bundle with random weights: equal to its slow twin, honest about what it cannot classify."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_bundle import LABELS, TAXONOMY_CSV, classifier_json, tiny_parts, write_tiny_bundle

from aitems_engine import Engine
from aitems_engine.bundle import write_bundle
from aitems_engine.category.classifier import rows_of
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import AitemsError, BundleError, InvalidInputError, ModelMismatchError
from aitems_engine.runtime import ScorerInputs
from aitems_engine.text import PackedText

TITLES = [
    "나이키 에어맥스 270",
    "Apple iPhone 15 case",
    "삼성 갤럭시 노트",
    "x",
    "쿠키 과자 100g",
    "usb-c 고속 충전 케이블",
]
MALLS = ["food > fruit", None, "Digital", None, "식품 > 과자", ""]


@pytest.fixture(scope="module", params=[("native", "int8"), ("native", "exact"), ("onnx", "exact")], ids="-".join)
def engine(request: pytest.FixtureRequest, tiny_bundle: Path) -> Engine:
    execution, mode = request.param
    return Engine.open(tiny_bundle, execution=execution, mode=mode)


def rebuilt(tmp_path: Path, **changes: Any) -> Path:
    """Write the tiny bundle with some parts changed: whole as a bundle, but perhaps not belonging together."""
    parts = {k: v for k, v in (tiny_parts() | changes).items() if v is not None}
    write_bundle(tmp_path / "changed", parts)
    return tmp_path / "changed"


def slow_answer(engine: Engine, title: str, mall: str | None) -> dict[str, Any]:
    """One row, from the probabilities of all leaves, node by node."""
    p = dict(zip(engine.labels, engine.probabilities([title], [mall])[0].astype(float).tolist(), strict=True))
    ranked = sorted(p, key=lambda leaf: (-p[leaf], engine.labels.index(leaf)))
    best, taxonomy = ranked[0], engine.taxonomy
    threshold = 0.7 if taxonomy.top(best) == "food" else 0.6
    parent = None
    if p[best] < threshold:
        for node in taxonomy.ancestors(best):
            if sum(v for leaf, v in p.items() if node in taxonomy.lineage(leaf)) >= threshold:
                parent = node
                break
    return {
        "ranked": ranked,
        "probabilities": [p[x] for x in ranked],
        "abstained": p[best] < threshold,
        "parent": parent,
    }


def test_answers_equal_the_slow_twin(engine: Engine) -> None:
    result = engine.classify(TITLES, MALLS, top_k=6)
    for row, (title, mall) in enumerate(zip(TITLES, MALLS, strict=True)):
        expected = slow_answer(engine, title, mall)
        assert result.leaf_ids[row].tolist() == expected["ranked"]
        np.testing.assert_allclose(result.probabilities[row], expected["probabilities"], rtol=1e-4, atol=1e-6)
        assert bool(result.abstained[row]) == expected["abstained"]
        assert result.parent_ids[row] == expected["parent"]
        assert (result.causes[row] is None) == (not expected["abstained"])
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert 0 < result.abstained.sum() < len(TITLES)
    assert result.paths[0][0] == engine.taxonomy.path(result.leaf_ids[0, 0])
    assert result.bundle_digest == engine.bundle_digest


def test_rows_do_not_influence_one_another(engine: Engine) -> None:
    together = engine.classify(TITLES, MALLS, threads=2)
    for row in range(len(TITLES)):
        alone = engine.classify(TITLES[row : row + 1], MALLS[row : row + 1])
        np.testing.assert_array_equal(alone.leaf_ids[0], together.leaf_ids[row])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[row], rtol=1e-5)
        assert alone.causes[0] == together.causes[row]


def test_forms_of_input_are_equal(engine: Engine) -> None:
    expected = engine.classify(TITLES, MALLS)
    data = [t.encode() for t in TITLES]
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in data])]).astype(np.int64)
    packed = PackedText(np.frombuffer(b"".join(data), np.uint8), offsets)
    malls_bytes = [None if m is None else m.encode() for m in MALLS]
    import pyarrow as pa

    for titles, malls in (
        (data, malls_bytes),
        (packed, MALLS),
        (tuple(TITLES), tuple(MALLS)),
        ([TITLES[0], *data[1:]], MALLS),
        (pa.array(TITLES), pa.array(MALLS)),
    ):
        result = engine.classify(titles, malls)
        np.testing.assert_array_equal(result.label_indices, expected.label_indices)
        np.testing.assert_array_equal(result.probabilities, expected.probabilities)


def test_mall_category_changes_the_answer_and_its_absence_is_normal(engine: Engine) -> None:
    without = engine.classify(TITLES)
    np.testing.assert_array_equal(without.probabilities, engine.classify(TITLES, [None] * len(TITLES)).probabilities)
    np.testing.assert_array_equal(without.probabilities, engine.classify(TITLES, [""] * len(TITLES)).probabilities)
    assert (engine.classify(TITLES, ["food > snack"] * len(TITLES)).probabilities != without.probabilities).any()


@pytest.mark.parametrize("titles", [[""], [None], ["  \t\n"], [b""], ["\u200b"]])
def test_empty_titles_are_abstained(engine: Engine, titles: list[Any]) -> None:
    result = engine.classify(titles, ["food > fruit"])
    assert result.abstained.tolist() == [True]
    if titles != ["\u200b"]:
        assert result.causes == ["empty title"]
        assert result.parent_ids == [None]
    assert result.leaf_ids.shape == (1, 5)


def test_hostile_titles_have_an_answer(engine: Engine) -> None:
    titles = [
        "\0\0\0", "a" * 200_000, "나" * 50_000, b"\xff\xfe\xfa" * 100, b"\xed\xa0\x80", "\ud800", "\U0010ffff",
        "\u202e" * 50,
        "👨‍👩‍👧‍👦" * 100, "ﷺ" * 500, "e\u0301" * 500, "[PAD] [UNK]", "%s {} \\x00 <script>", "\r\n",
    ]  # fmt: skip
    result = engine.classify(titles, [b"\xff"] * len(titles))
    assert np.isfinite(result.probabilities).all()
    assert len(list(result.records([str(i) for i in range(len(titles))]))) == len(titles)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30) | st.binary(max_size=30) | st.none(), max_size=8), st.integers(1, 9))
def test_any_titles_have_an_answer(tiny_bundle: Path, titles: list[Any], top_k: int) -> None:
    with Engine.open(tiny_bundle, mode="exact") as engine:
        result = engine.classify(titles, top_k=top_k)
    assert result.probabilities.shape == result.leaf_ids.shape == (len(titles), min(top_k, len(LABELS)))
    assert (np.diff(result.probabilities, axis=1) <= 0).all()
    assert len(result) == len(result.causes) == len(titles)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.classify("one title"), "titles must be a list of texts, got one str; put it into a list"),
        (lambda e: e.classify(5), "titles must be a list of texts, got int"),
        (lambda e: e.classify(["a", 5]), "titles"),
        (lambda e: e.classify([["a"]]), "titles"),
        (lambda e: e.classify(["a"], ["x", "y"]), r"mall_categories must have one entry a title \(1\), got 2"),
        (lambda e: e.classify(["a"], "x"), "mall_categories must be a list of texts, got one str"),
        (lambda e: e.classify(["a"], [3.5]), "mall_categories"),
        (lambda e: e.classify(["a"], top_k=0), "top_k must be a whole number of at least 1, got 0"),
        (lambda e: e.classify(["a"], top_k=2.0), r"top_k must be a whole number of at least 1, got 2\.0"),
        (lambda e: e.classify(["a"], top_k=True), "top_k must be"),
        (lambda e: e.classify(["a"], threads=-1), "threads"),
    ],
)
def test_wrong_calls_are_refused(engine: Engine, call: Callable[[Engine], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call(engine)


def test_nothing_in_nothing_out(engine: Engine) -> None:
    result = engine.classify([], [], top_k=3)
    assert result.leaf_ids.shape == result.probabilities.shape == (0, 3)
    assert result.causes == result.paths == list(result.records([])) == []


def test_records(engine: Engine) -> None:
    result = engine.classify([*TITLES[:2], ""], top_k=2)
    records = json.loads(json.dumps(list(result.records(["p1", "p2", "p3"])), ensure_ascii=False))
    assert [r["product_id"] for r in records] == ["p1", "p2", "p3"]
    assert set(records[0]) == {"product_id", "categories", "abstained", "cause", "bundle"}
    assert [c["leaf_id"] for c in records[0]["categories"]] == result.leaf_ids[0].tolist()
    assert records[0]["categories"][0]["path"].count(" > ") == 2
    assert records[2]["cause"] == "empty title"


def test_json_records_equal_the_json_module(engine: Engine) -> None:
    texts: list[str | int] = [*TITLES, "", 'a "quoted" \\ title\n', "\ud800", 7]
    result = engine.classify([str(t) for t in texts], top_k=3)
    assert [json.loads(r) for r in result.json_records(texts)] == list(result.records(texts))


def test_causes_name_the_threshold_and_the_sure_parent(engine: Engine) -> None:
    result = engine.classify([f"{a} {b}" for a in TITLES for b in "abcdefgh"])
    for row in np.flatnonzero(result.abstained):
        cause = result.causes[row]
        assert cause is not None
        found = re.match(r"low confidence: best (0\.\d+) < threshold (0\.[67]0*) for '(식품|Digital)'", cause)
        assert found is not None
        assert float(found[1]) == pytest.approx(result.probabilities[row, 0], abs=0.005)
        assert float(found[1]) < float(found[2])
        parent = result.parent_ids[row]
        if parent is None:
            assert np.isnan(result.parent_probabilities[row])
        else:
            assert cause.endswith(
                f"; sure of '{engine.taxonomy.path(parent)}' ({result.parent_probabilities[row]:.2f})"
            )
            assert result.parent_probabilities[row] >= 0.6
    assert any(result.parent_ids)


def test_threads_share_an_engine(engine: Engine) -> None:
    expected = engine.classify(TITLES, MALLS)
    failures: list[str] = []

    def work() -> None:
        for _ in range(30):
            if not np.array_equal(engine.classify(TITLES, MALLS).probabilities, expected.probabilities):
                failures.append("differs")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_close_and_describe(tiny_bundle: Path) -> None:
    with Engine.open(tiny_bundle, mode="exact") as engine:
        described = engine.describe()
        assert described["labels"] == 6
        assert described["taxonomy_depth"] == 3
        assert described["execution"] == "native"
        assert described["mode"] == "exact"
        json.dumps(described)
        assert "digest" in repr(engine)
    engine.close()
    assert engine.describe()["closed"]
    assert "closed" in repr(engine)
    with pytest.raises(InvalidInputError, match="this engine is closed"):
        engine.classify(["a"])


def test_native_and_onnx_agree(tiny_bundle: Path) -> None:
    native = Engine.open(tiny_bundle, mode="exact").probabilities(TITLES, MALLS)
    onnx = Engine.open(tiny_bundle, execution="onnx").probabilities(TITLES, MALLS)
    np.testing.assert_allclose(native, onnx, atol=1e-4)


def test_wrong_execution(tiny_bundle: Path) -> None:
    with pytest.raises(InvalidInputError, match="execution must be one of native, onnx and mode one of int8, exact"):
        Engine.open(tiny_bundle, execution="gpu")


def settings_part(**changes: Any) -> str:
    return json.dumps(classifier_json(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model.safetensors": None}, BundleError, r"no part 'model\.safetensors'"),
        ({"tokenizer.json": "{}"}, BundleError, r"tokenizer\.json|changed"),
        ({"tokenizer.json": b"\xff"}, BundleError, r"part 'tokenizer\.json' is not UTF-8"),
        ({"taxonomy.csv": "category_id,parent_id,name\na,b,A\n"}, BundleError, r"taxonomy\.csv, row 2: parent 'b'"),
        (
            {"taxonomy.csv": TAXONOMY_CSV.replace("cable,phone,Cable\n", "")},
            ModelMismatchError,
            "label 'cable', which is no leaf",
        ),
        ({"classifier.json": "[]"}, BundleError, "must hold a JSON object, got list"),
        (
            {"classifier.json": settings_part(labels=LABELS[:5])},
            ModelMismatchError,
            "5 labels, but the model has 6 outputs",
        ),
        ({"classifier.json": settings_part(labels=["a", "a"])}, BundleError, "has a leaf id twice"),
        ({"classifier.json": settings_part(labels=[])}, BundleError, "'labels' must be a list of 1 to"),
        ({"classifier.json": settings_part(format_version=2)}, BundleError, "got '2'; upgrade aitems-engine"),
        ({"classifier.json": settings_part(extra=1)}, BundleError, "unknown key 'extra'"),
        (
            {"classifier.json": settings_part(max_title_length=0)},
            BundleError,
            "'max_title_length' must be a whole number",
        ),
        ({"classifier.json": settings_part(gram_min=5)}, BundleError, "gram_min 5 is larger than gram_max 4"),
        ({"classifier.json": settings_part(temperature=0)}, BundleError, "'temperature' must be a number"),
        ({"classifier.json": settings_part(thresholds={"default": 2})}, BundleError, r"'thresholds\.default' must be"),
        (
            {"classifier.json": settings_part(thresholds={"by_top": {"fruit": 0.5}})},
            ModelMismatchError,
            "threshold for 'fruit'",
        ),
        ({"classifier.json": settings_part(thresholds=[])}, BundleError, "'thresholds' must be an object"),
        (
            {"classifier.json": settings_part(gram_buckets=32)},
            ModelMismatchError,
            "32 n-gram buckets, but the model has 64",
        ),
        (
            {"classifier.json": settings_part(gram_buckets=0)},
            ModelMismatchError,
            "0 n-gram buckets, but the model has 64",
        ),
        ({"model.safetensors": b"nonsense" * 10}, BundleError, r"model\.safetensors"),
        ({"model.onnx": b"nonsense" * 10}, BundleError, r"model\.onnx"),
    ],
)
@pytest.mark.parametrize("execution", ["native", "onnx"])
def test_parts_that_do_not_belong_together(
    tmp_path: Path, changes: dict[str, Any], error: type[AitemsError], message: str, execution: str
) -> None:
    if ("model.safetensors" in changes and execution == "onnx") or ("model.onnx" in changes and execution == "native"):
        pytest.skip("this execution does not read that part")
    with pytest.raises(error, match=message):
        Engine.open(rebuilt(tmp_path, **changes), execution=execution)


def test_a_tokenizer_of_another_training(tmp_path: Path, tiny_bundle: Path) -> None:
    document = json.loads((tiny_bundle / "tokenizer.json").read_text())
    document["model"]["vocab"]["more"] = len(document["model"]["vocab"])
    for execution in ("native", "onnx"):
        with pytest.raises(ModelMismatchError, match=r"tokenizer\.json has 165 tokens, but the model has 164"):
            Engine.open(rebuilt(tmp_path, **{"tokenizer.json": json.dumps(document)}), execution=execution)


def test_parts_of_two_bundles_are_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    write_tiny_bundle(tmp_path / "other", seed=4)
    shutil.copytree(tiny_bundle, tmp_path / "mixed")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "mixed" / "model.safetensors")
    with pytest.raises(BundleError, match=r"part 'model\.safetensors' is damaged or comes from another bundle"):
        Engine.open(tmp_path / "mixed")


@pytest.mark.parametrize("execution", ["native", "onnx"])
def test_a_bundle_is_replaced_under_an_open_engine(tmp_path: Path, execution: str) -> None:
    write_tiny_bundle(tmp_path / "b", seed=3)
    old = Engine.open(tmp_path / "b", execution=execution, mode="exact")
    expected = old.classify(TITLES).probabilities
    digest = write_tiny_bundle(tmp_path / "b", seed=4)
    np.testing.assert_allclose(old.classify(TITLES, threads=2).probabilities, expected, rtol=0, atol=1e-6)
    new = Engine.open(tmp_path / "b", mode="exact")
    assert new.bundle_digest == digest != old.bundle_digest
    assert (new.classify(TITLES).probabilities != expected).any()


def test_opening_while_bundles_are_swapped(tmp_path: Path) -> None:
    """Whatever is opened is one of the two bundles as a whole."""
    digests = {write_tiny_bundle(tmp_path / "b", seed=s): s for s in (3, 4)}
    answers = {}
    for digest, seed in digests.items():
        write_tiny_bundle(tmp_path / f"only{seed}", seed=seed)
        answers[digest] = Engine.open(tmp_path / f"only{seed}", mode="exact").classify(TITLES).probabilities
    stop = threading.Event()

    def swap() -> None:
        parts = {seed: tiny_parts(seed=seed) for seed in (3, 4)}
        while not stop.is_set():
            for seed in (3, 4):
                write_bundle(tmp_path / "b", parts[seed], config={"seed": seed})

    thread = threading.Thread(target=swap)
    thread.start()
    opened = 0
    try:
        for _ in range(40):
            try:
                engine = Engine.open(tmp_path / "b", mode="exact")
            except BundleError as error:
                assert "keeps changing" in str(error)  # noqa: PT017
                continue
            opened += 1
            np.testing.assert_array_equal(engine.classify(TITLES).probabilities, answers[engine.bundle_digest])
    finally:
        stop.set()
        thread.join()
    assert opened > 0


def test_settings_round_trip() -> None:
    value = classifier_json()
    assert ClassifierSettings.from_json(json.loads(json.dumps(value))).to_json() == value


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_rows_of_a_batch(counts: list[int], data: st.DataObject) -> None:
    n = len(counts)
    splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    grams = np.arange(splits[-1], dtype=np.int32) * 7
    inputs = ScorerInputs(np.arange(n * 3, dtype=np.int32).reshape(n, 3), np.arange(n, dtype=np.int32), grams, splits)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=10)), dtype=np.intp)
    taken = rows_of(inputs, rows)
    assert taken.gram_ids is not None
    assert taken.gram_splits is not None
    ours = [taken.gram_ids[a:b].tolist() for a, b in zip(taken.gram_splits, taken.gram_splits[1:], strict=False)]
    assert ours == [grams[splits[r] : splits[r + 1]].tolist() for r in rows]
    assert taken.title_lengths.tolist() == rows.tolist()
    assert taken.mall_ids is None
