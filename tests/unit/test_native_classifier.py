"""The classifier as a file without Python answers as `CategoryClassifier` does, and refuses to be wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_bundle import LABELS, SYLLABLES, classifier_json, tiny_parts, write_tiny_bundle
from tests.unit.test_taxonomy import random_tree

from aitems_engine._native.category import Classifier, Hedge
from aitems_engine.bundle import Bundle, write_bundle
from aitems_engine.category.classifier import CategoryClassifier, label_tree
from aitems_engine.category.loading import load_classifier, write_native
from aitems_engine.errors import InvalidInputError, ModelMismatchError

pytestmark = pytest.mark.native
HOSTILE = [b"", b" \t\n", b"\xff\xfe\x00broken", b"nul \0 inside", "ﷺ ㈱ İ".encode(), b"\xed\xa0\x80", b"a" * 100_000]


def titles(count: int, *, seed: int = 5) -> list[bytes]:
    rng = random.Random(seed)
    pool = SYLLABLES + "abcdefgh 0123456789 ()+-"
    made = ["".join(rng.choices(pool, k=rng.randrange(60))).encode() for _ in range(count)]
    return [*made, *HOSTILE, *(rng.randbytes(rng.randrange(40)) for _ in range(count // 10))]


def malls(count: int) -> list[bytes | None]:
    rng = random.Random(6)
    return [rng.choice([None, b"", "식품 > 과일".encode(), b"digital > \xff", b"phone"]) for _ in range(count)]


def both(folder: Path, *, mode: str = "int8", **changes: Any) -> tuple[CategoryClassifier, Path]:
    """Write a bundle and its native file; return the classifier in Python and the file."""
    parts = tiny_parts() | changes
    write_bundle(folder / "bundle", parts, config={})
    bundle = Bundle.open(folder / "bundle")
    classifier = load_classifier(bundle, execution="native", mode=mode)
    asked = titles(20)
    write_native(bundle, classifier, folder / "file", [(asked, None), (asked, malls(len(asked)))], top_k=3)
    return classifier, folder / "file"


def compare(classifier: CategoryClassifier, native: Classifier, asked: list[bytes], own: Any, top_k: int) -> None:
    right = classifier.classify(asked, own, top_k=top_k)
    # without a list of mall categories they are unknown; None in one is an empty text
    texts = None if own is None else [mall or b"" for mall in own]
    indices, probabilities, abstained, details = native.classify(asked, texts, top_k)
    paths = right.paths
    np.testing.assert_array_equal(indices, right.label_indices)
    np.testing.assert_array_equal(probabilities, right.probabilities)
    np.testing.assert_array_equal(abstained, right.abstained)
    for row, detail in enumerate(map(json.loads, details)):
        assert detail["paths"] == paths[row]
        assert detail["cause"] == right.causes[row]
        assert detail["parent_id"] == right.parent_ids[row]
        probability = np.float32(np.nan if detail["parent_probability"] is None else detail["parent_probability"])
        np.testing.assert_array_equal(probability, right.parent_probabilities[row])
        assert detail["bundle"] == right.bundle_digest


@pytest.mark.parametrize("mode", ["int8", "exact"])
def test_answers_equal_those_of_python(tmp_path: Path, mode: str) -> None:
    classifier, file = both(tmp_path, mode=mode)
    native = Classifier(str(file), mode)
    asked = titles(3000)
    for top_k in (1, 4, 100):
        compare(classifier, native, asked, None, top_k)
        compare(classifier, native, asked, malls(len(asked)), top_k)
    for hostile in HOSTILE:
        compare(classifier, native, [hostile], None, 2)
        compare(classifier, native, [hostile], [hostile], 2)
    for i in range(0, 200, 7):
        compare(classifier, native, asked[i : i + 1], malls(200)[i : i + 1], 2)
    parents = set(classifier.classify(asked).parent_ids)
    assert len(parents) > 2
    assert len(native.classify([], None)[3]) == 0


def test_tokeniser_with_a_template_and_names_with_quotes(tmp_path: Path) -> None:
    tokenizer = json.loads(tiny_parts()["tokenizer.json"])
    tokenizer["added_tokens"] = [
        {
            "id": i,
            "content": c,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, c in enumerate(("[PAD]", "[UNK]"))
    ]
    tokenizer["post_processor"] = {
        "type": "BertProcessing",
        "sep": ["[UNK]", 1],
        "cls": ["[PAD]", 0],
    }
    taxonomy = tiny_parts()["taxonomy.csv"].replace("Snack", '"Sn""a\\ck"').replace("Apple", '"A""pple"')
    classifier, file = both(tmp_path, **{"tokenizer.json": json.dumps(tokenizer), "taxonomy.csv": taxonomy})
    asked = titles(300)
    compare(classifier, Classifier(str(file)), asked, None, 3)
    compare(classifier, Classifier(str(file)), asked, malls(len(asked)), 3)
    assert classifier.classify([b""]).causes == ["empty title"]


def test_one_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    classifier = load_classifier(bundle, execution="native", mode="int8")
    write_tiny_bundle(tmp_path / "other", seed=4)
    write_native(Bundle.open(tmp_path / "other"), classifier, tmp_path / "file", [([b"apple"], None)], top_k=3)
    with pytest.raises(ModelMismatchError, match="does not answer as the engine did"):
        Classifier(str(tmp_path / "file"))


def test_damage_is_seen(tmp_path: Path) -> None:
    _, file = both(tmp_path)
    whole = file.read_bytes()
    rng = random.Random(3)
    for _ in range(60):
        at = rng.randrange(len(whole))
        broken = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        (tmp_path / "broken").write_bytes(rng.choice([broken, whole[:at]]))
        try:
            native = Classifier(str(tmp_path / "broken"))
        except ModelMismatchError:
            continue
        # only the zeros between sections are not looked at
        assert len(native.classify([b"apple"], None)[3]) == 1
    with pytest.raises(OSError, match="nothing"):
        Classifier(str(tmp_path / "nothing"))


def test_wrong_thresholds_of_a_flat_tree(tmp_path: Path) -> None:
    flat = "category_id,parent_id,name\n" + "".join(f"{label},,{label}\n" for label in LABELS)
    changed = json.dumps(classifier_json(thresholds={"default": 0.9, "by_top": {"apple": 0.2}}))
    classifier, file = both(tmp_path, **{"taxonomy.csv": flat, "classifier.json": changed})
    compare(classifier, Classifier(str(file)), titles(100), None, 2)


def tree(**changes: Any) -> dict[str, Any]:
    made = {
        "order": np.array([2, 0, 1], np.int32),
        "node_begin": np.array([0, 0], np.int32),
        "node_end": np.array([3, 2], np.int32),
        "above": np.array([[1, 0], [0, -1], [1, 0]], np.int32),
        "thresholds": np.array([0.5, 0.5, 0.9], np.float32),
    }
    return made | changes


def test_hedge_of_a_small_tree() -> None:
    hedge = Hedge(tree())
    logits = np.log(np.array([[0.3, 0.45, 0.25], [0.3, 0.45, 0.25], [0.3, 0.05, 0.65]], np.float32))
    nodes, probabilities = hedge.above(logits.copy(), np.array([0, 1, 2], np.int32))
    assert nodes.tolist() == [1, 0, 1]
    np.testing.assert_allclose(probabilities, [0.55, 1, 0.95], rtol=1e-6)
    never = Hedge(tree(thresholds=np.full(3, 2, np.float32)))
    assert never.above(logits.copy(), np.array([0, 1, 2], np.int32))[0].tolist() == [-1, -1, -1]
    with pytest.raises(InvalidInputError, match="labels must be from 0 to 2, got 3 in row 1"):
        hedge.above(logits[:2].copy(), np.array([0, 3], np.int32))
    with pytest.raises(InvalidInputError, match=r"logits must have shape \(rows, 3\)"):
        hedge.above(logits[:, :2].copy(), np.array([0, 1, 2], np.int32))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31), st.floats(0.05, 1), st.integers(1, 3))
def test_hedge_equals_the_probabilities_of_all_nodes(nodes: int, seed: int, share: float, threads: int) -> None:
    t = random_tree(random.Random(seed), nodes)
    rng = np.random.default_rng(seed)
    # some of the leaves, in any order
    columns = rng.permutation(t.leaf_nodes)[: max(1, int(share * len(t.leaf_nodes)))]
    thresholds = rng.uniform(0, 1.1, len(columns)).astype(np.float32)
    logits = rng.normal(0, 3, (40, len(columns))).astype(np.float32)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    every = t.node_probabilities(odds / odds.sum(1, keepdims=True), columns)
    labels = rng.integers(0, len(columns), 40).astype(np.int32)
    found, probabilities = Hedge(label_tree(t, columns, thresholds)).above(logits.copy(), labels, threads)
    for row, label in enumerate(labels):
        up = t.lineages(columns[label : label + 1])[0][-2::-1]
        sums = [every[row, node] for node in up]
        # a sum that is as good as the threshold may fall on either side
        possible = [
            next((n for n, p in zip(up, sums, strict=True) if p >= thresholds[label] + slack), -1)
            for slack in (-2e-6, 2e-6)
        ]
        assert found[row] in possible
        if found[row] >= 0:
            assert abs(probabilities[row] - every[row, found[row]]) < 2e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order": np.array([0, 0, 1], np.int32)}, "every label once"),
        ({"order": np.array([0, 1, 3], np.int32)}, "every label once"),
        ({"thresholds": np.zeros(2, np.float32)}, "one element a label"),
        ({"node_end": np.array([4, 2], np.int32)}, "node 0 must hold labels from 0 to 3"),
        ({"node_begin": np.array([0, 3], np.int32)}, "node 1 must hold labels"),
        ({"above": np.array([[1, 2], [0, -1], [1, 0]], np.int32)}, "above must hold nodes"),
        ({"above": np.array([[0, 1], [0, -1], [1, 0]], np.int32)}, "do not lie within one another"),
        ({"above": np.array([[-1, 1], [0, -1], [1, 0]], np.int32)}, "do not lie within one another"),
    ],
)
def test_trees_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        Hedge(tree(**changes))
