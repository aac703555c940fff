"""Bundles: what is written opens, and anything else is refused with the part and the reason."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from aitems_engine import bundle as bundle_module
from aitems_engine.bundle import MANIFEST, Bundle, write_bundle
from aitems_engine.errors import BundleError

PARTS: dict[str, bytes | str] = {
    "tokenizer.json": '{"a": "한글"}',
    "model.bin": bytes(range(256)) * 4,
    "empty.csv": b"",
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "b", PARTS, config={"seed": 1})
    return tmp_path / "b"


def change_manifest(path: Path, **changes: object) -> None:
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_round_trip(made: Path) -> None:
    b = Bundle.open(made)
    assert set(b.parts) == set(PARTS)
    assert b.read("model.bin") == PARTS["model.bin"]
    assert b.read_json("tokenizer.json") == {"a": "한글"}
    assert b.read("empty.csv") == b""
    assert len(b.digest) == 64
    assert sorted(p.name for p in made.parent.iterdir()) == ["b"]


def test_digest_names_contents_and_settings(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "a", PARTS, config={"seed": 1})
    assert write_bundle(tmp_path / "b", dict(reversed(PARTS.items())), config={"seed": 1}) == first
    assert write_bundle(tmp_path / "c", PARTS, config={"seed": 2}) != first
    assert write_bundle(tmp_path / "d", {**PARTS, "model.bin": b"x"}, config={"seed": 1}) != first


def test_parts_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    write_bundle(tmp_path / "b", {"model.bin": tmp_path / "weights"})
    assert Bundle.open(tmp_path / "b").parts["model.bin"].bytes == 3_000_000


def test_every_flipped_byte_is_noticed(made: Path) -> None:
    for name in PARTS:
        data = (made / name).read_bytes()
        for at in range(0, len(data), 1 if len(data) < 64 else 37):
            (made / name).write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            with pytest.raises(BundleError, match=f"part '{name}' is damaged or comes from another bundle"):
                Bundle.open(made)
        (made / name).write_bytes(data)
    Bundle.open(made)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_byte_of_the_manifest_is_noticed_or_harmless(made: Path, step: int) -> None:
    data = (made / MANIFEST).read_bytes()
    before = json.loads(data)
    for at in range(0, len(data), step):
        for flip in (0x01, 0x20, 0x80):
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            (made / MANIFEST).write_bytes(changed)
            try:
                Bundle.open(made)
            except BundleError:
                continue
            # only white space between tokens may differ
            assert json.loads(changed) == before


def test_every_truncation_is_noticed(made: Path) -> None:
    data = (made / "model.bin").read_bytes()
    for size in (0, 1, 512, len(data) - 1):
        (made / "model.bin").write_bytes(data[:size])
        with pytest.raises(BundleError, match=f"part 'model.bin' is truncated: {size} bytes, the manifest says 1024"):
            Bundle.open(made)
    (made / "model.bin").write_bytes(data + b"x")
    with pytest.raises(BundleError, match=r"part 'model\.bin' is longer than it should be"):
        Bundle.open(made)
    (made / "model.bin").write_bytes(data)
    manifest = (made / MANIFEST).read_bytes()
    for size in range(0, len(manifest) - 2, 7):
        (made / MANIFEST).write_bytes(manifest[:size])
        with pytest.raises(BundleError):
            Bundle.open(made)


def test_missing_extra_and_foreign_parts(made: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", {**PARTS, "tokenizer.json": '{"b": "한글"}'})
    shutil.copy(tmp_path / "other" / "tokenizer.json", made / "tokenizer.json")
    with pytest.raises(BundleError, match=r"part 'tokenizer\.json' is damaged or comes from another bundle"):
        Bundle.open(made)
    (made / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"part 'tokenizer\.json' is missing"):
        Bundle.open(made)
    shutil.copy(tmp_path / "b" / "empty.csv", made / "more.csv")
    (made / "tokenizer.json").write_text(str(PARTS["tokenizer.json"]))
    with pytest.raises(BundleError, match=r"'more\.csv' is not listed in the manifest"):
        Bundle.open(made)


def test_parts_listed_from_two_bundles(made: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", {**PARTS, "tokenizer.json": '{"b": "한글"}'})
    parts = json.loads((tmp_path / "other" / MANIFEST).read_text())["parts"]
    change_manifest(made, parts=parts)
    with pytest.raises(BundleError, match="digest does not fit the parts listed"):
        Bundle.open(made)


def test_newer_format_and_no_bundle(made: Path, tmp_path: Path) -> None:
    change_manifest(made, format_version=2)
    with pytest.raises(BundleError, match=r"bundle format 2 is newer than this engine .* upgrade aitems-engine"):
        Bundle.open(made)
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "nowhere")
    (tmp_path / "dir").mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: manifest\.json cannot be read"):
        Bundle.open(tmp_path / "dir")
    (tmp_path / "dir" / MANIFEST).write_text('{"format": "other"}')
    with pytest.raises(BundleError, match=r"bundle '.*dir': manifest\.json: format must be 'aitems-bundle'"):
        Bundle.open(tmp_path / "dir")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\0b", "manifest.json", "x" * 101]
)
def test_names_that_leave_the_directory_are_refused(made: Path, name: str) -> None:
    change_manifest(made, parts=[{"name": name, "bytes": 0, "sha256": "0" * 64}])
    with pytest.raises(BundleError, match="is not a name for a part"):
        Bundle.open(made)
    with pytest.raises(BundleError, match="is not a name for a part"):
        write_bundle(made.parent / "new", {name: b""})
    assert not (made.parent / "new").exists()


@pytest.mark.parametrize(
    "parts",
    [[], {}, "x", None, [1], [{"name": "a"}], [{"name": "a", "bytes": -1, "sha256": "0" * 64}],
     [{"name": "a", "bytes": True, "sha256": "0" * 64}], [{"name": "a", "bytes": 2**80, "sha256": "0" * 64}],
     [{"name": "a", "bytes": 1, "sha256": "zz"}], [{"name": "a", "bytes": 1, "sha256": "0" * 64}] * 2,
     [{"name": f"a{i}", "bytes": 1, "sha256": "0" * 64} for i in range(65)]],
)  # fmt: skip
def test_impossible_part_lists(made: Path, parts: object) -> None:
    change_manifest(made, parts=parts)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(made)


def test_hostile_manifests(made: Path) -> None:
    for text in (
        "[" * 100_000,
        "[]",
        "null",
        "1" * 5000,
        '{"format": "aitems-bundle", "format_version": true}',
        "\xff",
    ):
        (made / MANIFEST).write_bytes(text.encode("latin-1"))
        with pytest.raises(BundleError):
            Bundle.open(made)
    (made / MANIFEST).write_bytes(b" " * (bundle_module.MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match="is larger than"):
        Bundle.open(made)


def test_a_pipe_or_directory_in_place_of_a_part(made: Path) -> None:
    (made / "empty.csv").unlink()
    os.mkfifo(made / "empty.csv")
    with pytest.raises(BundleError, match=r"part 'empty\.csv' is not a regular file"):
        Bundle.open(made)
    (made / "empty.csv").unlink()
    (made / "empty.csv").mkdir()
    with pytest.raises(BundleError, match=r"part 'empty\.csv'"):
        Bundle.open(made)


@pytest.mark.parametrize("step", ["_write_part", "_write_file", "_sync_directory", "_swap_in"])
def test_a_crash_while_writing_leaves_the_old_bundle(made: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Bundle.open(made).digest

    def crash(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(bundle_module, step, crash)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(made, {"model.bin": b"new"})
    assert Bundle.open(made).digest == before
    assert sorted(p.name for p in made.parent.iterdir()) == ["b"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_bundle_is_replaced_as_a_whole(made: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(bundle_module, "_exchange", lambda *_: False)
    digest = write_bundle(made, {"model.bin": b"new"})
    assert Bundle.open(made).digest == digest
    assert sorted(p.name for p in made.iterdir()) == [MANIFEST, "model.bin"]
    assert sorted(p.name for p in made.parent.iterdir()) == ["b"]


def test_other_directories_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.doc").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "home", PARTS)
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", PARTS)


def test_unknown_part_lists_those_there(made: Path) -> None:
    with pytest.raises(BundleError, match=r"no part 'model\.onnx'; it has empty\.csv, model\.bin, tokenizer\.json"):
        Bundle.open(made).read("model.onnx")


def test_swaps_are_never_seen_half_done(made: Path) -> None:
    if not bundle_module._exchange(
        made, made.parent
    ):  # probes support; exchanging a parent with its child always fails
        shutil.copytree(made, made.parent / "c")
        if not bundle_module._exchange(made, made.parent / "c"):
            pytest.skip("this file system cannot exchange directories")
        shutil.rmtree(made.parent / "c")
    stop = threading.Event()
    missing: list[str] = []

    def look() -> None:
        while not stop.is_set():
            if not (made / MANIFEST).exists():
                missing.append("manifest")

    thread = threading.Thread(target=look)
    thread.start()
    for i in range(20):
        write_bundle(made, {"model.bin": bytes([i])})
    stop.set()
    thread.join()
    assert not missing
