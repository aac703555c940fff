"""The word lists of the simulated shop, read from the text files beside this module.

All lists were written for this project. Brands and product lines are made of syllables; a likeness to a real name is
chance. This module knows nothing of leaves, malls or titles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import DataError

# Hangul and Latin spelling of the syllables that brands and product lines are made of.
SYLLABLES = """
가ga 나na 다da 라la 마ma 바ba 사sa 아a 자ja 카ka 타ta 파pa 하ha 노no 도do 로ro 모mo 보bo
소so 오o 조jo 코co 토to 포po 호ho 누nu 두du 루lu 무mu 부bu 수su 우u 주ju 쿠ku 투tu 푸pu
니ni 디di 리li 미mi 비vi 시si 이i 지ji 키ki 티ti 피pi 히hi 네ne 데de 레le 메me 베be 세se
에e 제je 케ke 테te 페pe 헤he 벨bel 델del 넬nel 멜mel 셀cel 엘el 린lin 빈vin 딘din 핀fin 론ron 몬mon
본bon 톤ton 칸kan 반van 란lan 만man 라인line 하임heim 스톤stone 웰well 폴pol 블bl 그린green 한han 솔sol 담dam
"""


@dataclass(frozen=True)
class Section:
    """One line of departments.txt: the nouns and qualifiers whose pairs are the candidate leaves of a section."""

    department: str
    name: str
    spec: str
    qualifiers: tuple[str, ...]
    nouns: tuple[str, ...]
    peak_months: tuple[int, ...]
    """For each noun 1-12, or 0 without a season."""
    attributes: tuple[str, ...]


def lines(file: str) -> list[tuple[str, str]]:
    """Return (file:line, text) of every line of a word file that is neither empty nor a comment."""
    text = resources.files("aitems_engine.simulator").joinpath("words").joinpath(file).read_text(encoding="utf-8")
    rows = ((f"{file}:{number}", row.strip()) for number, row in enumerate(text.splitlines(), 1))
    return [(where, row) for where, row in rows if row and not row.startswith(";")]


def spaced(word: str) -> str:
    return word.replace("_", " ")


@functools.cache
def read_sections() -> tuple[Section, ...]:
    """Read departments.txt; every leaf name (qualifier and noun) is there once, later repetitions are dropped."""
    sections: list[Section] = []
    department = ""
    for where, row in lines("departments.txt"):
        if row.startswith("#"):
            department = row[1:].strip()
            continue
        fields = [field.strip() for field in row.split("|")]
        if len(fields) != 5 or not department or not all(fields):
            raise DataError(f"{where}: expected 'section | spec | qualifiers | nouns | attributes', got {row!r}")
        name, spec, qualifiers, nouns, attributes = fields
        pairs = [noun.partition("^") for noun in nouns.split()]
        sections.append(
            Section(
                department,
                name,
                spec,
                tuple(spaced(q) for q in qualifiers.split()),
                tuple(spaced(noun) for noun, _, _ in pairs),
                tuple(int(month or 0) for _, _, month in pairs),
                tuple(attributes.split()),
            )
        )
    return tuple(sections)


@functools.cache
def read_lists(file: str) -> dict[str, tuple[str, ...]]:
    """Read a file of 'name | words' lines."""
    found: dict[str, tuple[str, ...]] = {}
    for where, row in lines(file):
        name, bar, words = row.partition("|")
        if not bar or not words.split() or name.strip() in found:
            raise DataError(f"{where}: expected 'name | words' with a new name, got {row!r}")
        found[name.strip()] = tuple(spaced(word) for word in words.split())
    return found


@functools.cache
def read_specs() -> dict[str, tuple[str, ...]]:
    """Read specs.txt with every {from..to/step} written out; at most 64 values a list, evenly taken."""
    return {name: expand(values) for name, values in read_lists("specs.txt").items()}


def expand(values: tuple[str, ...], limit: int = 64) -> tuple[str, ...]:
    done: list[str] = []
    for value in values:
        parts = [value]
        while any("{" in part for part in parts):
            rest = parts[0].partition("{")[2]
            first, last, step = (int(x) for x in rest.partition("}")[0].replace("..", "/").split("/"))
            parts = [
                part.partition("{")[0] + str(number) + part.partition("}")[2]
                for part in parts
                for number in range(first, last + 1, step)
            ]
        done.extend(parts)
    return tuple(done[i] for i in sorted({round(k) for k in np.linspace(0, len(done) - 1, min(limit, len(done)))}))


def invent_names(
    rng: np.random.Generator, count: int, *, longest: int = 3
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return `count` different invented names in Hangul and in Latin letters (as capitals, title or lower case)."""
    pairs = [
        (s.rstrip("abcdefghijklmnopqrstuvwxyz"), s.lstrip("".join(c for c in s if c > "z"))) for s in SYLLABLES.split()
    ]
    hangul: dict[str, str] = {}
    while len(hangul) < count:
        picks = rng.integers(len(pairs), size=(2 * count, longest))
        lengths = rng.choice(np.arange(2, longest + 1), size=2 * count)
        for row, length in zip(picks.tolist(), lengths.tolist(), strict=True):
            hangul.setdefault("".join(pairs[i][0] for i in row[:length]), "".join(pairs[i][1] for i in row[:length]))
    styles = rng.choice(3, size=count, p=(0.4, 0.45, 0.15)).tolist()
    kept = list(hangul.items())[:count]
    latin = [(str.upper, str.capitalize, str.lower)[s](name) for s, (_, name) in zip(styles, kept, strict=True)]
    return np.array([name for name, _ in kept]), np.array(latin)
