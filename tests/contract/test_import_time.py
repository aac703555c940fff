"""The package is imported quickly, adds little to NumPy when it is used, and brings no optional package with it."""

from __future__ import annotations

import json
import subprocess
import sys

CORE = "from aitems_engine import Engine; from aitems_engine.text import Tokenizer"
PROGRAM = """
import json, sys, time
begin = time.process_time()
{imports}
milliseconds = (time.process_time() - begin) * 1e3
print(json.dumps({{"ms": milliseconds, "modules": sorted({{m.split(".")[0] for m in sys.modules}})}}))
"""
OPTIONAL = {
    "torch",
    "onnxruntime",
    "confluent_kafka",
    "msgspec",
    "pyarrow",
    "tokenizers",
    "onnx",
    "matplotlib",
    "tqdm",
    "prometheus_client",
}


def imported(imports: str) -> dict[str, object]:
    program = PROGRAM.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def test_core_brings_no_optional_package() -> None:
    modules = imported(CORE)["modules"]
    assert isinstance(modules, list)
    assert "numpy" in modules
    assert not OPTIONAL & set(modules)


def test_import_of_the_package() -> None:
    milliseconds = min(float(str(imported("import aitems_engine")["ms"])) for _ in range(5))
    print(f"import aitems_engine: {milliseconds:.0f} ms of processor time")
    assert milliseconds < 150


def test_core_costs_little_beside_numpy() -> None:
    # With `Engine` NumPy comes along and is most of the time, 130 to 200 ms by itself on the machines seen: a ratio.
    runs = [(float(str(imported(CORE)["ms"])), float(str(imported("import numpy")["ms"]))) for _ in range(5)]
    core, numpy = min(r[0] for r in runs), min(r[1] for r in runs)
    print(f"core {core:.0f} ms, NumPy alone {numpy:.0f} ms")
    assert core < 1.6 * numpy
