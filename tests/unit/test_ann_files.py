"""Index files: what is saved comes back, damage is a clear error, a crash never harms the previous file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.xxh64 import xxh64

from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.errors import AitemsError, IndexFormatError

pytestmark = pytest.mark.native
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "ann"


def make(kind="ivf", metric="ip", rerank="float", strings=False, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(120, 7)).astype(np.float32)
    ids = [f"상품-{i}" for i in range(120)] if strings else rng.permutation(500)[:120]
    attributes = {
        "mall": [["a", "b", 3, True, None][i % 5] for i in range(120)],
        "tags": [[i % 3, "x"] for i in range(120)],
    }
    lists = 6 if kind == "ivf" else None
    return AnnIndex.build(vectors, ids=ids, metric=metric, kind=kind, lists=lists, rerank=rerank, attributes=attributes)


QUERIES = np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32)


def assert_same(one, two):
    for filter in (None, Filter.eq("mall", "a"), Filter.eq("mall", True) | Filter.eq("tags", 2)):
        first, second = one.search(QUERIES, 15, filter=filter), two.search(QUERIES, 15, filter=filter)
        np.testing.assert_array_equal(first.ids, second.ids)
        np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("rerank", ["float", "half"])
@pytest.mark.parametrize("kind", ["exact", "ivf"])
@pytest.mark.parametrize("strings", [False, True])
def test_round_trip(tmp_path, kind, metric, rerank, strings):
    index = make(kind, metric, rerank, strings)
    index.save(tmp_path / "items.index")
    for verify in (True, False):
        opened = AnnIndex.open(tmp_path / "items.index", dim=7, verify=verify)
        assert opened.describe() == index.describe()
        assert_same(opened, index)
    # an opened index takes writes, is saved over its own file, and the first handle goes on with the old one
    new = "neu" if strings else 7000
    opened.upsert([new], QUERIES[:1] * 9, {"mall": ["new"], "tags": [[]]})
    opened.delete(index.ids[:2])
    opened.save(tmp_path / "items.index")
    again = AnnIndex.open(tmp_path / "items.index")
    assert len(again) == 119
    assert again.search(QUERIES[:1], 1, filter=Filter.eq("mall", "new")).ids.tolist() == [[new]]
    assert_same(again, opened)
    assert [p.name for p in tmp_path.iterdir()] == ["items.index"]


def test_empty_index(tmp_path):
    AnnIndex.build(np.empty((0, 3), np.float32)).save(tmp_path / "empty.index")
    index = AnnIndex.open(tmp_path / "empty.index")
    assert len(index) == 0
    assert index.search(np.ones((1, 3), np.float32), 2).ids.tolist() == [[-1, -1]]


def test_wrong_dimension(tmp_path):
    make().save(tmp_path / "items.index")
    with pytest.raises(IndexFormatError, match="dimension 7, expected 64"):
        AnnIndex.open(tmp_path / "items.index", dim=64)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        AnnIndex.open(tmp_path / "none.index")
    with pytest.raises(FileNotFoundError):
        make().save(tmp_path / "none" / "items.index")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("ann") / "items.index"
    make().save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"", "0 bytes, less than a header"),
        (lambda b: b[:40], "40 bytes, less than a header"),
        (lambda b: b[:-64], "cut short"),
        (lambda b: b + b"\0" * 64, "appended"),
        (lambda b: b"PK" + b[2:], "does not begin as one"),
        (lambda b: b[:8] + b"\5" + b[9:], "version 5, this engine reads version 1 to 4"),
        (lambda b: b[:20] + bytes([b[20] ^ 1]) + b[21:], "header does not match its checksum"),
        (lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], "table does not match its checksum"),
    ],
)
def test_damage_is_named(tmp_path, saved, change, message):
    path = tmp_path / "items.index"
    path.write_bytes(change(saved))
    for verify in (True, False):
        with pytest.raises(IndexFormatError, match=message) as caught:
            AnnIndex.open(path, verify=verify)
        assert str(path) in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(tmp_path_factory, saved, data):
    at = data.draw(st.integers(0, len(saved) * 8 - 1))
    changed = bytearray(saved)
    changed[at // 8] ^= 1 << at % 8
    path = tmp_path_factory.getbasetemp() / "flipped.index"
    path.write_bytes(changed)
    try:
        opened = AnnIndex.open(path)
    except IndexFormatError:
        return
    assert_same(opened, make())  # a bit between two sections means nothing


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_without_checksums_damage_never_crashes(tmp_path_factory, saved, data):
    """verify=False: structure is checked, so a search of whatever opens stays inside the file."""
    changed = bytearray(saved)
    for at in data.draw(st.lists(st.integers(1000, len(saved) - 1), min_size=1, max_size=30)):
        changed[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    path = tmp_path_factory.getbasetemp() / "damaged.index"
    path.write_bytes(changed)
    try:
        opened = AnnIndex.open(path, verify=False)
        hits = opened.search(QUERIES, 20)
        assert hits.ids.shape == (9, 20)
        opened.search(QUERIES, 20, filter=Filter.eq("mall", "a") | Filter.ids([3, 4]))
        opened.delete([3])
        opened.compact()
        opened.search(QUERIES, 20)
    except AitemsError:
        pass


def places(size: int, wanted: int) -> list[int]:
    """Return about `wanted` places of a file: all of the head, then evenly."""
    return sorted({*range(0, min(size, 64)), *np.linspace(0, size - 1, wanted, dtype=int).tolist()})


VARIANTS = [("ivf", "ip", "float", False), ("ivf", "l2", "half", True), ("exact", "cosine", "float", True)]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda v: "-".join(map(str, v)))
def variant(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ann") / "items.index"
    make(*request.param).save(path)
    return request.param, path.read_bytes()


def test_cut_short_anywhere_is_an_error(tmp_path, variant):
    path, whole = tmp_path / "cut.index", variant[1]
    for size in places(len(whole), 150):
        path.write_bytes(whole[:size])
        for verify in (True, False):
            with pytest.raises(IndexFormatError):
                AnnIndex.open(path, verify=verify)


def use(index: AnnIndex) -> None:
    """Search, write and merge: whatever opened must do so without reading outside of the file."""
    try:
        assert index.search(QUERIES, 20).ids.shape == (9, 20)
        index.search(QUERIES, 20, filter=Filter.eq("mall", "a") & ~Filter.bitmap(np.ones(3, bool)), form="exact")
    except AitemsError:
        pass
    try:
        index.delete(index.ids[:3])
        index.upsert(index.ids[:2], QUERIES[:2])
        index.compact()
        index.search(QUERIES, 20)
    except AitemsError:
        pass
    index.close()


def test_flipped_bits_anywhere(tmp_path, variant):
    """With checksums: an error, or a bit between sections. Without: an error or something that can be searched."""
    settings, whole = variant
    path = tmp_path / "flipped.index"
    rng = np.random.default_rng(0)
    opened = 0
    for at in places(len(whole), 250):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with contextlib.suppress(IndexFormatError):
            assert_same(AnnIndex.open(path), make(*settings))
        try:
            index = AnnIndex.open(path, verify=False)
        except IndexFormatError:
            continue
        opened += 1
        use(index)
    assert opened > 50


def with_checksums(changed: bytearray) -> bytes:
    """Make header and table true again: what a wrong writer would have written (csrc/base/section_file.hpp)."""
    count = min(int.from_bytes(changed[12:16], "little"), 4096)
    table = bytes(changed[64 : 64 + 48 * count])
    changed[24:32] = xxh64(table).to_bytes(8, "little")
    changed[56:64] = xxh64(bytes(changed[:56])).to_bytes(8, "little")
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_wrong_table_with_right_checksums_never_crashes(tmp_path_factory, saved, data):
    """Header and table changed at will, and what `meta` says, too."""
    count = int.from_bytes(saved[12:16], "little")
    meta = next(i for i in range(count) if saved[64 + 48 * i :][:5] == b"meta\0")
    start = int.from_bytes(saved[64 + 48 * meta + 16 :][:8], "little")
    heads = st.one_of(st.integers(8, 23), st.integers(64, 64 + 48 * count - 1), st.integers(start, start + 79))
    changed = bytearray(saved)
    assert with_checksums(bytearray(saved)) == saved
    for at in data.draw(st.lists(heads, min_size=1, max_size=3)):
        changed[at] = data.draw(st.sampled_from([0, 1, 2, 16, 127, 128, 255, changed[at] ^ 1, changed[at] ^ 64]))
    path = tmp_path_factory.getbasetemp() / "wrong.index"
    path.write_bytes(with_checksums(changed))
    try:
        index = AnnIndex.open(path, verify=False)
    except AitemsError:
        return
    use(index)


FULL = """
import resource, sys
import numpy as np
from aitems_engine.ann import AnnIndex
index = AnnIndex.open(sys.argv[1])
index.upsert([1], np.zeros((1, 7), np.float32), {"mall": ["x"], "tags": [[]]})
for limit in (0, 10, 100, 4096, 9000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        index.save(sys.argv[1])
    except OSError as error:
        assert "File too large" in str(error), error
    else:
        raise SystemExit(f"saved into {limit} bytes")
assert len(index) == 121
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
index.save(sys.argv[1] + ".second")
"""


def test_a_disk_that_fills_up_leaves_the_previous_file(tmp_path, saved):
    path = tmp_path / "items.index"
    path.write_bytes(saved)
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == saved
    assert sorted(p.name for p in tmp_path.iterdir()) == ["items.index", "items.index.second"]
    assert len(AnnIndex.open(tmp_path / "items.index.second")) == 121


SAVER = """
import sys
import numpy as np
from aitems_engine.ann import AnnIndex
vectors = np.ones((60000, 16), np.float32)
print("ready", flush=True)
generation = 1
while True:
    generation += 1
    AnnIndex.build(vectors * generation, kind="exact").save(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    path = tmp_path / "items.index"
    AnnIndex.build(np.ones((60000, 16), np.float32), kind="exact").save(path)
    for attempt in range(6):
        child = subprocess.Popen([sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.037 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        index = AnnIndex.open(path)
        assert len(index) == 60000
        scores = index.search(np.ones((1, 16), np.float32), 100).scores
        assert np.unique(scores).size == 1
        assert scores[0, 0] % 16 == 0


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_os_error():
    from aitems_engine._native import ann as native

    core = native.Index.build(np.ones((4, 4), np.float32), np.arange(4), [], 0, 0, 0, 1, 0, 1)
    with pytest.raises(OSError, match="/dev/full"):
        core.save("/dev/full", b"{}")


@pytest.mark.parametrize("name", ["v1_ivf_ip.index", "v1_exact_l2_half_strings.index"])
def test_golden_files_of_version_1_stay_readable(name):
    """Written by the first release of the format and never again; the expected answers lie beside them."""
    index = AnnIndex.open(GOLDEN / name)
    expected = np.load(GOLDEN / name.replace(".index", ".npz"))
    hits = index.search(QUERIES, 15)
    assert hits.ids.astype(str).tolist() == expected["ids"].tolist()
    np.testing.assert_array_equal(hits.scores, expected["scores"])
    filtered = index.search(QUERIES, 15, filter=Filter.eq("mall", "a"))
    assert filtered.ids.astype(str).tolist() == expected["filtered_ids"].tolist()


# What stands beside the lists: how it is built and searched.
BESIDE = {"graph": ({"kind": "graph", "degree": 6}, {"beam": 40}), "signs": ({"kind": "ivf", "signs": True}, {})}


def make_beside(form, metric="ip"):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(150, 7)).astype(np.float32)
    return AnnIndex.build(vectors, metric=metric, lists=6, **BESIDE[form][0])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("beside", BESIDE)
def test_round_trip_of_what_stands_beside_the_lists(tmp_path, beside, metric):
    index = make_beside(beside, metric)
    index.save(tmp_path / "items.index")
    for verify in (True, False):
        opened = AnnIndex.open(tmp_path / "items.index", verify=verify)
        assert opened.describe() == index.describe()
        for form in ("auto", beside, "single"):
            one, two = (i.search(QUERIES, 15, form=form) for i in (index, opened))
            np.testing.assert_array_equal(one.ids, two.ids)
            np.testing.assert_array_equal(one.scores, two.scores)


@pytest.fixture(scope="module")
def saved_beside(tmp_path_factory):
    path = tmp_path_factory.mktemp("beside") / "items.index"
    files = {}
    for form in BESIDE:
        make_beside(form).save(path)
        files[form] = path.read_bytes()
    return files


@pytest.mark.parametrize("form", BESIDE)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_without_checksums_damage_beside_the_lists_never_crashes(tmp_path_factory, saved_beside, form, data):
    changed = bytearray(saved_beside[form])
    for at in data.draw(st.lists(st.integers(1000, len(changed) - 1), min_size=1, max_size=60)):
        changed[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    path = tmp_path_factory.getbasetemp() / "damaged_beside.index"
    path.write_bytes(changed)
    try:
        opened = AnnIndex.open(path, verify=False)
        assert opened.search(QUERIES, 20, form=form, **BESIDE[form][1]).ids.shape == (9, 20)
        opened.delete([3])
        opened.compact()
        opened.search(QUERIES, 20, form=form)
    except AitemsError:
        pass


@pytest.mark.parametrize(
    "name", [f"{version}_graph_{metric}.index" for version in ("v2", "v3") for metric in ("ip", "l2")]
)
def test_golden_files_with_a_graph_stay_readable(name, tmp_path):
    """Written once a version (2: each row has as many places for neighbours); the expected answers lie beside them."""
    index = AnnIndex.open(GOLDEN / name)
    index.save(tmp_path / "again.index")
    again = AnnIndex.open(tmp_path / "again.index")
    for key, array in index._core.graph().items():
        np.testing.assert_array_equal(array, again._core.graph()[key], err_msg=key)
    expected = np.load(GOLDEN / name.replace(".index", ".npz"))
    assert index.describe()["kind"] == "graph"
    for arguments in ({"form": "graph", "beam": 150, "shortlist": 150}, {"form": "exact"}):
        hits = index.search(QUERIES, 15, **arguments)
        np.testing.assert_array_equal(hits.ids, expected["ids"])
        np.testing.assert_array_equal(hits.scores, expected["scores"])


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_golden_files_with_signs_stay_readable(metric):
    """Written once by version 4; the expected answers lie beside them."""
    index = AnnIndex.open(GOLDEN / f"v4_signs_{metric}.index")
    expected = np.load(GOLDEN / f"v4_signs_{metric}.npz")
    for form in ("signs", "exact"):
        hits = index.search(QUERIES, 15, form=form, probes=3, shortlist=40)
        np.testing.assert_array_equal(hits.ids, expected[f"{form}_ids"])
        np.testing.assert_array_equal(hits.scores, expected[f"{form}_scores"])
