"""Keywords that are taken out of texts depending on a category ("this word misleads in that category").

Training and serving apply them in the same native code, inside `Tokenizer.encode_batch`, after the normaliser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aitems_engine._native import text as native
from aitems_engine.errors import InvalidInputError

if TYPE_CHECKING:
    from aitems_engine.text.tokenizer import Tokenizer

EVERY = "*"  # the category of rules that apply to every text
MAX_RULES = 1 << 20


class KeywordRules:
    """A compiled set of keywords a category, for one tokeniser.

    Parameters
    ----------
    tokenizer : Tokenizer
        Keywords are normalised as its texts are.
    keywords : mapping of str to sequence of str
        Category -> keywords; the category "*" holds for every text.

    Raises
    ------
    InvalidInputError
        A keyword that is nothing after normalisation, or more than 2**20 keywords.

    Notes
    -----
    A keyword is replaced by one space where it does not cut a word: no word character (letter, digit, mark or "_") on
    both sides of either of its edges. Leftmost first, of those the longest. Immutable and safe for many threads.
    """

    def __init__(self, tokenizer: Tokenizer, keywords: Mapping[str, Sequence[str]]) -> None:
        self._codes = {category: code for code, category in enumerate(sorted(set(keywords) - {EVERY}))}
        rules = [
            (word, [] if category == EVERY else [self._codes[category]])
            for category, words in keywords.items()
            for word in ([words] if isinstance(words, str) else words)
        ]
        if len(rules) > MAX_RULES:
            raise InvalidInputError(f"keywords must be at most {MAX_RULES}, got {len(rules)}")
        self._native = native.KeywordRules(tokenizer._native, rules)

    def codes(self, categories: Sequence[str | None]) -> npt.NDArray[np.int32]:
        """Return the native code of each category, -1 where no rule names it."""
        get = self._codes.get
        return np.fromiter((-1 if c is None else get(c, -1) for c in categories), np.int32, len(categories))
