"""The checked-in stubs name exactly what the native modules hold, with the same arguments."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "aitems_engine"
STUBS = sorted(PACKAGE.glob("_native/*.pyi")) + sorted(PACKAGE.glob("_*.pyi"))


def native_module(stub: Path) -> ModuleType:
    if stub.parent.name != "_native":
        return importlib.import_module(f"aitems_engine.{stub.stem}")
    native = importlib.import_module("aitems_engine._native")
    return native if stub.stem == "__init__" else getattr(native, stub.stem)


def arguments_of(function: object) -> list[str] | None:
    """Return the argument names of a native callable; None where it is overloaded or says nothing."""
    doc = getattr(function, "__doc__", None) or ""
    first = doc.split("\n", 1)[0]
    if "Overloaded function" in doc:
        return None
    match = re.match(r"\w+\((.*)\)(?: -> .*)?$", first)
    if match:
        names, depth, start = [], 0, 0
        text = match[1] + ","
        for i, c in enumerate(text):
            depth += c in "[({"
            depth -= c in "])}"
            if c == "," and depth == 0:
                name = re.split(r"[:=]", text[start:i].strip(), maxsplit=1)[0].strip()
                if name and name not in {"*", "/"}:
                    names.append(name)
                start = i + 1
        return [n for n in names if n != "self"]
    try:
        return [n for n in inspect.signature(function).parameters if n != "self"]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def stub_arguments(node: ast.FunctionDef) -> list[str]:
    args = node.args
    return [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs] if a.arg not in {"self", "cls"}]


def public(names: list[str]) -> set[str]:
    return {n for n in names if not n.startswith("_")}


def compare(where: str, body: list[ast.stmt], holder: object) -> list[str]:
    problems = []
    declared: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            declared[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared[node.target.id] = node
        elif isinstance(node, ast.ImportFrom) and node.level:
            declared.update({(a.asname or a.name): node for a in node.names})
    present = public(list(vars(holder)))
    imported = (
        {n for n in present if isinstance(vars(holder)[n], ModuleType)} if isinstance(holder, ModuleType) else set()
    )
    if isinstance(holder, ModuleType) and not hasattr(holder, "__pyx_capi__"):
        imported = {n for n in imported if not getattr(holder, n).__name__.startswith("aitems_engine._native")}
    for name in sorted(public(list(declared)) - present):
        problems.append(f"{where}.{name} is in the stub only")
    for name in sorted(present - public(list(declared)) - imported):
        problems.append(f"{where}.{name} is missing in the stub")
    for name, node in declared.items():
        actual = getattr(holder, name, None)
        if isinstance(node, ast.ClassDef) and actual is not None:
            problems += compare(f"{where}.{name}", node.body, actual)
        elif isinstance(node, ast.FunctionDef) and actual is not None and not isinstance(actual, property):
            names = arguments_of(actual)
            if names is not None and names != stub_arguments(node) and names not in (["args", "kwargs"],):
                problems.append(f"{where}.{name}: module has {names}, stub has {stub_arguments(node)}")
    return problems


@pytest.mark.parametrize("stub", STUBS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_stub_equals_module(stub: Path) -> None:
    problems = compare(stub.stem, ast.parse(stub.read_text()).body, native_module(stub))
    assert not problems, "\n".join(problems)
