"""Readers of files that others wrote: anything in, a value or an error of this package out; bounded memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine.bundle import MANIFEST, Bundle, write_bundle
from aitems_engine.catalog import Taxonomy, iter_products
from aitems_engine.category.settings import ClassifierSettings
from aitems_engine.errors import AitemsError, BundleError, DataError, TaxonomyError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
CELL = st.sampled_from(["", "a", "b", "c", "a > b", " ", '"', "1", "0", "\n", ",", "é", "가"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELL, min_size=1, max_size=5), max_size=8), st.booleans())
def test_any_rows_are_a_tree_or_refused(rows: list[list[str]], repair: bool) -> None:
    text = "category_id,parent_id,path,is_leaf\n" + "\n".join(",".join(row) for row in rows)
    from aitems_engine.catalog.taxonomy_file import records_of_csv

    try:
        tree = Taxonomy.from_records(records_of_csv(text, "t.csv", ","), source="t.csv", repair=repair)
    except TaxonomyError as error:
        assert str(error).startswith("t.csv")  # noqa: PT017
        return
    paths = [tree.path(leaf) for leaf in tree.leaf_ids]
    assert len(set(paths)) == len(paths)
    assert Taxonomy.from_csv(tree.to_csv()).leaf_ids == tree.leaf_ids


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_json_is_a_tree_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "t.json"
    path.write_text(json.dumps(value))
    with pytest.raises(TaxonomyError, match=r"t\.json"):
        Taxonomy.read(path)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["format_version", "labels", "thresholds", "gram_min", "training"]), JSON))
def test_any_settings_are_refused_or_whole(value: dict[str, Any]) -> None:
    try:
        settings_read = ClassifierSettings.from_json(value)
    except BundleError as error:
        assert "classifier.json" in str(error)  # noqa: PT017
    else:
        assert ClassifierSettings.from_json(settings_read.to_json()) == settings_read


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["format", "format_version", "parts", "digest", "created_at"]), JSON), JSON)
def test_any_manifest_is_refused(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], part: Any) -> None:
    path = tmp_path_factory.mktemp("m") / "b"
    write_bundle(path, {"a": b"x"})
    manifest = json.loads((path / MANIFEST).read_text())
    for changed in (
        value,
        {**manifest, **value, "parts": [part]},
        {**manifest, "parts": [{**manifest["parts"][0], "name": part}]},
    ):
        (path / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(BundleError):
            Bundle.open(path)


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for i in range(20_000):
            file.write(json.dumps({"product_id": i, "title": f"나이키 에어맥스 {i} " + "x" * 60, "price": i}) + "\n")
    tracemalloc.start()
    rows = sum(len(batch) for batch in iter_products(path, batch_size=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 20_000
    # all rows as Python objects would be about 10 MB
    assert peak < 4_000_000


def test_a_compressed_bomb_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "p.csv.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b"title\n")
        for _ in range(64):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match="line 2: the line is longer than"):
        list(iter_products(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32_000_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_null_bytes_are_text_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(b"title\na\0b\n" if suffix == ".csv" else b'{"title":"a\\u0000b"}\n')
    try:
        (batch,) = iter_products(path)
    except AitemsError as error:
        assert "line" in str(error)  # noqa: PT017 - Python 3.10 refuses them in CSV
    else:
        assert batch.title == ["a\0b"]
