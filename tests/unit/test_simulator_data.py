"""Simulated titles beside real ones: the figures that shape what a tokeniser and a classifier have to do.

The real titles are a Korean mall's (furniture, fashion, food, travel; 1,400 of them), so the simulated shop, which also
sells electronics, has a few more model codes and Latin letters. Tolerances are stated with each figure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aitems_engine.simulator import simulate_shop

pq = pytest.importorskip("pyarrow.parquet")
DATA = Path(os.environ.get("AITEMS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CODE = re.compile(r"(?<![A-Za-z0-9])(?=[A-Z0-9-]*[A-Z])(?=[A-Z0-9-]*[0-9]{2})[A-Z][A-Z0-9-]{3,}(?![a-z])")


def share_of_letters(pattern: str) -> Callable[[list[str]], float]:
    return lambda titles: sum(len(re.findall(pattern, t)) for t in titles) / sum(map(len, titles))


def share_with(pattern: str) -> Callable[[list[str]], float]:
    return lambda titles: sum(bool(re.search(pattern, t)) for t in titles) / len(titles)


# figure -> (how it is taken, largest difference, whether that is a ratio to the real value)
FIGURES: dict[str, tuple[Callable[[list[str]], float], float, bool]] = {
    "mean length": (lambda t: float(np.mean([len(x) for x in t])), 0.15, True),
    "5 % shortest": (lambda t: float(np.quantile([len(x) for x in t], 0.05)), 0.2, True),
    "5 % longest": (lambda t: float(np.quantile([len(x) for x in t], 0.95)), 0.15, True),
    "mean words": (lambda t: float(np.mean([len(x.split()) for x in t])), 0.12, True),
    "Hangul": (share_of_letters("[가-힣]"), 0.06, False),
    "Latin": (share_of_letters("[A-Za-z]"), 0.05, False),
    "digits": (share_of_letters("[0-9]"), 0.03, False),
    "symbols": (share_of_letters("[^가-힣A-Za-z0-9 ]"), 0.02, False),
    "with model code": (share_with(CODE.pattern), 0.06, False),
    "with digit": (share_with("[0-9]"), 0.1, False),
    "with bracket": (share_with(r"[\[\(【]"), 0.08, False),
    "with comma": (share_with(","), 0.12, False),
    "with plus": (share_with(r"\+"), 0.05, False),
    "with slash": (share_with("/"), 0.05, False),
    "with a word twice": (lambda t: float(np.mean([len(set(x.split())) < len(x.split()) for x in t])), 0.04, False),
}


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    file = DATA / "korean_titles" / "titles.txt"
    if not file.exists():
        pytest.skip(f"no {file}")
    made = simulate_shop(tmp_path_factory.mktemp("shop"), products=20_000, leaves=4215, seed=1)
    return file.read_text(encoding="utf-8").splitlines(), pq.read_table(made.products)["title"].to_pylist()


@pytest.mark.data
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_titles(titles, figure):
    taken, tolerance, relative = FIGURES[figure]
    real, simulated = taken(titles[0]), taken(titles[1])
    assert abs(simulated - real) <= tolerance * (real if relative else 1), f"real {real:.3f}, simulated {simulated:.3f}"


@pytest.mark.data
def test_electronics_look_like_a_price_comparison_site(tmp_path):
    """Model codes are usual there (60 % of the titles); the simulated shop comes at least half way."""
    file = DATA / "danawa" / "products.tsv"
    if not file.exists():
        pytest.skip(f"no {file}")
    real = [line.split("\t")[1] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    made = simulate_shop(tmp_path, products=20_000, leaves=4215, seed=1)
    table = pq.read_table(made.products)
    electronics = {
        line.split(",")[0]
        for line in made.taxonomy.read_text(encoding="utf-8").splitlines()
        if line.split(",")[1:] in (["", "디지털"], ["", "컴퓨터"], ["", "대형가전"])
    }
    simulated = [
        title
        for title, leaf in zip(table["title"].to_pylist(), table["category"].to_pylist(), strict=True)
        if leaf[:2] in electronics
    ]
    code = share_with(CODE.pattern)
    assert len(simulated) > 500
    assert code(simulated) > 0.5 * code(real)
