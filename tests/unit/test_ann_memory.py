"""Memory runs out at every place: a MemoryError (or OSError), and the index is as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, resource, sys
import numpy as np
from aitems_engine.ann import AnnIndex, Filter
from aitems_engine.errors import AitemsError

rng = np.random.default_rng(0)
rows = rng.normal(size=(20_000, 16)).astype(np.float32)
queries = rng.normal(size=(100, 16)).astype(np.float32)
malls = ["a", "b"] * 10_000
path = sys.argv[1] + "/x.index"
index = AnnIndex.build(rows[:10_000], attributes={"mall": malls[:10_000]}, kind="ivf", lists=50, merge_at=None)
index.upsert(np.arange(9_000, 12_000), rows[9_000:12_000], {"mall": malls[9_000:12_000]})
index.delete(np.arange(500))
index.search(queries, 10, threads=2)
index.save(path)
index.delete(np.arange(500, 700))
held = {}

def fresh(i):
    index.upsert(np.arange(12_000, 20_000), rows[12_000:])
def restore():
    index.delete(np.arange(12_000, 20_000))
def searched():
    return index.search(queries, 50, threads=2)

calls = {
    "search": lambda i: index.search(queries, 10_000),
    "filter": lambda i: index.search(queries, 2_000, Filter.eq("mall", "a") & ~Filter.ids(np.arange(0, 9_000, 2))),
    "upsert": fresh,
    "delete": lambda i: index.delete([1_000 + i]),
    "compact": lambda i: index.compact(),
    "build": lambda i: AnnIndex.build(rows, kind="ivf", lists=100),
    "save": lambda i: index.save(path),
    "open": lambda i: AnnIndex.open(path),
}

for call in calls.values():  # imports of numpy's own parts happen here
    call(0)
restore()

def now():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096

for name, call in calls.items():
    failed = done = 0
    for i in range(60):
        before, items = searched(), len(index)
        resource.setrlimit(resource.RLIMIT_AS, (now() + (1 << 14) * int(1.6 ** i), resource.RLIM_INFINITY))
        try:
            call(i)
            ok = True
        except (MemoryError, OSError) as error:
            ok = False
        except RuntimeError as error:  # no thread to be had
            assert "Resource temporarily unavailable" in str(error) or "thread" in str(error), error
            ok = False
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        failed += not ok
        done += ok
        if not ok:
            after = searched()
            assert len(index) == items, (name, i)
            assert (before.ids == after.ids).all() and (before.scores == after.scores).all(), (name, i)
        elif name == "upsert":
            restore()
        if done == 3:
            break
    print(name, failed, done, flush=True)
    assert done == 3, name
assert AnnIndex.open(path).describe()["items"] > 0
print("end")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_out_of_memory(tmp_path):
    # freed memory goes back at once, so that every call has to ask for its own
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:-1])
    assert done.stdout.endswith("end\n")
    assert all(int(lines[name].split()[0]) > 0 for name in ("search", "filter", "compact", "open")), done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.index"]
