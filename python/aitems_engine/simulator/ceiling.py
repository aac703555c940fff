"""How well anybody could do: the most likely leaf given all that the seller decided to write.

The slots of a title are drawn independently given the leaf, so the likelihood of each leaf is a product of shares that
the shop knows. The judge sees the slots themselves (no synonyms or errors to undo), knows the prior, every brand even
where the title hides it, which product types are only keyword abuse, and the section. A real classifier sees less, so
this is an upper bound on its accuracy against the truth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aitems_engine.simulator.malls import ABUSED_SHARE, WRONG_SHARE, MallDraw, Malls
from aitems_engine.simulator.titles import (
    BRANDS_PER_SECTION,
    LINES_PER_BRAND,
    NOUN_STATED,
    QUALIFIER_STATED,
    Slots,
    Titles,
)

IMPOSSIBLE = -1e9


class Ceiling:
    """Counts, over the products added, how often the most likely leaf is the true one."""

    def __init__(self, titles: Titles, malls: Malls, counts: NDArray[np.int64]) -> None:
        self.titles = titles
        self.malls = malls
        self.log_prior = log(counts.astype(np.float64))
        share = titles.brand_share.copy()  # (types, brands of a section)
        born = titles.brand_born[titles.tree.noun_section]
        # before a brand enters a section its share goes to the section's first brand; time is not seen, so on average
        share[:, 0] += (share * born).sum(1)
        self.log_brand = log(share * (1 - born))
        self.log_attribute = log(titles.attribute_share)
        self.right = np.zeros(2, np.int64)
        self.products = 0

    def add(self, leaf: NDArray[np.int32], slots: Slots, mall: MallDraw) -> None:
        order = np.argsort(slots.section, kind="stable")
        sections, starts = np.unique(slots.section[order], return_index=True)
        for section, rows in zip(sections.tolist(), np.split(order, starts[1:]), strict=True):
            first = int(self.titles.section_leaves_start[section])
            leaves = np.arange(first, first + int(self.titles.section_leaves[section]))
            score = self.title_score(section, leaves, slots.take(rows))
            self.right[0] += int((leaves[score.argmax(1)] == leaf[rows]).sum())
            score += self.mall_score(leaves, mall.mall[rows], mall.path_key[rows])
            self.right[1] += int((leaves[score.argmax(1)] == leaf[rows]).sum())
        self.products += len(leaf)

    def accuracy(self) -> dict[str, float]:
        title, both = (self.right / max(1, self.products)).tolist()
        return {"title": round(title, 4), "title_and_mall": round(both, 4)}

    def title_score(self, section: int, leaves: NDArray[np.int64], slots: Slots) -> NDArray[np.float64]:
        """Return (products, leaves of the section): log of prior times likelihood, up to a constant a product."""
        titles = self.titles
        types = titles.tree.noun[leaves]
        other = titles.section_other[types]
        score = np.repeat(self.log_prior[leaves][None], len(slots.noun), axis=0)
        named = np.where(other, 0.4 / titles.section_nouns[section], 0.0)[None] + np.where(
            slots.noun[:, None] == types[None], np.where(other, 0.6, 1.0)[None], 0.0
        )
        score += np.where(slots.noun_kind[:, None] == NOUN_STATED, log(named), 0.0)
        own = titles.leaf_qualifier[leaves]
        unsaid = np.where(own < 0, 1.0, 1 - QUALIFIER_STATED)[None]
        said = np.where(own[None] == slots.qualifier[:, None], QUALIFIER_STATED, 0.0)
        score += log(np.where(slots.qualifier[:, None] < 0, unsaid, said))
        place = (titles.brands[section][None] == slots.brand[:, None]).argmax(1).clip(0, BRANDS_PER_SECTION - 1)
        score += self.log_brand[types][:, place].T
        brands = np.repeat(slots.brand[:, None], len(leaves), axis=1)
        nouns = np.repeat(types[None], len(slots.noun), axis=0)
        lines = np.stack(
            [titles.line_of(brands, nouns, np.full(brands.shape, k, np.int64)) for k in range(LINES_PER_BRAND)]
        )
        hits = (lines == slots.line[None, :, None]).mean(0)
        score += np.where(slots.line[:, None] >= 0, log(hits), 0.0)
        codes = titles.line_of(brands, nouns, np.full(brands.shape, 11, np.int64))
        score += np.where(slots.code[:, None] >= 0, log((codes == slots.code[:, None]).astype(np.float64)), 0.0)
        for k in range(slots.attributes.shape[1]):
            words = slots.attributes[:, k]
            at = (titles.attributes[section][None] == words[:, None]).argmax(1)
            score += np.where(words[:, None] >= 0, self.log_attribute[leaves][:, at].T, 0.0)
        return score

    def mall_score(
        self, leaves: NDArray[np.int64], mall: NDArray[np.int32], key: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return (products, leaves): log likelihood of the mall's path, up to a constant a product."""
        node = self.malls.filed_as[mall][:, leaves] + mall[:, None] * np.int64(self.malls.tree.num_leaves)
        same = node == key[:, None]
        # a wrong path is that of a random leaf of the section, an abused one is the same for all leaves
        share = (1 - WRONG_SHARE - ABUSED_SHARE) * same + WRONG_SHARE * same.mean(1, keepdims=True) + 1e-6
        return np.where(key[:, None] >= 0, log(share), 0.0)


def log(share: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.where(share > 0, np.log(np.maximum(share, 1e-300)), IMPOSSIBLE)
    return out
