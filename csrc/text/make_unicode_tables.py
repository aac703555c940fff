"""Write unicode_tables.cpp: what the reference tokenisers do with every code point, as compact tables.

Ids must equal those of the `tokenizers` package on any text, and that package mixes several Unicode versions (one for
composition, another for lower case, an older one for categories). So its components are asked about each of the 1.1
million code points instead of trusting one version of the Unicode database; only the values of the combining classes
come from `unicodedata`, and they are checked against the reference's reordering. Run after an upgrade:

    python csrc/text/make_unicode_tables.py          # needs the package `tokenizers`
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)
# bit -> meaning; the order is that of `enum CharFlag` in unicode.hpp
FLAGS = [
    "space",
    "punctuation",
    "word",
    "letter",
    "number",
    "numeric",
    "clean_removed",
    "clean_space",
    "accent",
    "bert_accent",
    "lower",
    "canonical",
    "compatible",
    "composes_back",
    "chinese",
]


def pieces(pre: object, text: str) -> list[str]:
    return [piece for piece, _ in pre.pre_tokenize_str(text)]  # type: ignore[attr-defined]


def bert(**on: bool) -> normalizers.Normalizer:
    options = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**(options | on))


def combining_classes() -> dict[int, int]:
    """Return the class of every code point that the reference reorders, checked against its reordering."""
    nfd = normalizers.NFD().normalize_str
    low, high = "\u0334", "\u0345"  # classes 1 and 240
    classes = {}
    for c in CODE_POINTS:
        text = chr(c)
        if nfd(text) != text:
            continue
        if nfd(text + low) != text + low or nfd(high + text) != high + text or text == high:
            classes[c] = unicodedata.combining(text)
            assert classes[c], f"U+{c:04X} reorders in the reference but has class 0 in unicodedata"
    representative = {value: chr(c) for c, value in reversed(classes.items())}
    for c, value in classes.items():
        for other, mark in representative.items():
            swapped = nfd(chr(c) + mark) == mark + chr(c) != chr(c) + mark
            assert swapped == (other < value), f"U+{c:04X}: class {value} does not explain its order beside class {other}"
    return classes


def main() -> None:
    nfd, nfkd, nfc, lower = (
        getattr(normalizers, name)().normalize_str for name in ("NFD", "NFKD", "NFC", "Lowercase")
    )
    split = {name: pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "isolated") for name in ("L", "N")}
    strip, clean = normalizers.StripAccents().normalize_str, bert(clean_text=True).normalize_str
    bert_strip, chinese = bert(strip_accents=True).normalize_str, bert(handle_chinese_chars=True).normalize_str
    whitespace_split, words = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Whitespace()
    bert_pre, digits = pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)

    classes = combining_classes()
    canonical, compatible, lowered, compositions = {}, {}, {}, []
    flags = dict.fromkeys(CODE_POINTS, 0)
    for c in CODE_POINTS:
        text = chr(c)
        facts = {
            "space": not pieces(whitespace_split, text),
            "word": pieces(words, "a" + text) == ["a" + text],
            "letter": len(pieces(split["L"], "!" + text)) == 2,
            "number": len(pieces(split["N"], "!" + text)) == 2,
            "numeric": len(pieces(digits, "a" + text)) == 2,
            "clean_removed": clean(text) == "",
            "clean_space": clean(text) == " ",
            "accent": strip(text) == "",
            "bert_accent": bert_strip(text) == "",
            "chinese": chinese(text) != text,
            "lower": lower(text) != text,
        }
        facts["punctuation"] = not facts["space"] and len(pieces(bert_pre, "a" + text)) == 2
        if facts["lower"]:
            lowered[c] = lower(text)
        if c not in HANGUL:
            if nfd(text) != text:
                facts["canonical"] = True
                canonical[c] = nfd(text)
                # a primary composite: composes back to itself from its first step of decomposition
                if nfc(text) == text:
                    *head, last = nfd(text)
                    compositions.append((ord(nfc("".join(head))), ord(last), c))
            if nfkd(text) != nfd(text):
                facts["compatible"] = True
                compatible[c] = nfkd(text)
        flags[c] = sum(1 << bit for bit, name in enumerate(FLAGS) if facts.get(name)) | classes.get(c, 0) << 24
    for first, second, _ in compositions:
        assert nfc(chr(first) + chr(second)) in {chr(c) for _, _, c in compositions}, hex(first)
        flags[second] |= 1 << FLAGS.index("composes_back")
    for c in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]:  # Hangul vowels and final consonants
        flags[c] |= 1 << FLAGS.index("composes_back")

    runs: list[int] = []
    previous = None
    for c in range(0x110000):
        value = flags.get(c, 0)
        if value != previous:
            runs += [c, value]
            previous = value

    def array(name: str, values: list[int], comment: str) -> str:
        lines, line = [f"// {comment}", f"const std::uint32_t {name}[] = {{"], ""
        for value in values:
            item = (hex(value) if value > 9 else str(value)) + ","
            if len(line) + len(item) > 118:
                lines.append(line)
                line = ""
            line += item
        return "\n".join([*lines, line, "};", f"const std::size_t {name}Size = {len(values)};"])

    def flat(mapping: dict[int, str]) -> list[int]:
        return [v for c, text in sorted(mapping.items()) for v in (c, len(text), *map(ord, text))]

    out = [
        f"// Generated by make_unicode_tables.py from tokenizers {tokenizers.__version__}; do not edit.",
        '#include "text/unicode_tables.hpp"\n\nnamespace aitems::text {\n',
        array("kFlagRuns", runs, "pairs (first code point, flags): the flags hold up to the next pair"),
        array("kLower", flat(lowered), "entries (code point, n, n code points): lower case"),
        array("kCanonical", flat(canonical), "entries (code point, n, n code points): NFD, Hangul syllables left out"),
        array("kCompatible", flat(compatible), "entries (code point, n, n code points): NFKD where it differs from NFD"),
        array("kCompositions", [v for t in sorted(compositions) for v in t], "triples (first, second, composed)"),
        "\n}  // namespace aitems::text\n",
    ]
    Path(__file__).with_name("unicode_tables.cpp").write_text("\n".join(out))


if __name__ == "__main__":
    main()
