"""`aitems ann` on .npy, .fvecs and Parquet files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aitems_engine.ann import AnnIndex
from aitems_engine.ann.vectors import read_vectors
from aitems_engine.cli import main
from aitems_engine.errors import DataError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(6000, 12)).astype(np.float32)
QUERIES = RNG.normal(size=(40, 12)).astype(np.float32)


def write_fvecs(path, rows):
    with path.open("wb") as file:
        for row in rows:
            file.write(np.int32(len(row)).tobytes() + row.tobytes())


def test_npy_and_fvecs(tmp_path, capsys):
    np.save(tmp_path / "items.npy", VECTORS)
    write_fvecs(tmp_path / "queries.fvecs", QUERIES)
    words = [
        "--vectors",
        f"{tmp_path}/items.npy",
        "--queries",
        f"{tmp_path}/queries.fvecs",
        "--out",
        f"{tmp_path}/x.index",
    ]
    assert main(["ann", "build", *words]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "ivf"
    asked = ["--index", f"{tmp_path}/x.index", "--queries", f"{tmp_path}/queries.fvecs"]
    assert main(["ann", "search", *asked, "--k", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = AnnIndex.open(tmp_path / "x.index").search(QUERIES, 3)
    assert len(lines) == 120
    assert [int(line[2]) for line in lines] == expected.ids.reshape(-1).tolist()
    assert main(["ann", "evaluate", *asked, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recall@10"] > 0.9
    assert report["queries"] == 40


def test_parquet_with_strings_and_filters(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"id": [f"p{i}" for i in range(200)], "mall": ["a", "b"] * 100, "vector": list(VECTORS[:200])}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    words = [
        "--vectors",
        f"{tmp_path}/items.parquet",
        "--id-column",
        "id",
        "--attribute",
        "mall",
        "--out",
        f"{tmp_path}/x.index",
    ]
    assert main(["ann", "build", *words]) == 0
    capsys.readouterr()
    asked = ["--index", f"{tmp_path}/x.index", "--queries", f"{tmp_path}/items.parquet"]
    assert main(["ann", "search", *asked, "--k", "2", "--filter", "mall=a", "--out", f"{tmp_path}/hits.npz"]) == 0
    ids = np.load(tmp_path / "hits.npz")["ids"]
    assert all(int(i[1:]) % 2 == 0 for i in ids.flat)
    assert main(["ann", "evaluate", *asked]) == 0
    assert "recall@10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ann", "search", "--index", "none.index", "--queries", "q.npy"], "none.index"),
        (["ann", "build", "--vectors", "a.npy", "--attribute", "mall", "--out", "x"], "need --vectors to be a Parquet"),
        (["ann", "build", "--vectors", "a.txt", "--out", "x"], "read from .npy, .fvecs and .parquet"),
        (["ann", "search", "--index", "x", "--queries", "q.npy", "--filter", "mall"], "NAME=VALUE"),
        (["ann", "build", "--vectors", "a.npy", "--out", "no/such/x.index"], "there is no folder no/such"),
        (["ann", "evaluate", "--index", "x", "--queries", "q.npy", "--plot", "no/such/x.png"], "there is no folder"),
    ],
)
def test_wrong_use_says_what_to_do(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_damaged_vector_files(tmp_path):
    (tmp_path / "a.fvecs").write_bytes(np.arange(7, dtype=np.int32).tobytes())
    (tmp_path / "b.npy").write_bytes(b"not numpy")
    np.save(tmp_path / "c.npy", np.arange(6))
    for name, message in (("a.fvecs", "no whole rows"), ("b.npy", r"no \.npy file"), ("c.npy", "got int64")):
        with pytest.raises(DataError, match=message):
            read_vectors(tmp_path / name)


def test_damaged_ids(tmp_path, capsys):
    np.save(tmp_path / "items.npy", VECTORS[:5])
    np.save(tmp_path / "objects.npy", np.array(["a", 5], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1 2 3")
    words = ["ann", "build", "--vectors", f"{tmp_path}/items.npy", "--out", f"{tmp_path}/x.index", "--ids"]
    for name in ("objects.npy", "text.npy"):
        assert main([*words, f"{tmp_path}/{name}"]) == 1
        assert "no .npy file of integers or strings" in capsys.readouterr().err


def test_plot_of_recall_against_rate(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "queries.npy", QUERIES)
    for kind, ids in (("ivf", [f"p{i}" for i in range(6000)]), ("exact", None)):
        AnnIndex.build(VECTORS, ids, kind=kind).save(tmp_path / "x.index")
        words = ["--index", f"{tmp_path}/x.index", "--queries", f"{tmp_path}/queries.npy"]
        assert main(["ann", "evaluate", *words, "--plot", f"{tmp_path}/x.png", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
        assert len(report["efforts"]) == (8 if kind == "ivf" else 0)
        assert report["efforts"][-1]["recall"] >= report["efforts"][0]["recall"] if kind == "ivf" else True
        assert main(["ann", "evaluate", *words, "--plot", f"{tmp_path}/x.png"]) == 0
        assert f"{tmp_path}/x.png shows" in capsys.readouterr().out


def test_integer_values_in_filters(tmp_path, capsys):
    AnnIndex.build(VECTORS[:4], attributes={"year": [2020, 2021, "2020", 5]}).save(tmp_path / "x.index")
    np.save(tmp_path / "q.npy", QUERIES[:1])
    words = ["ann", "search", "--index", f"{tmp_path}/x.index", "--queries", f"{tmp_path}/q.npy"]
    for filter, expected in (("year=2020", {0, 2}), ("year!=2020", {1, 3}), ("year=x", set())):
        assert main([*words, "--filter", filter]) == 0
        assert {int(line.split()[2]) for line in capsys.readouterr().out.splitlines()} == expected


def test_a_reader_that_stops_is_no_error(tmp_path):
    AnnIndex.build(VECTORS).save(tmp_path / "x.index")
    np.save(tmp_path / "q.npy", VECTORS[:3000])
    words = f"-m aitems_engine.cli ann search --index {tmp_path}/x.index --queries {tmp_path}/q.npy".split()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=100) == 0
    assert child.stderr.read() == b""
    child.stderr.close()
