"""`make demo` in small: simulate, train, stream, report; and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitems_engine.cli import demo

for module in ("torch", "pyarrow", "confluent_kafka", "tqdm", "matplotlib"):
    pytest.importorskip(module)


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AITEMS_DATA", raising=False)
    out = tmp_path / "out"
    options = "--train 1500 --leaves 20 --stream 2000 --epochs 2 --users 600 --threads 1 --out"
    assert demo.main([*options.split(), str(out)]) == 0
    shown = capsys.readouterr().out
    for expected in ("throughput: ", "p50 ", "p99 ", "accuracy against the truth: ", "label noise: ", "report: "):
        assert expected in shown
    assert "abstained: " in shown
    assert shown.count("%  ") >= 10
    assert (out / "report" / "report.html").exists()
    assert (out / "bundle" / "manifest.json").exists()
    assert shown.count(", who clicked or bought, newest last:") == 3
    assert "retriever knn" in shown
    assert "popularity #1" in shown
    assert (out / "engine" / "manifest.json").exists()


@pytest.mark.slow
def test_real_titles_repeat_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "danawa"
    folder.mkdir(parents=True)
    kinds = {"Mouse": "무선 마우스", "Monitor": "게이밍 모니터 27인치", "RAM": "DDR4 16GB 램"}
    rows = [f"{1000 + i}\t{kinds[k]} NX{i}\t{k}\t{i * 100}" for i, k in enumerate(list(kinds) * 200)]
    (folder / "products.tsv").write_text("id\tname\tcategory\tlast_price_krw\n" + "\n".join(rows) + "\n")
    options = ["--data", str(tmp_path / "data"), "--stream", "500", "--epochs", "2", "--threads", "1"]
    assert demo.main([*options, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "each of the 120 test rows 4.2 times" in shown
    assert "accuracy against the labels: " in shown


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "products.tsv; unset AITEMS_DATA" in capsys.readouterr().err
    assert demo.main(["--train", "3", "--data", "", "--out", str(tmp_path / "out")]) == 1
    assert "--train must be at least 100" in capsys.readouterr().err
