"""Read a Hugging Face `tokenizer.json` into the plain values that the native tokeniser takes.

Everything in the file is either supported or an error that names it: a tokeniser that ignores a component gives other
ids than the one the model was trained with. The decoder is the exception: nothing here decodes, so it is only kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aitems_engine.errors import TokenizerFormatError

MAX_FILE_BYTES = 256 << 20
MAX_ID = 1 << 24  # ids below 16.7 million; larger ones are a damaged file, not a vocabulary
MAX_TOKEN_BYTES = 1 << 16
MAX_DEPTH = 16

# The patterns of `Split` that have a native matcher: (component, digits in a row).
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_PATTERNS = {
    GPT2: ("split_gpt2", 0),
    _CL100K.format(digits="{1,3}"): ("split_cl100k", 3),
    _CL100K.format(digits=""): ("split_cl100k", 1),
}
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
Component = tuple[str, str, str, int]


@dataclass
class TokenizerFile:
    """What the facade needs beside the native specification."""

    document: dict[str, Any]
    native: dict[str, Any]
    model: str
    vocab: dict[str, int]
    unk_id: int
    pad_id: int | None = None
    max_length: int | None = None
    pad_to: int | None = None
    template: Template = field(default_factory=lambda: Template())


def fail(message: str) -> TokenizerFormatError:
    return TokenizerFormatError(f"tokenizer.json: {message}")


def get(node: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str, default: Any = ...) -> Any:
    """Return ``node[key]`` of the type asked for; a missing key without default, or another type, is an error."""
    value = node.get(key, default)
    if value is ...:
        raise fail(f"{where} has no '{key}'")
    wrong = isinstance(value, bool) and kind in (int, (int, float))
    if value is not default and (wrong or not isinstance(value, kind)):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise fail(f"{where}.{key} must be {names}, got {type(value).__name__}")
    if isinstance(value, str):
        utf8(value, f"{where}.{key}")
    return value


def utf8(text: str, where: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise fail(f"{where} holds a lone surrogate") from None
    if size > MAX_TOKEN_BYTES:
        raise fail(f"{where} is longer than {MAX_TOKEN_BYTES} bytes")
    return text


def typed(node: Any, where: str) -> tuple[dict[str, Any], str]:
    if not isinstance(node, dict):
        raise fail(f"{where} must be an object, got {type(node).__name__}")
    return node, get(node, "type", str, where)


def only(node: Mapping[str, Any], where: str, *keys: str) -> None:
    """Refuse fields that nobody reads: they would change ids in a way this engine does not know."""
    unknown = sorted(set(node) - {"type", *keys})
    if unknown:
        raise fail(f"{where} ({node.get('type')}) has the unsupported field '{unknown[0]}'")


def pattern(node: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return ("String" or "Regex", text) of a pattern."""
    value = get(node, "pattern", dict, where)
    if len(value) != 1 or next(iter(value)) not in ("String", "Regex"):
        raise fail(f"{where}.pattern must be {{'String': ...}} or {{'Regex': ...}}, got keys {sorted(value)}")
    kind = next(iter(value))
    return kind, get(value, kind, str, f"{where}.pattern")


def normalizer(node: Any, where: str = "normalizer", depth: int = 0) -> list[Component]:
    """Return the native steps of a normaliser."""
    if node is None:
        return []
    node, kind = typed(node, where)
    if depth > MAX_DEPTH:
        raise fail(f"{where} is nested more than {MAX_DEPTH} deep")
    if kind == "Sequence":
        only(node, where, "normalizers")
        parts = get(node, "normalizers", list, where)
        return [s for i, part in enumerate(parts) for s in normalizer(part, f"{where}.normalizers[{i}]", depth + 1)]
    simple = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
    if kind in simple or kind == "StripAccents":
        only(node, where)
        return [(kind.lower() if kind in simple else "strip_accents", "", "", 0)]
    if kind == "BertNormalizer":
        only(node, where, "clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
        lowercase = get(node, "lowercase", bool, where, True)
        accents = get(node, "strip_accents", (bool, type(None)), where, None)
        steps: list[Component] = []
        if get(node, "clean_text", bool, where, True):
            steps.append(("bert_clean", "", "", 0))
        if get(node, "handle_chinese_chars", bool, where, True):
            steps.append(("bert_chinese", "", "", 0))
        if lowercase if accents is None else accents:
            steps += [("nfd", "", "", 0), ("bert_accents", "", "", 0)]
        if lowercase:
            steps.append(("lowercase", "", "", 0))
        return steps
    if kind == "Strip":
        only(node, where, "strip_left", "strip_right")
        flags = get(node, "strip_left", bool, where, True) + 2 * get(node, "strip_right", bool, where, True)
        return [("strip", "", "", flags)]
    if kind == "Replace":
        only(node, where, "pattern", "content")
        content = get(node, "content", str, where)
        how, text = pattern(node, where)
        if how == "String":
            return [("replace", text, content, 0)]
        runs = {" +": 1, " {2,}": 2}
        if text in runs:
            return [("replace_space_runs", "", content, runs[text])]
        raise fail(f"{where} (Replace) has the unsupported regular expression {text!r}; supported: {sorted(runs)}")
    if kind == "Prepend":
        only(node, where, "prepend")
        return [("prepend", get(node, "prepend", str, where), get(node, "prepend", str, where), 0)]
    raise fail(f"{where} '{kind}' is not supported")


def behavior(node: Mapping[str, Any], where: str, default: Any = ...) -> str:
    value: str = get(node, "behavior", str, where, default)
    if value not in BEHAVIORS:
        raise fail(f"{where}.behavior '{value}' is not one of {', '.join(BEHAVIORS)}")
    return value


def pre_tokenizer(node: Any, where: str = "pre_tokenizer", depth: int = 0) -> list[Component]:
    """Return the native steps of a pre-tokeniser; ("byte_level", ...) stands for the mapping of bytes."""
    if node is None:
        return []
    node, kind = typed(node, where)
    if depth > MAX_DEPTH:
        raise fail(f"{where} is nested more than {MAX_DEPTH} deep")
    if kind == "Sequence":
        only(node, where, "pretokenizers")
        parts = get(node, "pretokenizers", list, where)
        return [s for i, p in enumerate(parts) for s in pre_tokenizer(p, f"{where}.pretokenizers[{i}]", depth + 1)]
    simple = {"BertPreTokenizer": "bert", "Whitespace": "whitespace", "WhitespaceSplit": "whitespace_split"}
    if kind in simple:
        only(node, where)
        return [(simple[kind], "", "", 0)]
    if kind == "Punctuation":
        only(node, where, "behavior")
        return [("punctuation", "", behavior(node, where, "Isolated"), 0)]
    if kind == "Digits":
        only(node, where, "individual_digits")
        return [("digits", "", "", int(get(node, "individual_digits", bool, where)))]
    if kind == "CharDelimiterSplit":
        only(node, where, "delimiter")
        return [("split_literal", one_char(node, "delimiter", where), "Removed", 0)]
    if kind == "Metaspace":
        only(node, where, "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep")
        scheme = get(node, "prepend_scheme", str, where, "always")
        if scheme not in ("always", "first", "never"):
            raise fail(f"{where}.prepend_scheme '{scheme}' is not one of always, first, never")
        if get(node, "add_prefix_space", bool, where, scheme != "never") != (scheme != "never"):
            if "prepend_scheme" in node:
                raise fail(f"{where}.add_prefix_space contradicts prepend_scheme '{scheme}'")
            scheme = "never"
        flags = {"always": 1, "first": 2, "never": 0}[scheme] + 4 * get(node, "split", bool, where, True)
        return [("metaspace", one_char(node, "replacement", where), "", flags)]
    if kind == "ByteLevel":
        only(node, where, "add_prefix_space", "trim_offsets", "use_regex")
        steps: list[Component] = []
        if get(node, "add_prefix_space", bool, where):
            steps.append(("prefix_space", "", "", 0))
        if get(node, "use_regex", bool, where, True):
            steps.append(("split_gpt2", "", "", 0))
        return [*steps, ("byte_level", "", "", 0)]
    if kind == "Split":
        only(node, where, "pattern", "behavior", "invert")
        invert = int(get(node, "invert", bool, where, False))
        how, text = pattern(node, where)
        mode = behavior(node, where)
        if how == "String":
            return [("split_literal", text, mode, invert)]
        if text not in SPLIT_PATTERNS:
            raise fail(f"{where} (Split) has the unsupported regular expression {text!r}")
        if (mode, invert) not in (("Isolated", 0), ("Removed", 1)):
            raise fail(f"{where} (Split) with this pattern supports only behavior 'Isolated' or inverted 'Removed'")
        name, digits = SPLIT_PATTERNS[text]
        return [(name, "", "", digits)]
    raise fail(f"{where} '{kind}' is not supported")


def one_char(node: Mapping[str, Any], key: str, where: str) -> str:
    value: str = get(node, key, str, where)
    if len(value) != 1:
        raise fail(f"{where}.{key} must be one character, got {value!r}")
    return value


def check_id(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_ID:
        raise fail(f"{where} has the id {value!r}; ids are whole numbers from 0 to {MAX_ID - 1}")
    return value


def model_vocab(node: Mapping[str, Any]) -> dict[str, int]:
    vocab: dict[str, int] = get(node, "vocab", dict, "model")
    seen: dict[int, str] = {}
    for token, token_id in vocab.items():
        utf8(token, "a token of model.vocab")
        check_id(token_id, f"model.vocab[{token[:40]!r}]")
        if token_id in seen:
            raise fail(f"model.vocab gives the id {token_id} to {seen[token_id][:40]!r} and to {token[:40]!r}")
        seen[token_id] = token
    return vocab


def word_piece(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    only(node, "model", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab")
    vocab = model_vocab(node)
    unk = get(node, "unk_token", str, "model")
    if unk not in vocab:
        raise fail(f"model.unk_token {unk!r} is not in the vocabulary")
    return {
        "type": "WordPiece",
        "tokens": list(vocab),
        "ids": list(vocab.values()),
        "unk_id": vocab[unk],
        "prefix": get(node, "continuing_subword_prefix", str, "model"),
        "max_word_chars": check_id(
            get(node, "max_input_chars_per_word", int, "model", 100), "max_input_chars_per_word"
        ),
    }, vocab


def bpe(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    only(
        node, "model", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
        "byte_fallback", "ignore_merges", "vocab", "merges",
    )  # fmt: skip
    if get(node, "dropout", (int, float, type(None)), "model", None):
        raise fail("model (BPE) has a dropout, which would make ids random: not supported")
    vocab = model_vocab(node)
    optional = (str, type(None))
    unk = get(node, "unk_token", optional, "model", None)
    if unk is not None and unk not in vocab:
        raise fail(f"model.unk_token {unk!r} is not in the vocabulary")
    prefix = get(node, "continuing_subword_prefix", optional, "model", None) or ""
    merges: list[int] = []
    for i, entry in enumerate(get(node, "merges", list, "model")):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise fail(f"model.merges[{i}] must be two tokens, got {str(entry)[:60]!r}")
        left, right = pair
        for token in (left, right, left + right[len(prefix) :]):
            if token not in vocab:
                raise fail(f"model.merges[{i}] uses {token[:40]!r}, which is not in the vocabulary")
        merges += vocab[left], vocab[right], vocab[left + right[len(prefix) :]]
    return {
        "type": "BPE",
        "tokens": list(vocab),
        "ids": list(vocab.values()),
        "unk_id": -1 if unk is None else vocab[unk],
        "prefix": prefix,
        "suffix": get(node, "end_of_word_suffix", optional, "model", None) or "",
        "fuse_unk": get(node, "fuse_unk", bool, "model", False),
        "byte_fallback": get(node, "byte_fallback", bool, "model", False),
        "ignore_merges": get(node, "ignore_merges", bool, "model", False),
        "merges": merges,
    }, vocab


def unigram(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    only(node, "model", "unk_id", "vocab", "byte_fallback")
    tokens: list[str] = []
    scores: list[float] = []
    for i, entry in enumerate(get(node, "vocab", list, "model")):
        if (
            not isinstance(entry, list)
            or len(entry) != 2
            or not isinstance(entry[0], str)
            or not isinstance(entry[1], int | float)
            or isinstance(entry[1], bool)
            or not abs(entry[1]) < float("inf")
        ):
            raise fail(f"model.vocab[{i}] must be [token, score], got {str(entry)[:60]}")
        tokens.append(utf8(entry[0], f"model.vocab[{i}]"))
        scores.append(float(entry[1]))
    check_id(len(tokens), "the size of model.vocab")
    # The reference's own trainer may write a token twice; the later id counts, there as here.
    vocab = {token: i for i, token in enumerate(tokens)}
    unk_id = get(node, "unk_id", int, "model")
    if not 0 <= unk_id < len(tokens):
        raise fail(f"model.unk_id {unk_id} is not in the vocabulary of {len(tokens)} tokens")
    return {
        "type": "Unigram",
        "tokens": tokens,
        "ids": list(range(len(tokens))),
        "unk_id": unk_id,
        "scores": scores,
        "byte_fallback": get(node, "byte_fallback", bool, "model", False),
    }, vocab


def byte_alphabet() -> dict[str, int]:
    """Return the character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


@dataclass
class Template:
    """What a post-processor does to a single text: ids before and after it, and trimming of offsets."""

    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    # None = offsets stay. Otherwise blanks at the edges of tokens are left out of them; the value says whether a blank
    # was put before the text (that of the first token is not counted then).
    trim: bool | None = None


def template(node: Any, vocab: Mapping[str, int], where: str = "post_processor", depth: int = 0) -> Template:
    """Read a post-processor."""
    if node is None:
        return Template()
    node, kind = typed(node, where)
    if depth > MAX_DEPTH:
        raise fail(f"{where} is nested more than {MAX_DEPTH} deep")
    if kind == "ByteLevel":
        only(node, where, "add_prefix_space", "trim_offsets", "use_regex")
        prefix = get(node, "add_prefix_space", bool, where)
        return Template(trim=prefix if get(node, "trim_offsets", bool, where) else None)
    if kind == "Sequence":
        only(node, where, "processors")
        out = Template()
        for i, part in enumerate(get(node, "processors", list, where)):
            inner = template(part, vocab, f"{where}.processors[{i}]", depth + 1)
            if inner.trim is not None and (out.trim is not None or out.before or out.after):
                raise fail(f"{where} trims offsets twice or after a template: not supported")
            trim = out.trim if inner.trim is None else inner.trim
            out = Template(inner.before + out.before, out.after + inner.after, trim)
        return out
    if kind in ("BertProcessing", "RobertaProcessing"):
        only(node, where, "sep", "cls", "trim_offsets", "add_prefix_space")
        trim = None
        if kind == "RobertaProcessing" and get(node, "trim_offsets", bool, where, True):
            trim = get(node, "add_prefix_space", bool, where, True)
        pair = {}
        for key in ("cls", "sep"):
            value = get(node, key, list, where)
            if len(value) != 2 or not isinstance(value[0], str):
                raise fail(f"{where}.{key} must be [token, id]")
            pair[key] = check_id(value[1], f"{where}.{key}")
        return Template([pair["cls"]], [pair["sep"]], trim)
    if kind == "TemplateProcessing":
        only(node, where, "single", "pair", "special_tokens")
        special = get(node, "special_tokens", dict, where)
        before: list[int] = []
        after: list[int] = []
        seen = False
        for i, part in enumerate(get(node, "single", list, where)):
            here = f"{where}.single[{i}]"
            if not isinstance(part, dict) or len(part) != 1:
                raise fail(f"{here} must be a Sequence or a SpecialToken")
            name, value = next(iter(part.items()))
            if name == "Sequence":
                if seen or not isinstance(value, dict) or get(value, "id", str, here) != "A":
                    raise fail(f"{here}: a single text has exactly one Sequence 'A'")
                seen = True
            elif name == "SpecialToken" and isinstance(value, dict):
                token = get(value, "id", str, here)
                ids = get(get(special, token, dict, f"{where}.special_tokens"), "ids", list, f"{where}.special_tokens")
                (after if seen else before).extend(check_id(v, here) for v in ids)
            else:
                raise fail(f"{here} '{name}' is not supported")
        if not seen:
            raise fail(f"{where}.single has no Sequence 'A'")
        return Template(before, after)
    raise fail(f"{where} '{kind}' is not supported")


def added_tokens(node: Any, vocab: dict[str, int]) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Return the native added tokens, and token -> id of those."""
    if not isinstance(node, list):
        raise fail(f"added_tokens must be a list, got {type(node).__name__}")
    owner = {token_id: token for token, token_id in vocab.items()}
    out: dict[str, tuple[Any, ...]] = {}
    for i, token in enumerate(node):
        where = f"added_tokens[{i}]"
        if not isinstance(token, dict):
            raise fail(f"{where} must be an object, got {type(token).__name__}")
        only(token, where, "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
        content = get(token, "content", str, where)
        token_id = check_id(get(token, "id", int, where), where)
        if content == "":
            raise fail(f"{where} has no content")
        if owner.get(token_id, content) != content or vocab.get(content, token_id) != token_id:
            raise fail(f"{where} {content!r} has the id {token_id}, which belongs to {owner.get(token_id, content)!r}")
        if content in out:
            raise fail(f"added_tokens holds {content!r} twice")
        owner[token_id] = content
        flags = [get(token, key, bool, where, False) for key in ("single_word", "lstrip", "rstrip", "normalized")]
        out[content] = (content, token_id, *flags)
        get(token, "special", bool, where, False)  # matters for decoding only
    return list(out.values()), {content: entry[1] for content, entry in out.items()}


DECODERS = {
    "BPEDecoder",
    "ByteLevel",
    "WordPiece",
    "Metaspace",
    "CTC",
    "Sequence",
    "Replace",
    "Fuse",
    "Strip",
    "ByteFallback",
}


def read_document(text: str | bytes) -> dict[str, Any]:
    """Parse the JSON text; duplicate keys, NaN and too large files are errors."""
    if len(text) > MAX_FILE_BYTES:
        raise fail(f"the file has more than {MAX_FILE_BYTES} bytes")

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1) if len(keys) < 1000 else "?"
            raise fail(f"a key ({twice[:40]!r}) stands twice in one object")
        return out

    def refuse(name: str) -> Any:
        raise fail(f"{name} is not a number")

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise fail("is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise fail(f"is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise fail(f"must be an object, got {type(document).__name__}")
    return document


def read(text: str | bytes) -> TokenizerFile:
    """Read a tokenizer.json text."""
    document = read_document(text)
    only(
        document, "the file", "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
        "post_processor", "decoder", "model",
    )  # fmt: skip
    if document.get("version", "1.0") != "1.0":
        raise fail(f"version {document['version']!r} is not supported (1.0 is)")
    if document.get("decoder") is not None:
        _, kind = typed(document["decoder"], "decoder")
        if kind not in DECODERS:
            raise fail(f"decoder '{kind}' is not supported")

    node = get(document, "model", dict, "the file")
    named = get(node, "type", (str, type(None)), "model", None)
    kind = named or ("Unigram" if isinstance(node.get("vocab"), list) else "BPE" if "merges" in node else "WordPiece")
    readers = {"WordPiece": word_piece, "BPE": bpe, "Unigram": unigram}
    if kind not in readers:
        raise fail(f"model '{kind}' is not supported (WordPiece, BPE and Unigram are)")
    own, vocab = readers[kind](node)
    model: dict[str, Any] = {
        "prefix": "", "suffix": "", "max_word_chars": 100, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, "scores": [], "merges": [],
    } | own  # fmt: skip

    steps = pre_tokenizer(document.get("pre_tokenizer"))
    byte_level = any(step[0] == "byte_level" for step in steps)
    if byte_level:
        if kind != "BPE" or model["prefix"] or model["suffix"] or model["byte_fallback"]:
            raise fail("pre_tokenizer 'ByteLevel' is supported with a plain BPE model only")
        if [step[0] for step in steps].index("byte_level") != len(steps) - 1:
            raise fail("pre_tokenizer 'ByteLevel' is supported as the last step only")
        steps.pop()
        alphabet = byte_alphabet()
        # A token with a character outside the alphabet cannot come out of the model: only as an added token.
        kept = [(t, i) for t, i in zip(model["tokens"], model["ids"], strict=True) if all(c in alphabet for c in t)]
        model["tokens"] = [bytes(alphabet[c] for c in token) for token, _ in kept]
        model["ids"] = [token_id for _, token_id in kept]
    model["byte_level"] = byte_level

    added, added_ids = added_tokens(document.get("added_tokens", []), vocab)
    every = vocab | added_ids
    around = template(document.get("post_processor"), every)
    out = TokenizerFile(
        document=document,
        native={
            "normalizer": normalizer(document.get("normalizer")),
            "pre_tokenizer": steps,
            "model": model,
            "added": added,
            "prefix_ids": around.before,
            "suffix_ids": around.after,
        },
        model=kind,
        vocab=every,
        unk_id=model["unk_id"],
        template=around,
    )
    truncation = document.get("truncation")
    if truncation is not None:
        if not isinstance(truncation, dict):
            raise fail(f"truncation must be an object, got {type(truncation).__name__}")
        only(truncation, "truncation", "direction", "max_length", "strategy", "stride")
        if get(truncation, "direction", str, "truncation", "Right") != "Right":
            raise fail("truncation.direction other than 'Right' is not supported")
        if get(truncation, "stride", int, "truncation", 0):
            raise fail("truncation.stride other than 0 is not supported")
        out.max_length = check_id(get(truncation, "max_length", int, "truncation"), "truncation.max_length")
    padding = document.get("padding")
    if padding is not None:
        if not isinstance(padding, dict):
            raise fail(f"padding must be an object, got {type(padding).__name__}")
        only(padding, "padding", "strategy", "direction", "pad_to_multiple_of", "pad_id", "pad_type_id", "pad_token")
        if get(padding, "direction", str, "padding", "Right") != "Right":
            raise fail("padding.direction other than 'Right' is not supported")
        if padding.get("pad_to_multiple_of") is not None:
            raise fail("padding.pad_to_multiple_of is not supported")
        out.pad_id = check_id(get(padding, "pad_id", int, "padding"), "padding.pad_id")
        strategy = padding.get("strategy", "BatchLongest")
        if isinstance(strategy, dict) and set(strategy) == {"Fixed"}:
            out.pad_to = check_id(strategy["Fixed"], "padding.strategy.Fixed")
        elif strategy != "BatchLongest":
            raise fail(f"padding.strategy {strategy!r} is not supported")
    return out
