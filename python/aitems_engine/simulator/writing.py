"""Writes titles from slots: word order, spellings, sizes, colours, sales talk, spacing and typing errors.

Everything here is the same for all leaves given the slots. Korean sellers leave out spaces, repeat keywords and put
what sells in brackets; the shares were set by the statistics of real titles (tests/unit/test_simulator_data.py).
"""

from __future__ import annotations

import numpy as np

from aitems_engine.simulator.titles import NOISE, NOUN_SECTION, NOUN_STATED, Slots, Titles
from aitems_engine.simulator.tree import OTHER

# positions of the parts: B brand, L line, H made for, Q qualifier, N noun, A attributes, C model code, G gift, S size,
# X keyword abuse
ORDERS = (
    "BLAHQNGCSX",
    "BLQAHNGCSX",
    "BHQNGALCSX",
    "LBAHQNGSCX",
    "HQABNGLSCX",
    "BCLAHQNGSX",
    "AQHNGBLCSX",
    "BLHNGQACSX",
    "BAHQLNGXCS",
)
ORDER_SHARES = (0.26, 0.2, 0.12, 0.08, 0.08, 0.08, 0.06, 0.06, 0.06)
# what has no colour
COLOURLESS = {
    "신선식품",
    "가공식품",
    "음료커피",
    "건강식품",
    "분유기저귀",
    "도서",
    "여행이용권",
    "헤어바디",
    "의료건강용품",
}
CODE_LETTERS = "ABCDEFGHJKLMNPRSTVWXZ"


class Writer:
    def __init__(self, titles: Titles) -> None:
        self.titles = titles
        tree = titles.tree
        self.nouns = [
            titles.general["misc_nouns"] if noun == OTHER else (noun, *titles.synonyms.get(noun, ()))
            for noun in tree.noun_names
        ]
        self.section_names = [section.name for section in tree.sections]
        self.colourful = [section.department not in COLOURLESS for section in tree.sections]
        self.qualifiers = [self.spellings(q) for q in titles.qualifiers]

    def spellings(self, qualifier: str) -> tuple[str, ...]:
        """Return the qualifier as named and with each word's synonyms."""
        words = qualifier.split(" ")
        out = [qualifier]
        for i, word in enumerate(words):
            out += [" ".join([*words[:i], other, *words[i + 1 :]]) for other in self.titles.synonyms.get(word, ())]
        return tuple(out)

    def code(self, index: int, u: float, number: int) -> str:
        """Return a model code; its letters belong to the brand and product type, its digits to the product."""
        a = CODE_LETTERS[index % 21] + CODE_LETTERS[index // 21 % 21]
        digits = f"{number % 9000 + 1000}"
        if u < 0.35:
            return a + digits
        if u < 0.6:
            return f"{a}-{digits[:3]}{CODE_LETTERS[number % 21]}"
        if u < 0.8:
            return f"{a}{CODE_LETTERS[index // 441 % 21]}{digits[:2]}-{CODE_LETTERS[number // 7 % 21]}{digits[2:]}"
        return f"{a}{digits[:2]}{CODE_LETTERS[number % 21]}{CODE_LETTERS[number // 21 % 21]}"

    def write(self, slots: Slots, rng: np.random.Generator) -> list[str]:
        """Return one title a product; never empty."""
        n = len(slots.noun)
        u = rng.random((n, 24)).tolist()
        orders = rng.choice(len(ORDERS), size=n, p=ORDER_SHARES).tolist()
        numbers = rng.integers(0, 2**31, size=n).tolist()
        columns = zip(
            slots.noun_kind.tolist(),
            slots.noun.tolist(),
            slots.qualifier.tolist(),
            slots.section.tolist(),
            slots.brand.tolist(),
            slots.line.tolist(),
            slots.code.tolist(),
            slots.attributes.tolist(),
            slots.abuse.tolist(),
            slots.abuse_qualifier.tolist(),
            slots.host.tolist(),
            slots.gift.tolist(),
            u,
            orders,
            numbers,
            strict=True,
        )
        return [self.title(*row) for row in columns]

    def title(
        self,
        noun_kind: int,
        noun: int,
        qualifier: int,
        section: int,
        brand: int,
        line: int,
        code: int,
        attributes: list[int],
        abuse: list[int],
        abuse_qualifier: int,
        host: int,
        gift: int,
        u: list[float],
        order: int,
        number: int,
    ) -> str:
        titles = self.titles
        general = titles.general
        parts: dict[str, str] = {}
        parts["B"] = self.brand(brand, u[0], u[1])
        if line >= 0:
            parts["L"] = str(titles.lines_hangul[line] if line % 6 else titles.lines_latin[line])
        if qualifier >= 0:
            parts["Q"] = pick_first(self.qualifiers[qualifier], 0.7, u[2])
        if noun_kind == NOUN_STATED:
            parts["N"] = pick_first(self.nouns[noun], 0.65, u[3])
        elif noun_kind == NOUN_SECTION:
            parts["N"] = self.section_names[section]
        words = [titles.attribute_words[a] for a in dict.fromkeys(attributes) if a >= 0]
        if words:
            parts["A"] = " ".join(words)
        if code >= 0:
            parts["C"] = self.code(code, u[4], number)
        if u[5] < 0.46:
            spec = pick(titles.specs[section], u[5] / 0.46)
            parts["S"] = f"({spec})" if u[6] < 0.08 else spec.replace(" ", "") if u[6] < 0.3 else spec
        extra = [pick_first(self.nouns[a], 0.8, u[7]) for a in abuse if a >= 0]
        if extra:
            if abuse_qualifier >= 0:
                extra[0] = f"{self.qualifiers[abuse_qualifier][0]} {extra[0]}"
            parts["X"] = ("/" if u[8] < 0.4 else " ").join(extra)
        if host >= 0:
            parts["H"] = self.nouns[host][0] + ("용" if u[20] < 0.6 else " 호환" if u[20] < 0.8 else "전용")
        if gift >= 0:
            parts["G"] = ("+ " if u[21] < 0.6 else "+") + self.nouns[gift][0]
        joined = u[9] < 0.15 and "Q" in parts and "N" in parts
        pieces: list[str] = []
        for key in ORDERS[order]:
            part = parts.get(key)
            if not part:
                continue
            if joined and key == "N" and pieces and pieces[-1] == parts["Q"]:
                pieces[-1] += part
            else:
                pieces.append(part)
        if u[10] < 0.03 and "N" in parts:
            pieces.append(parts["N"])  # the keyword once more
        title = " ".join(pieces)
        if u[11] < NOISE:
            title = misspell(title, u[11] / NOISE, u[12])
        if u[13] < 0.3 and self.colourful[section]:
            title += (", " if u[13] < 0.22 else " ") + pick(general["colours"], u[14])
            if u[22] < 0.14:
                title += "/" + pick(general["colours"], u[22] / 0.14)
        if u[15] < 0.24:
            title += (", " if u[15] < 0.2 else " ") + pick(general["counts"], u[16])
        if u[17] < 0.08:
            title = f"{pick(general['promo_front'], u[17] / 0.08)}{'' if u[18] < 0.3 else ' '}{title}"
        if u[19] < 0.08:
            title += " " + pick(general["promo_back"], u[19] / 0.08)
        return title or str(titles.brand_hangul[brand])

    def brand(self, brand: int, shown: float, style: float) -> str:
        """Return the brand as its products write it, or "" (one product in ten)."""
        if shown < 0.1:
            return ""
        titles = self.titles
        hangul, latin = str(titles.brand_hangul[brand]), str(titles.brand_latin[brand])
        kind = int(titles.brand_style[brand])
        if style < 0.12:
            kind = int(style / 0.12 * 5)
        return (hangul, latin, f"{hangul} {latin}", f"{latin} {hangul}", f"[{hangul}]")[kind]


def pick(words: tuple[str, ...], u: float) -> str:
    return words[int(u * len(words))]


def pick_first(words: tuple[str, ...], share: float, u: float) -> str:
    """Return the first word in `share` of all cases, else one of the others."""
    if len(words) == 1 or u < share:
        return words[0]
    return words[1 + int((u - share) / (1 - share) * (len(words) - 1))]


def misspell(title: str, kind: float, where: float) -> str:
    """Return the title with one error: a space lost, a space too many, two letters swapped, one lost or one doubled."""
    if len(title) < 4:
        return title
    at = 1 + int(where * (len(title) - 3))
    if kind < 0.45:
        spaces = [i for i, c in enumerate(title) if c == " "]
        if not spaces:
            return title
        at = spaces[int(where * len(spaces))]
        return title[:at] + title[at + 1 :]
    if kind < 0.65:
        return title[:at] + " " + title[at:]
    if kind < 0.8:
        return title[:at] + title[at + 1] + title[at] + title[at + 2 :]
    return title[:at] + title[at + 1 :] if kind < 0.9 else title[:at] + title[at] + title[at:]
