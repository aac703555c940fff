"""Mall categories: every mall has its own tree, which merges, splits and renames the shop's, lacks it, or is abused.

Knows leaves and their names only, not titles. Paths have " > " between levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aitems_engine.simulator.tree import Tree
from aitems_engine.simulator.words import read_lists

STATES = ("right", "missing", "wrong", "abused")
NUM_MALLS = 14
# How a mall files a section: its leaves as ours, all leaves of a product type in one, a whole section in one, or our
# leaves cut further by something that says nothing of the product (new arrivals, price).
LEAF, TYPE, SECTION, SPLIT = range(4)
MODE_SHARES = (0.22, 0.40, 0.26, 0.12)
WRONG_SHARE = 0.04
ABUSED_SHARE = 0.03


@dataclass(frozen=True)
class MallDraw:
    """For each product its mall and the mall's path ("" = missing), and what is wrong with it (index into STATES)."""

    mall: NDArray[np.int32]
    path: list[str]
    path_key: NDArray[np.int64]
    """The path without its split: mall * leaves + a leaf that stands for all leaves filed there; -1 = missing."""
    state: NDArray[np.int8]


class Malls:
    def __init__(self, tree: Tree, popularity: NDArray[np.int64], rng: np.random.Generator) -> None:
        self.tree = tree
        self.ids = [f"mall{m + 1:02d}" for m in range(NUM_MALLS)]
        weight = 1.0 / np.arange(1, NUM_MALLS + 1) ** 0.7
        self.cdf = np.cumsum(weight / weight.sum())
        self.missing = np.round(rng.permutation(np.linspace(0.02, 0.30, NUM_MALLS)), 2)
        self.missing[-2] = 0.9  # one mall that sends hardly any category
        self.mode = rng.choice(4, size=(NUM_MALLS, len(tree.sections)), p=MODE_SHARES)
        # leaves that sellers file things under to be seen: each mall's most popular ones
        top = np.argsort(-popularity, kind="stable")[: max(2, tree.num_leaves // 50)]
        self.bait = rng.choice(top, size=(NUM_MALLS, 4))
        self.style = rng.integers(0, 4, size=(NUM_MALLS, 3))
        self.splits = read_lists("general.txt")["mall_splits"]
        self.suffixes = read_lists("general.txt")["mall_suffixes"]
        first_of_noun = np.unique(tree.noun, return_index=True)[1]
        first_of_section = np.unique(tree.section, return_index=True)[1]
        leaves = np.arange(tree.num_leaves)
        by_mode = np.stack([leaves, first_of_noun[tree.noun], first_of_section[tree.section], leaves])
        self.filed_as: NDArray[np.int64] = by_mode[self.mode[:, tree.section], leaves[None, :]]
        """(malls, leaves): the first leaf of the mall's node that a leaf is filed under."""
        self.section_start = np.searchsorted(tree.section, np.arange(len(tree.sections)))
        self.section_size = np.bincount(tree.section)
        self._paths: dict[tuple[int, int], str] = {}

    def path(self, mall: int, leaf: int) -> str:
        """Return the mall's path of a leaf, without its split."""
        found = self._paths.get((mall, leaf))
        if found is not None:
            return found
        department, section, noun, last = self.tree.names(leaf)
        department_style, type_style, leaf_style = self.style[mall].tolist()
        suffix = self.suffixes[(mall * 7 + int(self.tree.section[leaf])) % len(self.suffixes)]
        top = (department, f"{department}/잡화", f"{department}관", f"전체 {department}")[department_style]
        middle = (section, section + suffix, section, section.replace(" ", ""))[type_style]
        mode = self.mode[mall, self.tree.section[leaf]]
        levels = [top, middle]
        if mode != SECTION:
            levels.append((noun, f"{noun}{suffix}", noun, f"{noun}/{section}")[leaf_style])
            if mode != TYPE:
                words = last.split(" ")
                levels.append((last, last.replace(" ", ""), f"{words[-1]}({' '.join(words[:-1])})", last)[type_style])
        if department_style == 1 and len(levels) > 2:
            del levels[1]
        path = " > ".join(levels)
        self._paths[mall, leaf] = path
        return path

    def draw(self, leaf: NDArray[np.int32], rng: np.random.Generator) -> MallDraw:
        n = len(leaf)
        mall = np.searchsorted(self.cdf, rng.random(n)).clip(0, NUM_MALLS - 1).astype(np.int32)
        u = rng.random(n)
        state = np.where(u < WRONG_SHARE, 2, np.where(u < WRONG_SHARE + ABUSED_SHARE, 3, 0)).astype(np.int8)
        state[rng.random(n) < self.missing[mall]] = 1
        section = self.tree.section[leaf]
        neighbour = self.section_start[section] + (rng.random(n) * self.section_size[section]).astype(np.int64)
        bait = self.bait[mall, rng.integers(0, self.bait.shape[1], n)]
        filed = np.where(state == 2, neighbour, np.where(state == 3, bait, leaf))
        key = mall * np.int64(self.tree.num_leaves) + self.filed_as[mall, filed]
        key[state == 1] = -1
        split = rng.integers(0, len(self.splits), n)
        is_split = self.mode[mall, self.tree.section[filed]] == SPLIT
        paths: list[str] = []
        rows = zip(mall.tolist(), filed.tolist(), state.tolist(), is_split.tolist(), split.tolist(), strict=True)
        for m, f, s, cut, which in rows:
            path = "" if s == 1 else self.path(m, f)
            paths.append(f"{path} > {self.splits[which]}" if cut and path else path)
        return MallDraw(mall, paths, key, state)
