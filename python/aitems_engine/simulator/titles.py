"""Titles of the simulated shop: what a seller decides to write (slots), then the writing itself with its noise.

The slots of a product are drawn independently of each other given its leaf, so that ceiling.py can compute what anybody
could know of the leaf from them. Rendering looks at slots only, never at the leaf.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aitems_engine.simulator.tree import OTHER, Tree
from aitems_engine.simulator.words import invent_names, read_lists, read_specs

BRANDS_PER_SECTION = 24
LINES_PER_BRAND = 3  # product lines of a brand within one product type
MAX_ATTRIBUTES = 6

# What a seller states of the product type: the type itself, only the section's name, or nothing.
NOUN_STATED, NOUN_SECTION, NOUN_NONE = range(3)
NOUN_SHARES = (0.90, 0.04, 0.06)
QUALIFIER_STATED = 0.86
ATTRIBUTE_SHARES = (0.06, 0.13, 0.2, 0.22, 0.19, 0.12, 0.08)  # of 0..6 attributes
LEAF_TASTE = 0.5  # share of attributes that come from a leaf's own favourites instead of the section's
NOUN_TASTE = 0.5  # the same for brands and product types
LINE_STATED = 0.35
KEYWORD_ABUSE = 0.10
HOST_STATED = 0.05  # "노트북용 가방": a product type that this product is made for
GIFT_STATED = 0.06  # "소파 + 스툴": a product type that comes with it
NOISE = 0.05

INT = NDArray[np.int32]


@dataclass(frozen=True)
class Slots:
    """What the sellers of a batch of products decided to write; arrays have one entry a product."""

    noun_kind: NDArray[np.int8]
    noun: INT
    """The product type named; of a leaf for everything else it may be another one of the section."""
    qualifier: INT
    """Index into `Titles.qualifiers`, -1 = not stated."""
    section: INT
    brand: INT
    line: INT
    """Index into the invented product lines, -1 = not stated."""
    code: INT
    """Index of the model code's letters, -1 = no code."""
    attributes: INT
    """(n, MAX_ATTRIBUTES) index into `Titles.attribute_words`, -1 = fewer."""
    abuse: INT
    """(n, 3) product types added to be found by searches for them, -1 = fewer."""
    abuse_qualifier: INT
    """The qualifier that stands before them, -1 = none."""
    host: INT
    """The product type that this one is made for, -1 = not stated."""
    gift: INT
    """The product type that comes with it, -1 = none."""

    def take(self, rows: NDArray[np.intp]) -> Slots:
        return Slots(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def zipf(count: int, exponent: float = 0.8) -> NDArray[np.float64]:
    weight = np.power(np.arange(1, count + 1, dtype=np.float64), -exponent)
    share: NDArray[np.float64] = weight / weight.sum()
    return share


class Titles:
    """The shop's brands, product lines and habits of speech, and how titles are drawn from them."""

    def __init__(self, tree: Tree, rng: np.random.Generator) -> None:
        self.tree = tree
        general = read_lists("general.txt")
        self.general = general
        self.synonyms = read_lists("synonyms.txt")
        self.specs = [read_specs()[section.spec] for section in tree.sections]
        departments = [section.department for section in tree.sections]
        names = list(dict.fromkeys(departments))
        # brands: 60 that sell everything, 45 in each department; a section has 24 of them
        count = 60 + 45 * len(names)
        self.brand_hangul, self.brand_latin = invent_names(rng, count)
        self.brand_style = rng.choice(5, size=count, p=(0.76, 0.08, 0.06, 0.04, 0.06))
        self.brands = np.empty((len(tree.sections), BRANDS_PER_SECTION), np.int32)
        for s, department in enumerate(departments):
            own = 60 + 45 * names.index(department) + rng.permutation(45)[: BRANDS_PER_SECTION - 6]
            self.brands[s] = rng.permutation(np.concatenate([rng.permutation(60)[:6], own]))
        self.brand_born = rng.random((len(tree.sections), BRANDS_PER_SECTION))
        """When a brand enters the section, as a share of the two years; see `draw`."""
        self.brand_born[rng.random(self.brand_born.shape) < 0.8] = 0.0
        self.brand_born[:, 0] = 0.0
        taste = np.stack([rng.permutation(zipf(BRANDS_PER_SECTION, 1.6)) for _ in tree.noun_names])
        self.brand_share = (1 - NOUN_TASTE) * zipf(BRANDS_PER_SECTION)[None] + NOUN_TASTE * taste
        self.lines_hangul, self.lines_latin = invent_names(rng, 3000)
        # attributes: the section's own and general ones; each leaf has favourites among them
        words: dict[str, int] = {}
        listed = [
            [words.setdefault(w, len(words)) for w in (*section.attributes, *general["general_attributes"])]
            for section in tree.sections
        ]
        self.attribute_words = list(words)
        self.attributes_per_section = max(len(row) for row in listed)
        self.attributes = np.zeros((len(listed), self.attributes_per_section), np.int32)
        section_share = np.zeros((len(listed), self.attributes_per_section))
        for s, row in enumerate(listed):
            self.attributes[s, : len(row)] = row
            size = len(tree.sections[s].attributes)
            section_share[s, :size] = 0.75 * zipf(size, 0.5)
            section_share[s, size : len(row)] = 0.25 * rng.permutation(zipf(len(row) - size, 0.7))
        favourites = np.zeros((tree.num_leaves, self.attributes_per_section))
        for leaf in range(tree.num_leaves):
            row = listed[tree.section[leaf]]
            favourites[leaf, rng.permutation(len(row))[:4]] = (0.4, 0.3, 0.2, 0.1)
        self.attribute_share = (1 - LEAF_TASTE) * section_share[tree.section] + LEAF_TASTE * favourites
        # qualifiers by text: different types share them ("여성 청바지", "여성 치마")
        texts: dict[str, int] = {}
        self.leaf_qualifier = np.array([texts.setdefault(q, len(texts)) for q in tree.qualifier], np.int32)
        self.leaf_qualifier[[q == OTHER for q in tree.qualifier]] = -1
        self.qualifiers = list(texts)
        # sections in which model codes are usual: what has a plug
        electric = {
            "W",
            "인치",
            "용량",
            "부품",
            "주변",
            "음향",
            "카메라",
            "리터",
            "킬로",
            "평형",
            "인쇄",
            "전자",
            "기종",
        }
        codes = [0.45 if s.spec in electric else 0.03 for s in tree.sections]
        self.code_share = np.array(codes) * rng.uniform(0.6, 1.4, len(codes))
        self.section_leaves_start = np.searchsorted(tree.section, np.arange(len(tree.sections)))
        self.section_leaves = np.bincount(tree.section)
        self.section_nouns_start = np.searchsorted(tree.noun_section, np.arange(len(tree.sections)))
        self.section_nouns = np.bincount(tree.noun_section, minlength=len(tree.sections))
        self.section_other = np.array([tree.noun_names[i] == OTHER for i in range(len(tree.noun_names))])
        department_of = np.unique(departments, return_inverse=True)[1]
        first = [int(np.flatnonzero(department_of == d)[0]) for d in department_of]
        self.department_nouns_start = self.section_nouns_start[first]
        self.department_nouns = np.bincount(department_of, weights=self.section_nouns).astype(np.int64)[department_of]
        base = rng.normal(10.2, 0.9, len(tree.sections))[tree.noun_section] + rng.normal(0, 0.5, len(tree.noun_names))
        self.log_price = base + np.array([1.3 if tree.sections[s].spec in electric else 0.0 for s in tree.noun_section])

    def line_of(self, brand: INT, noun: INT, which: NDArray[np.int64]) -> INT:
        """Return the product line: a brand has few in each product type, so a line says much of the type."""
        mixed = brand.astype(np.int64) * 7919 + noun.astype(np.int64) * 104729 + which * 1299709
        line: INT = (mixed % 2**31 // 64 % len(self.lines_hangul)).astype(np.int32)
        return line

    def draw(self, leaf: INT, when: NDArray[np.float64], rng: np.random.Generator) -> Slots:
        """Draw the slots of products of the leaves `leaf`; `when` is the share of the two years that has passed."""
        tree = self.tree
        n = len(leaf)
        section = tree.section[leaf]
        noun = tree.noun[leaf].copy()
        other = self.section_other[noun]
        noun_kind = np.searchsorted(np.cumsum(NOUN_SHARES)[:-1], rng.random(n)).astype(np.int8)
        # the leaf for everything else speaks of the section's other types four times in ten
        any_noun = self.section_nouns_start[section] + (rng.random(n) * self.section_nouns[section]).astype(np.int64)
        noun = np.where(other & (rng.random(n) < 0.4), any_noun, noun).astype(np.int32)
        qualifier = np.where(rng.random(n) < QUALIFIER_STATED, self.leaf_qualifier[leaf], -1).astype(np.int32)
        type_ = tree.noun[leaf]
        slot = (np.cumsum(self.brand_share, axis=1)[type_] < rng.random(n)[:, None]).sum(1)
        slot = np.minimum(slot, BRANDS_PER_SECTION - 1)
        slot = np.where(self.brand_born[section, slot] > when, 0, slot)
        brand = self.brands[section, slot]
        line = self.line_of(brand, type_, rng.integers(0, LINES_PER_BRAND, n))
        line[rng.random(n) >= LINE_STATED] = -1
        code = self.line_of(brand, type_, np.full(n, 11, np.int64))
        code[rng.random(n) >= self.code_share[section]] = -1
        how_many = np.searchsorted(np.cumsum(ATTRIBUTE_SHARES)[:-1], rng.random(n))
        cumulated = np.cumsum(self.attribute_share, axis=1)[leaf]
        attributes = np.full((n, MAX_ATTRIBUTES), -1, np.int32)
        for k in range(MAX_ATTRIBUTES):
            pick = (cumulated < rng.random(n)[:, None]).sum(1).clip(0, self.attributes_per_section - 1)
            attributes[:, k] = np.where(k < how_many, self.attributes[section, pick], -1)
        others = self.section_nouns_start[section][:, None] + (
            rng.random((n, 3)) * self.section_nouns[section][:, None]
        ).astype(np.int32)
        abuse = np.where(self.section_other[others], -1, others).astype(np.int32)
        abuse[:, 1:][rng.random((n, 2)) < 0.4] = -1
        abuse[rng.random(n) >= KEYWORD_ABUSE] = -1
        any_leaf = self.section_leaves_start[section] + (rng.random(n) * self.section_leaves[section]).astype(np.int64)
        abuse_qualifier = np.where(
            (abuse[:, 0] >= 0) & (rng.random(n) < 0.4), self.leaf_qualifier[any_leaf], -1
        ).astype(np.int32)
        host_any = self.department_nouns_start[section] + (rng.random(n) * self.department_nouns[section]).astype(
            np.int64
        )
        host = np.where(self.section_other[host_any] | (rng.random(n) >= HOST_STATED), -1, host_any).astype(np.int32)
        gift_any = self.section_nouns_start[section] + (rng.random(n) * self.section_nouns[section]).astype(np.int64)
        gift = np.where(self.section_other[gift_any] | (rng.random(n) >= GIFT_STATED), -1, gift_any).astype(np.int32)
        return Slots(
            noun_kind, noun, qualifier, section, brand, line, code, attributes, abuse, abuse_qualifier, host, gift
        )

    def prices(self, noun: INT, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return prices in won, NaN where unknown (4 %)."""
        raw = np.exp(self.log_price[noun] + rng.normal(0, 0.45, len(noun)))
        unit = np.where(raw < 10_000, 100, np.where(raw < 100_000, 1000, 10_000))
        ends = np.where(rng.random(len(noun)) < 0.5, unit // 10, 0)  # 12,900 rather than 13,000
        price: NDArray[np.float64] = np.maximum(unit, np.round(raw / unit) * unit) - ends
        price[rng.random(len(noun)) < 0.04] = np.nan
        return price
