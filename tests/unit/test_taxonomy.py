"""Category trees: what is read, what is refused, and sums over the tree against their slow twin."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import slow_metrics

from aitems_engine.catalog.taxonomy import Taxonomy
from aitems_engine.errors import InvalidInputError, TaxonomyError

SMALL = "category_id,parent_id,name\nf,,Food\nd,,디지털\nfr,f,Fruit\nap,fr,Apple\npe,fr,Pear\nph,d,Phone\n"


def tree(tmp_path: Path, text: str, name: str = "t.csv") -> Taxonomy:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return Taxonomy.read(path)


def test_reads_a_small_tree(tmp_path: Path) -> None:
    t = tree(tmp_path, SMALL)
    assert t.leaf_ids == ["ap", "pe", "ph"]
    assert t.path("ap") == "Food > Fruit > Apple"
    assert t.top("ph") == "d"
    assert t.top("f") == "f"
    assert t.ancestors("ap") == ["fr", "f"]
    assert t.ancestors("f") == []
    assert t.lineage("pe") == ["f", "fr", "pe"]
    assert t.depth == 3
    assert t.top_ids == ["f", "d"]
    assert "ap" in t
    assert "x" not in t


def test_children_may_come_before_parents_and_leaves_keep_their_order(tmp_path: Path) -> None:
    t = tree(tmp_path, "category_id,parent_id,name\nz,b,Z\na,b,A\nb,,B\n")
    assert t.leaf_ids == ["z", "a"]
    again = Taxonomy.from_csv(t.to_csv())
    assert again.leaf_ids == t.leaf_ids
    assert [again.path(i) for i in again.leaf_ids] == ["B > Z", "B > A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("category_id,parent_id,name\n", "no category"),
        ("category_id,name\na,A\n", "no column 'parent_id'; found: category_id, name"),
        ("category_id,parent_id,name\na,,A\nb,x,B\n", "row 3: parent 'x' of category 'b' does not exist"),
        ("category_id,parent_id,name\na,,A\na,,B\n", "row 3: category id 'a' is already used in row 2"),
        ("category_id,parent_id,name\na,,A\nb,a,\n", "row 3: category 'b' has an empty name"),
        ("category_id,parent_id,name\na,,A\n,a,B\n", "row 3: the category id is empty"),
        (
            "category_id,parent_id,name\na,b,A\nb,c,B\nc,a,C\nd,,D\n",
            "row 2: cycle of 3 categories: 'a' -> 'b' -> 'c' -> 'a'",
        ),
        ("category_id,parent_id,name\na,a,A\nd,,D\n", "row 2: cycle of 1 categories: 'a' -> 'a'"),
        ("category_id,parent_id,name\ne,a,E\na,b,A\nb,a,B\nd,,D\n", "row 3: cycle of 2"),
        ("category_id,parent_id,name\na,,A\nb,a,X\nc,a,X\n", "row 4: leaf 'c' has the same path as 'b' in row 3"),
        ("category_id,parent_id,name\na,,A,more\n", "row 2: 4 fields, but the header has 3"),
        ("category_id,parent_id,name,is_leaf\na,,A,maybe\n", "row 2, column 'is_leaf': must be 0 or 1, got 'maybe'"),
        ("category_id,parent_id,name,is_leaf\na,,A,1\nb,a,B,1\n", "row 2: 'a' is marked as a leaf, but has children"),
        ("category_id,parent_id,name,is_leaf\na,,A,0\n", "no leaf"),
        ('category_id,parent_id,name\na,,"A\n', "unexpected end of data"),
    ],
)
def test_refuses_with_the_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TaxonomyError, match=r"t\.csv") as caught:
        tree(tmp_path, text)
    assert message in str(caught.value)


def test_refuses_bad_bytes_and_suffixes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("category_id,parent_id,name\na,,전자\n".encode("cp949"))
    with pytest.raises(TaxonomyError, match=r"t\.csv, row 2: not UTF-8"):
        Taxonomy.read(tmp_path / "t.csv")
    with pytest.raises(TaxonomyError, match=r"got '\.xlsx'"):
        Taxonomy.read(tmp_path / "t.xlsx")


def test_json_nested_and_flat_are_the_same(tmp_path: Path) -> None:
    nested = [
        {"id": 1, "name": "Food", "children": [{"id": 2, "name": "Apple"}, {"id": 3, "name": "Pear", "children": []}]}
    ]
    flat = [
        {"category_id": "2", "parent_id": 1, "name": "Apple"},
        {"category_id": "1", "name": "Food", "parent_id": None},
        {"category_id": "3", "parent_id": "1", "name": "Pear"},
    ]
    a = tree(tmp_path, json.dumps(nested), "a.json")
    b = tree(tmp_path, json.dumps({"categories": flat}), "b.json")
    assert a.leaf_ids == b.leaf_ids == ["2", "3"]
    assert a.path("3") == b.path("3") == "Food > Pear"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1]", "row 1: must be an object, got int"),
        ('[{"id":"a","name":"A","children":3}]', "'children' must be a list, got int"),
        ('[{"id":["a"],"name":"A"}]', "row 1, 'id': must be text, got list"),
        ('[{"id":"a","name":"\\ud800"}]', "row 1, 'name': holds a lone surrogate"),
        ("[" * 100_000, "not JSON"),
        ("{", "not JSON"),
        ("3", "must be a list of categories, got int"),
    ],
)
def test_refuses_bad_json(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(TaxonomyError) as caught:
        tree(tmp_path, value, "t.json")
    assert message in str(caught.value)


def test_paths_instead_of_names_and_repair(tmp_path: Path) -> None:
    text = (
        "category_id,parent_id,path,is_leaf\n1,,Gift,0\n3,2,Gift > Kids > Toys,1\n4,2,Gift > Kids > Games,1\n"
        "7,6,Audio > Car > Radio,1\n8,1,Gift > Same,1\n9,1,Gift > Same,1\n"
    )
    with pytest.raises(TaxonomyError, match=r"row 3: parent '2' .* \(3 such rows in all\)"):
        tree(tmp_path, text)
    t = Taxonomy.read(tmp_path / "t.csv", repair=True)
    assert t.path("4") == "Gift > Kids > Games"
    assert t.ancestors("3") == ["2", "1"]
    assert t.path("7") == "Audio > Car > Radio"
    assert t.ancestors("7") == ["6", "path:Audio"]
    assert t.path("9") == "Gift > Same (9)"
    assert len(t.repairs) == 4
    assert Taxonomy.from_csv(t.to_csv()).leaf_ids == t.leaf_ids


def test_flat_labels() -> None:
    t = Taxonomy.flat(["CPU", "메모리"])
    assert t.leaf_ids == t.top_ids == ["CPU", "메모리"]
    with pytest.raises(TaxonomyError, match="already used"):
        Taxonomy.flat(["a", "a"])
    with pytest.raises(TaxonomyError, match="no category"):
        Taxonomy.flat([])


def test_deep_tree_is_no_problem(tmp_path: Path) -> None:
    depth = 5_000
    rows = [f"{i},{i - 1 if i else ''},n{i}" for i in range(depth)]
    random.Random(1).shuffle(rows)
    t = tree(tmp_path, "category_id,parent_id,name\n" + "\n".join(rows) + "\n")
    assert t.depth == depth
    assert t.top(str(depth - 1)) == "0"
    assert t.node_probabilities(np.ones((1, 1))).tolist() == [[1.0] * depth]


def random_tree(rng: random.Random, nodes: int) -> Taxonomy:
    rows = [f"n{i},{f'n{rng.randrange(i)}' if i and rng.random() > 0.1 else ''},name{i}" for i in range(nodes)]
    rng.shuffle(rows)
    return Taxonomy.from_csv("category_id,parent_id,name\n" + "\n".join(rows))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31), st.integers(0, 5))
def test_node_probabilities_equal_the_slow_twin(nodes: int, seed: int, rows: int) -> None:
    t = random_tree(random.Random(seed), nodes)
    p = np.random.default_rng(seed).dirichlet(np.ones(len(t.leaf_ids)), size=rows).astype(np.float32)
    p = p.reshape(rows, len(t.leaf_ids))
    ours = t.node_probabilities(p)
    assert ours.dtype == np.float32
    assert ours.shape == (rows, nodes)
    for r in range(rows):
        leaves = dict(zip(t.leaf_ids, p[r].astype(float).tolist(), strict=True))
        expected = [slow_metrics.node_probability(t, leaves, n) for n in t.node_ids]
        np.testing.assert_allclose(ours[r], expected, rtol=1e-6, atol=1e-9)


def test_node_probabilities_for_some_leaves_only(tmp_path: Path) -> None:
    t = tree(tmp_path, SMALL)
    nodes = t.node_probabilities(np.array([[0.75, 0.25]]), t.positions(["ph", "pe"]))
    assert dict(zip(t.node_ids, nodes[0].tolist(), strict=True)) == {
        "f": 0.25, "fr": 0.25, "pe": 0.25, "ap": 0.0, "d": 0.75, "ph": 0.75,
    }  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"shape \(rows, 3\)"):
        t.node_probabilities(np.ones((1, 2)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_common_depth_counts_shared_ancestors(nodes: int, seed: int) -> None:
    rng = random.Random(seed)
    t = random_tree(rng, nodes)
    a = [rng.randrange(nodes) for _ in range(30)]
    b = [rng.randrange(nodes) for _ in range(30)]
    expected = [len(set(t.lineage(t.node_ids[x])) & set(t.lineage(t.node_ids[y]))) for x, y in zip(a, b, strict=True)]
    assert t.common_depth(np.array(a), np.array(b)).tolist() == expected


def test_unknown_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no category 'nope' in this taxonomy of 6 nodes"):
        tree(tmp_path, SMALL).path("nope")
