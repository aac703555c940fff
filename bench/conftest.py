"""What all benchmarks share: `publish` shows a table and, with `--update-docs`, writes it into docs/benchmarks.md.

A benchmark checks the answer, prints quality beside speed and compares with peers interleaved in the same run.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
RATIO = "ratio to a peer"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-docs", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.addoption("--update-baselines", action="store_true", help="store the ratios of this processor")
    parser.addoption("--baselines", metavar="FILE", help="ratios to compare with (default: bench/baselines.json)")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ratios = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == RATIO and report.when == "call"
    ]
    if ratios:
        terminalreporter.section(f"ratios on {processor()}")
        terminalreporter.write_line("\n".join(sorted(ratios)))


def processor() -> str:
    """Return the processor's name and the active ISA level, as every table states them."""
    from aitems_engine._native import isa

    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", cpuinfo)
    family = re.search(r"cpu family\s*: (.*)", cpuinfo)
    return f"{name[1] if name else platform.machine()} (family {family[1] if family else '?'}), level {isa.active()}"


@pytest.fixture
def publish(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return `publish(section, markdown)`: print, and with `--update-docs` replace that section's measured part."""

    def write(section: str, markdown: str) -> None:
        command = f"pytest bench/{request.path.name}"
        text = f"Measured by `{command}` on {processor()}.\n\n{markdown.strip()}\n"
        print(f"\n== {section}\n{text}")
        if not request.config.getoption("--update-docs"):
            return
        begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
        page = BENCHMARKS.read_text()
        if begin not in page or end not in page:
            raise ValueError(f"docs/benchmarks.md has no markers for section '{section}': add {begin} and {end}")
        head, rest = page.split(begin, 1)
        BENCHMARKS.write_text(f"{head}{begin}\n{text}{end}{rest.split(end, 1)[1]}")

    return write
