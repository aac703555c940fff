"""The shop's own four-level tree: department > section > product type > leaf, with as many leaves as asked for.

A leaf is a qualifier and a noun ("수납형 침대프레임"), so that leaves share words with their neighbours, and words with
other departments ("유아 책상" and "사무용 책상"). Every section also has one leaf for what fits nowhere else.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aitems_engine.errors import InvalidInputError
from aitems_engine.simulator.words import Section, read_sections

# Share of a section's candidate leaves that a tree takes before it takes further sections, so that a small tree has
# neighbours that are hard to tell apart instead of one leaf from every corner of the shop.
MIN_SHARE = 0.75
OTHER = ""  # qualifier and noun of the leaf of a section for everything else


@dataclass(frozen=True)
class Tree:
    """Leaves in id order with what they are made of; arrays have one entry a leaf."""

    leaf_ids: NDArray[np.str_]
    section: NDArray[np.int32]
    """Index into `sections`."""
    noun: NDArray[np.int32]
    """Index of the product type (level 3), counted over the whole tree."""
    qualifier: list[str]
    noun_names: list[str]
    """For each product type; `OTHER` for the rest of a section."""
    noun_section: NDArray[np.int32]
    peak_month: NDArray[np.int8]
    """For each leaf 1-12, or 0 without a season."""
    sections: list[Section]
    rows: list[tuple[str, str, str]]
    """(category_id, parent_id, name) of every node, parents first."""

    @property
    def num_leaves(self) -> int:
        return len(self.leaf_ids)

    def names(self, leaf: int) -> tuple[str, str, str, str]:
        """Return the names of the four levels of a leaf."""
        section = self.sections[self.section[leaf]]
        noun = self.noun_names[self.noun[leaf]]
        last = f"{section.name} 기타" if noun == OTHER else f"{self.qualifier[leaf]} {noun}"
        return section.department, section.name, noun or f"기타 {section.name}", last

    def write(self, path: Path) -> None:
        """Write `category_id,parent_id,name`; a department has an empty parent."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("category_id", "parent_id", "name"))
            writer.writerows(self.rows)


def candidates() -> list[list[tuple[int, str]]]:
    """Return for each section its possible leaves as (noun index, qualifier); every name is there once in the shop."""
    seen: set[tuple[str, str]] = set()
    out: list[list[tuple[int, str]]] = []
    for section in read_sections():
        pairs = [(n, q) for n, noun in enumerate(section.nouns) for q in section.qualifiers]
        fresh = [(n, q) for n, q in pairs if (q, section.nouns[n]) not in seen]
        seen.update((q, section.nouns[n]) for n, q in fresh)
        out.append([*fresh, (len(section.nouns), OTHER)])
    return out


def build_tree(leaves: int, rng: np.random.Generator) -> Tree:
    """Choose exactly `leaves` leaves and number them.

    Raises
    ------
    InvalidInputError
        Fewer than 2 leaves, or more than the word lists make.
    """
    possible = candidates()
    capacity = sum(len(pairs) for pairs in possible)
    if not 2 <= leaves <= capacity:
        raise InvalidInputError(f"leaves must be from 2 to {capacity} (what the word lists make), got {leaves}")
    share = max(MIN_SHARE, leaves / capacity)
    left = leaves
    chosen: dict[int, list[tuple[int, str]]] = {}
    order = rng.permutation(len(possible)).tolist()
    for s in order:
        take = min(left, int(np.ceil(share * len(possible[s]))))
        picks = np.sort(rng.permutation(len(possible[s]))[:take]).tolist()
        if take:
            chosen[s] = [possible[s][i] for i in picks]
        left -= take
    return number(chosen)


def number(chosen: dict[int, list[tuple[int, str]]]) -> Tree:
    """Give ids, two digits a level for types and leaves, in the order of the word lists."""
    everything = read_sections()
    rows: list[tuple[str, str, str]] = []
    departments: dict[str, str] = {}
    sections_seen: dict[str, int] = {}
    sections: list[Section] = []
    leaf_ids: list[str] = []
    leaf_section: list[int] = []
    leaf_noun: list[int] = []
    qualifiers: list[str] = []
    noun_names: list[str] = []
    noun_section: list[int] = []
    peaks: list[int] = []
    for s in sorted(chosen):
        section = everything[s]
        if section.department not in departments:
            departments[section.department] = f"{11 + len(departments)}"
            rows.append((departments[section.department], "", section.department))
        parent = departments[section.department]
        sections_seen[parent] = sections_seen.get(parent, 0) + 1
        section_id = f"{parent}{sections_seen[parent]:02d}"
        rows.append((section_id, parent, section.name))
        previous = -1
        noun_id = ""
        for n, qualifier in chosen[s]:
            other = n == len(section.nouns)
            if n != previous:
                previous = n
                noun_id = f"{section_id}{n + 1:02d}"
                noun_names.append(OTHER if other else section.nouns[n])
                noun_section.append(len(sections))
                rows.append((noun_id, section_id, f"기타 {section.name}" if other else section.nouns[n]))
            number_in_noun = 99 if other else section.qualifiers.index(qualifier) + 1
            leaf_ids.append(f"{noun_id}{number_in_noun:02d}")
            name = f"{section.name} 기타" if other else f"{qualifier} {section.nouns[n]}"
            rows.append((leaf_ids[-1], noun_id, name))
            leaf_section.append(len(sections))
            leaf_noun.append(len(noun_names) - 1)
            qualifiers.append(qualifier)
            peaks.append(0 if other else section.peak_months[n])
        sections.append(section)
    return Tree(
        np.array(leaf_ids),
        np.array(leaf_section, np.int32),
        np.array(leaf_noun, np.int32),
        qualifiers,
        noun_names,
        np.array(noun_section, np.int32),
        np.array(peaks, np.int8),
        sections,
        rows,
    )


def leaf_counts(tree: Tree, products: int, imbalance: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how many products each leaf gets: they sum to `products`, the largest to the smallest is `imbalance` to 1.

    Notes
    -----
    The leaf at rank r of L gets a share proportional to ``imbalance ** -((r / (L - 1)) ** a)``. The exponent a is
    the one in [0.25, 1] whose smallest leaf gets one product, so that a shop of 47 products a leaf still has the
    whole ratio; where there is no such a, the ratio holds for the expected counts only. Ranks follow noise added up
    along the path to the leaf: whole departments and sections are popular or not.
    """
    leaves = tree.num_leaves
    department = np.unique([s.department for s in tree.sections], return_inverse=True)[1][tree.section]
    popularity = np.zeros(leaves)
    for group, scale in ((department, 0.5), (tree.section, 0.6), (tree.noun, 0.8), (np.arange(leaves), 1.0)):
        popularity += rng.normal(scale=scale, size=int(group.max()) + 1)[group]
    popularity[[q == OTHER for q in tree.qualifier]] -= 1.0
    rank = np.empty(leaves)
    rank[np.argsort(-popularity, kind="stable")] = np.linspace(0.0, 1.0, leaves)

    def share(a: float) -> NDArray[np.float64]:
        weight: NDArray[np.float64] = imbalance ** -(rank**a)
        return weight

    low, high = 0.25, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        total = share(middle).sum() * imbalance  # products, if the smallest leaf has one
        low, high = (middle, high) if total < products else (low, middle)
    expected = share(high) / share(high).sum() * products
    # systematic rounding: counts differ from what is expected by less than one and sum to `products`
    bounds = np.floor(np.cumsum(expected) + rng.random())
    bounds[-1] = products
    return np.diff(np.minimum(bounds, products), prepend=0.0).astype(np.int64)


def season_demand(peak_month: NDArray[np.int8] | int, month: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much is wanted in a month (1-12): most in the peak month, a tenth far from it; 1 without one."""
    away = np.minimum((month - peak_month) % 12, (peak_month - month) % 12)
    demand: NDArray[np.float64] = np.where(peak_month == 0, 1.0, 0.15 + 1.5 * np.exp(-0.5 * (away / 1.3) ** 2))
    return demand
