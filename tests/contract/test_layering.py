"""Who may import whom, in Python and in C++ (the rules are in docs/design/0001-foundation.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "aitems_engine"

# From the ground up: a room may import rooms of its own layer or of the layers before it.
LAYERS = [
    {"errors", "types", "config", "_native", "_records"},
    {"ann", "catalog", "events", "text"},
    {"bundle", "runtime", "embedding", "category", "retrieval", "ranking", "rerank"},
    {"recommendation"},
    {"engine"},
    {"streaming", "serving"},
    {"simulator", "evaluation", "training"},  # import the domain; nothing below imports them
    {"cli"},
]
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
HEAVY = {"torch", "confluent_kafka", "tritonclient", "flask", "fastapi", "aiohttp"}
ENGINE_RANK = RANK["engine"]


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[tuple[int, str]]:
    """Return (line, absolute module name) of every import in the file, at any depth."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.lineno, node.module))
            if node.module == "aitems_engine":
                found += [(node.lineno, f"aitems_engine.{alias.name}") for alias in node.names]
    return found


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name not in {"__init__.py"})


def test_every_room_has_a_layer() -> None:
    assert {room_of(p) for p in SOURCES} <= RANK.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    wrong = []
    for line, module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "aitems_engine" and len(parts) > 1 and parts[1] in RANK and RANK[parts[1]] > RANK[room]:
            wrong.append(f"{path}:{line} imports {module}, which stands above {room}")
        if parts[0] == "torch" and room != "training":
            wrong.append(f"{path}:{line} imports torch; only training/ may")
        if parts[0] in HEAVY and RANK[room] <= ENGINE_RANK:
            wrong.append(f"{path}:{line} imports {parts[0]} at or below the engine")
    assert not wrong, "\n".join(wrong)


def test_relative_imports_are_not_used() -> None:
    relative = [
        f"{p}:{n.lineno}"
        for p in SOURCES
        for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(n, ast.ImportFrom) and n.level
    ]
    assert not relative


@pytest.mark.parametrize("word", ["pickle", "marshal", "shelve", "joblib", "cloudpickle"])
def test_runtime_never_unpickles(word: str) -> None:
    users = [f"{p}:{line}" for p in SOURCES for line, module in imported_modules(p) if module.split(".")[0] == word]
    assert not users


# C++: base <- simd <- rooms <- category (two rooms put together) <- triton; rooms <- bindings, cython.
CSRC = ROOT / "csrc"
CPP_MAY_INCLUDE = {
    "base": {"base"},
    "simd": {"base", "simd"},
    "ann": {"base", "simd", "ann"},
    "batch": {"base", "batch"},
    "text": {"base", "simd", "text"},
    "textcnn": {"base", "simd", "textcnn"},
    "category": {"base", "simd", "text", "textcnn", "category"},
    "triton": {"base", "simd", "text", "textcnn", "category", "triton"},
    "embedding": {"base", "simd", "embedding"},
    "rerank": {"base", "simd", "rerank"},
}
CPP_SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".hpp", ".inc"})


@pytest.mark.parametrize("path", CPP_SOURCES, ids=lambda p: str(p.relative_to(CSRC)))
def test_cpp_includes(path: Path) -> None:
    room = path.relative_to(CSRC).parts[0]
    text = path.read_text(encoding="utf-8")
    quoted = re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M)
    angled = re.findall(r"^\s*#\s*include\s+<([^>]+)>", text, re.M)
    if room in {"bindings", "cython"}:
        return
    python = [h for h in quoted + angled if h.startswith(("Python.h", "pybind11/", "numpy/"))]
    assert not python, f"{path} knows Python: {python}"
    rooms = {h.split("/")[0] for h in quoted if "/" in h}
    assert rooms <= CPP_MAY_INCLUDE[room], f"{path} may include {CPP_MAY_INCLUDE[room]} only"
