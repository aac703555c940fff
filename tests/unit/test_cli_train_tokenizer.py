"""`aitems train tokenizer`: files in, a tokenizer.json out; clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitems_engine.cli import main
from aitems_engine.text import Tokenizer

pytest.importorskip("tokenizers")


@pytest.mark.parametrize("model", ["wordpiece", "bpe", "byte_bpe", "unigram"])
def test_trains_from_products_and_from_lines(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["게이밍 마우스 G502 블랙", "gaming mouse white", "usb-c 케이블 2m"] * 5
    (tmp_path / "titles.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "p.csv").write_text(
        "product_id,goods_nm\n" + "".join(f"{i},{t}\n" for i, t in enumerate(lines)), "utf-8"
    )
    common = ["train", "tokenizer", "--model", model, "--vocab-size", "400", "--quiet", "--out"]
    assert main([*common, str(tmp_path / "a.json"), "--texts", str(tmp_path / "titles.txt")]) == 0
    source = ["--products", str(tmp_path / "p.csv"), "--column", "title=goods_nm"]
    assert main([*common, str(tmp_path / "b.json"), *source]) == 0
    assert "15 texts" in capsys.readouterr().out
    a, b = (Tokenizer.from_file(tmp_path / name) for name in ("a.json", "b.json"))
    if model != "unigram":  # whose trainer is not reproducible
        assert a.to_str() == b.to_str()
    assert a.encode_batch(lines).lengths.min() > 0
    assert (a.pad_id, a.token_to_id("[PAD]")) == (0, 0)
    assert not list(tmp_path.glob("*.partial"))


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    command = ["train", "tokenizer", "--quiet", "--texts", str(tmp_path / "empty.txt"), "--out"]
    assert main([*command, str(tmp_path / "a.json")]) == 1
    assert "no text" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "no" / "a.json")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "a.json"), "--vocab-size", "3"]) == 1
    assert "vocab_size must be" in capsys.readouterr().err
    assert main(["train", "tokenizer", "--texts", str(tmp_path / "none"), "--out", str(tmp_path / "a.json")]) == 1
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
