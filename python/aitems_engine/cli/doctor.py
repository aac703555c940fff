"""Show versions, instruction-set levels and optional parts, and say how to get what is missing."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version

from aitems_engine import __version__

EXAMPLES = """  aitems doctor
  aitems doctor --json
  AITEMS_ISA=v3 aitems doctor        # force an instruction-set level
"""

# what a user does -> (extra, packages)
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "core": ("", ("numpy", "onnxruntime")),
    "training": ("train", ("torch", "onnx", "safetensors", "tokenizers", "pyarrow", "matplotlib", "tqdm")),
    "serving": ("triton", ("nvidia-pytriton", "tritonclient")),
    "compiling": ("tensorrt", ("tensorrt", "cuda-bindings", "onnx")),
    "streaming": ("stream", ("confluent-kafka", "msgspec", "prometheus-client")),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def collect() -> dict[str, object]:
    """Return what `aitems doctor` shows, as plain values."""
    from aitems_engine._native import isa

    return {
        "aitems_engine": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "isa": {
            "active": isa.active(),
            "compiled_for": isa.compiled_for(),
            "runnable": isa.runnable(),
            "compiled": isa.compiled(),
        },
        "parts": {part: {p: installed(p) for p in packages} for part, (_, packages) in PARTS.items()},
    }


def run(args: argparse.Namespace) -> None:
    report = collect()
    if args.json:
        print(json.dumps(report, indent=2))
        return
    isa = report["isa"]
    assert isinstance(isa, dict)
    print(f"aitems-engine {report['aitems_engine']}, Python {report['python']}, {report['machine']}")
    print(f"ISA level: {isa['active']} (runs here: {', '.join(isa['runnable'])}; built: {', '.join(isa['compiled'])})")
    for part, (extra, packages) in PARTS.items():
        found = {p: installed(p) for p in packages}
        print(f"{part}: " + ", ".join(f"{p} {v or 'missing'}" for p, v in found.items()))
        if not all(found.values()):
            print(f"  to get it: pip install 'aitems-engine{f'[{extra}]' if extra else ''}'")
