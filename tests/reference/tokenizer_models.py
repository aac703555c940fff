"""The three models and the keyword rules in the plainest Python, over one word or text at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence


def word_piece(word: str, vocab: Mapping[str, int], unk: int, prefix: str = "##", longest: int = 100) -> list[int]:
    """Longest piece first; an unknown part makes the whole word unknown."""
    if len(word) > longest:
        return [unk]
    ids: list[int] = []
    at = 0
    while at < len(word):
        for end in range(len(word), at, -1):
            piece = (prefix if at else "") + word[at:end]
            if piece in vocab:
                break
        else:
            return [unk]
        ids.append(vocab[piece])
        at = end
    return ids


def bpe(
    word: str, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], unk: int | None, fuse: bool
) -> list[int]:
    """Join the pair of lowest rank, leftmost first, until none is left."""
    names = {i: token for token, i in vocab.items()}
    symbols: list[tuple[int, bool]] = []  # (id, is an unknown character)
    for char in word:
        if char in vocab:
            symbols.append((vocab[char], False))
        elif unk is not None and not (fuse and symbols and symbols[-1][1]):
            symbols.append((unk, True))
    ids = [i for i, _ in symbols]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while len(ids) > 1:
        pairs = [(ranks.get((names[ids[i]], names[ids[i + 1]]), math.inf), i) for i in range(len(ids) - 1)]
        rank, i = min(pairs)
        if rank == math.inf:
            break
        ids[i : i + 2] = [vocab[names[ids[i]] + names[ids[i + 1]]]]
    return ids


def unigram(word: str, scores: Sequence[tuple[str, float]], unk: int) -> list[int]:
    """Best sum of scores; earlier candidates win ties; neighbouring unknown pieces are one."""
    ids = {token: i for i, (token, _) in enumerate(scores)}
    penalty = min(score for _, score in scores) - 10
    best: list[tuple[float, int, int] | None] = [(0.0, -1, -1)] + [None] * len(word)  # score, begin, id
    for at in range(len(word)):
        here = best[at]
        assert here is not None
        candidates = [
            (end, ids[word[at:end]], scores[ids[word[at:end]]][1])
            for end in range(at + 1, len(word) + 1)
            if word[at:end] in ids
        ]
        if word[at] not in ids:
            candidates.append((at + 1, unk, penalty))
        for end, token, score in candidates:
            old = best[end]
            if old is None or here[0] + score > old[0]:
                best[end] = (here[0] + score, at, token)
    pieces: list[tuple[str, int]] = []
    end = len(word)
    while end:
        node = best[end]
        assert node is not None
        piece = word[node[1] : end]
        if node[2] == unk and pieces and pieces[-1][1] == unk:
            pieces[-1] = (piece + pieces[-1][0], unk)
        else:
            pieces.append((piece, node[2]))
        end = node[1]
    return [ids.get(piece, unk) if token == unk else token for piece, token in reversed(pieces)]


def remove_keywords(text: str, keywords: Sequence[str]) -> str:
    """Put a space for each keyword that cuts no word; leftmost first, of those the longest."""
    out, at = "", 0
    while at < len(text):
        found = ""
        for keyword in keywords:
            end = at + len(keyword)
            if text[at:end] != keyword or len(keyword) <= len(found):
                continue
            cuts = [re.fullmatch(r"\w\w", text[p - 1 : p + 1]) for p in (at, end) if 0 < p < len(text)]
            if not any(cuts):
                found = keyword
        out += " " if found else text[at]
        at += len(found) or 1
    return out
