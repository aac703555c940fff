"""`aitems classify` and `aitems evaluate category` on the tiny bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from aitems_engine import Engine
from aitems_engine.bundle import Bundle
from aitems_engine.cli import main

TITLES = ["나이키 에어맥스 270", "Apple iPhone 15 case", "", "usb-c 고속 케이블", '쿠키, "과자"']


@pytest.fixture
def products(tmp_path: Path) -> Path:
    path = tmp_path / "new.jsonl"
    rows = [
        {"id": i, "name": title, "mall_category": "food > fruit" if i % 2 else None, "category": "apple"}
        for i, title in enumerate(TITLES)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def classify(bundle: Path, products: Path, out: Path, *more: str) -> int:
    return main(["classify", "--bundle", str(bundle), "--products", str(products), "--out", str(out), *more])


def test_jsonl(tiny_bundle: Path, products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "categories.jsonl"
    assert classify(tiny_bundle, products, out, "--top-k", "2", "--batch-size", "2") == 0
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [r["product_id"] for r in records] == ["0", "1", "2", "3", "4"]
    assert list(records[0]) == ["product_id", "categories", "abstained", "cause", "bundle"]
    assert list(records[0]["categories"][0]) == ["leaf_id", "path", "probability"]
    assert records[2]["cause"] == "empty title"
    malls = ["food > fruit" if i % 2 else None for i in range(5)]
    expected = Engine.open(tiny_bundle).classify(TITLES, malls, top_k=2)
    assert records == [json.loads(json.dumps(r)) for r in expected.records([r["product_id"] for r in records])]
    assert records[0]["bundle"] == Bundle.open(tiny_bundle).digest
    assert "5 products classified" in capsys.readouterr().out


def test_parquet_and_csv_say_the_same(tiny_bundle: Path, products: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for name in ("a.jsonl", "a.parquet", "a.csv", "a.csv.gz"):
        assert classify(tiny_bundle, products, tmp_path / name, "--top-k", "3", "--batch-size", "2") == 0
    expected = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        flat = list(csv.DictReader(file))
    for want, row, cells in zip(expected, table, flat, strict=True):
        assert [c["leaf_id"] for c in row["categories"]] == [c["leaf_id"] for c in want["categories"]]
        assert row["cause"] == want["cause"]
        assert cells["leaf_id_3"] == want["categories"][2]["leaf_id"]
        assert cells["path_1"] == want["categories"][0]["path"]
        assert float(cells["probability_1"]) == want["categories"][0]["probability"]
        assert cells["abstained"] == str(want["abstained"])


def test_a_failure_leaves_the_old_output(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"title":"a"}\n' * 5 + '{"title":7}\n')
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    assert classify(tiny_bundle, bad, out, "--batch-size", "2") == 1
    assert out.read_text() == "old\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "out.jsonl"]
    assert capsys.readouterr().err == "aitems: bad.jsonl, line 6, column 'title': must be text, got int 7\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "titel=x"], "--column must be FIELD=NAME with FIELD one of product_id, title"),
        (["--column", "title=goods"], "no column 'goods' for field 'title'; found 'id', 'name'"),
        (["--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--bundle", "/nonexistent"], "bundle '/nonexistent' does not exist"),
        (["--out", "x.xlsx"], "x.xlsx: must end with .csv"),
        (["--out", "/nonexistent/x.csv"], "--out: the directory '/nonexistent' does not exist"),
        (["--products", "/nonexistent.csv"], "No such file or directory"),
    ],
)
def test_wrong_inputs_have_a_message(
    tiny_bundle: Path,
    products: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert classify(tiny_bundle, products, tmp_path / "out.jsonl", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_output_over_input_is_refused(tiny_bundle: Path, products: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify(tiny_bundle, products, products) == 1
    assert "--out must not be the file that --products reads" in capsys.readouterr().err


def test_evaluate(tiny_bundle: Path, products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "category", "--bundle", str(tiny_bundle), "--products", str(products), "--batch-size", "2"]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert "5 products: accuracy" in shown
    assert "report.html" in shown
    figures = json.loads((tmp_path / "report" / "metrics.json").read_text())
    expected = Engine.open(tiny_bundle).classify(TITLES, ["food > fruit" if i % 2 else None for i in range(5)])
    assert figures["accuracy"] == pytest.approx((expected.leaf_ids[:, 0] == "apple").mean())
    assert figures["coverage"] == pytest.approx((~expected.abstained).mean())


@pytest.mark.parametrize(
    ("line", "out", "message"),
    [
        ('{"title":"a","category":"nowhere"}', "r", "product '1' has the category 'nowhere', which is no leaf of"),
        ('{"title":"a"}', "r", "no column for field 'category'"),
        ('{"title":"a","category":"apple"}', "file", "--out must be a directory"),
        ('{"title":"a","category":"apple"}', "BUNDLE", "is a bundle; a report inside would make it unreadable"),
    ],
)
def test_evaluate_wrong_inputs(
    tiny_bundle: Path, tmp_path: Path, line: str, out: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n")
    (tmp_path / "file").write_text("x")
    target = tiny_bundle if out == "BUNDLE" else tmp_path / out
    words = ["evaluate", "category", "--bundle", str(tiny_bundle), "--products", str(tmp_path / "p.jsonl")]
    assert main([*words, "--out", str(target)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["classify"], ["evaluate", "category"]])
def test_help_ends_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    examples = capsys.readouterr().out.split("examples:\n")[1].strip().split("\n")
    assert all(line.strip().startswith("aitems " + " ".join(words)) for line in examples)
