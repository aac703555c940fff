"""The tokeniser facade: a Hugging Face `tokenizer.json` in, arrays of ids out. The work is native (csrc/text)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aitems_engine._native import text as native
from aitems_engine.errors import InvalidInputError, TokenizerFormatError
from aitems_engine.text import tokenizer_json
from aitems_engine.text.keywords import KeywordRules
from aitems_engine.text.packed import PackedText

MAX_LENGTH = 1 << 26
PAD_TOKENS = ("[PAD]", "<pad>", "<|padding|>", "<PAD>")


@dataclass(frozen=True)
class TokenBatch:
    """The ids of a batch of texts.

    Attributes
    ----------
    ids : int32 array
        Padded: shape (n, width), filled up with the tokeniser's `pad_id`. Ragged: shape (num_tokens,).
    lengths : int32 array, shape (n,)
        Tokens of each text.
    row_splits : int64 array, shape (n + 1,), or None
        Ragged form only: text i has ``ids[row_splits[i]:row_splits[i + 1]]``.
    offsets : int32 array, shape ids.shape + (2,), or None
        Where each token lies in its text, [begin, end) in code points; (0, 0) for padding and the template's tokens.
    normalized : PackedText or None
        The texts after the tokeniser's normaliser; added tokens stand as they were written.
    replaced : int
        Ill-formed UTF-8 sequences and lone surrogates that were read as U+FFFD, in the whole batch.
    """

    ids: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    row_splits: npt.NDArray[np.int64] | None
    offsets: npt.NDArray[np.int32] | None
    normalized: PackedText | None
    replaced: int

    def __len__(self) -> int:
        return len(self.lengths)


class Tokenizer:
    """A WordPiece, BPE or Unigram tokeniser that gives the same ids as the `tokenizers` package.

    Made by `from_file`, `from_str` or `aitems_engine.training.tokenizer.train_tokenizer`. Immutable; safe to use from
    many threads at once and after fork.
    """

    def __init__(self, file: tokenizer_json.TokenizerFile, *, isa: str = "") -> None:
        self._file = file
        self._native = native.Tokenizer(file.native, isa)
        pad = file.pad_id
        if pad is None:
            pad = next((file.vocab[token] for token in PAD_TOKENS if token in file.vocab), None)
        self.pad_id: int = 0 if pad is None else pad
        self._tokens: dict[int, str] | None = None
        self._edges: npt.NDArray[np.int32] | None = None

    @classmethod
    def from_str(cls, text: str | bytes, *, isa: str = "") -> Tokenizer:
        """Read the text of a Hugging Face `tokenizer.json`.

        Parameters
        ----------
        text : str or bytes
            JSON.
        isa : str
            Instruction-set level to run on; "" = the best one here (see `aitems doctor`).

        Raises
        ------
        TokenizerFormatError
            Damaged, or it names a component that is not supported; the message names it.
        """
        return cls(tokenizer_json.read(text), isa=isa)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, isa: str = "") -> Tokenizer:
        """Read a Hugging Face `tokenizer.json` file; see `from_str`."""
        data = Path(path).read_bytes()
        try:
            return cls.from_str(data, isa=isa)
        except TokenizerFormatError as error:
            raise TokenizerFormatError(f"{path}: {error}") from error

    def to_str(self) -> str:
        """Return the tokeniser as `tokenizer.json` text."""
        return json.dumps(self._file.document, ensure_ascii=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokeniser as a `tokenizer.json` file."""
        Path(path).write_text(self.to_str(), encoding="utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tokenizer.from_str, (self.to_str(),))

    def __repr__(self) -> str:
        return f"Tokenizer({self.model}, {self.vocab_size} tokens)"

    @property
    def native_parts(self) -> dict[str, Any]:
        """What the native tokeniser is made of; see `_native.text.Tokenizer`."""
        return self._file.native

    @property
    def model(self) -> str:
        """The kind of model: WordPiece, BPE or Unigram."""
        return self._file.model

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, so that a table with a row for each id has this many rows."""
        return max(self._file.vocab.values(), default=-1) + 1

    @property
    def unk_id(self) -> int | None:
        """The id of the unknown token, or None where the model has none."""
        return None if self._file.unk_id < 0 else self._file.unk_id

    @property
    def isa(self) -> str:
        """The instruction-set level this tokeniser runs on."""
        return self._native.isa

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token, None where it is not in the vocabulary."""
        return self._file.vocab.get(token)

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token of an id, None where there is none."""
        if self._tokens is None:
            self._tokens = {value: token for token, value in self._file.vocab.items()}
        return self._tokens.get(token_id)

    def encode_batch(
        self,
        texts: Sequence[str | bytes | None] | PackedText | Any,
        *,
        max_length: int | None = None,
        pad_to: int | None = None,
        ragged: bool = False,
        offsets: bool = False,
        normalized: bool = False,
        add_special_tokens: bool = True,
        keywords: KeywordRules | None = None,
        categories: Sequence[str | None] | None = None,
        threads: int = 1,
    ) -> TokenBatch:
        """Return the ids of many texts.

        Parameters
        ----------
        texts : sequence of str, bytes or None; PackedText; or an Arrow string array
            None and nulls are empty texts. Bytes are UTF-8; ill-formed sequences and lone surrogates are read as
            U+FFFD. Arrow arrays (pyarrow `Array` or `ChunkedArray`: string, large_string, binary, large_binary) are
            read in place.
        max_length : int >= 0
            Longer texts are cut to so many tokens, the template's included. None = what the file says, else no limit.
        pad_to : int >= 0
            Width of the padded form. None = what the file says, else the longest text of the batch.
        ragged : bool
            Ids one after the other with `row_splits` instead of a padded matrix.
        offsets : bool
            Where each token lies in its text; takes the exact path, about ten times slower.
        normalized : bool
            Also return the normalised texts (cheap: they were made anyway).
        add_special_tokens : bool
            Apply the template (post-processor) of the file.
        keywords : KeywordRules or None
            Keywords to take out of the normalised texts; made for this tokeniser.
        categories : sequence of str or None
            The category of each text, None = unknown. Needs `keywords`; without it only the rules of "*" apply.
        threads : int
            0 = all cores.

        Returns
        -------
        TokenBatch

        Raises
        ------
        InvalidInputError
            Wrong type or range; the message says where.

        Notes
        -----
        Equal ids for equal text on every instruction-set level and number of threads. The GIL is released.
        """
        if max_length is None:
            max_length = self._file.max_length
        if pad_to is None:
            pad_to = self._file.pad_to
        for name, value in (("max_length", max_length), ("pad_to", pad_to), ("threads", threads)):
            if value is not None and not (isinstance(value, int | np.integer) and 0 <= value < MAX_LENGTH):
                raise InvalidInputError(f"{name} must be a whole number from 0 to {MAX_LENGTH - 1}, got {value!r}")
        if categories is not None and keywords is None:
            raise InvalidInputError("categories are of no use without keywords")
        data, splits = (texts.data, texts.offsets) if isinstance(texts, PackedText) else (texts, None)
        ids, lengths, spans, data, splits, replaced = self._native.encode(
            data,
            splits,
            max_length=-1 if max_length is None else max_length,
            pad_to=-1 if pad_to is None else pad_to,
            pad_id=self.pad_id,
            ragged=bool(ragged),
            offsets=bool(offsets),
            normalized=bool(normalized),
            add_special=bool(add_special_tokens),
            threads=threads,
            keywords=None if keywords is None else keywords._native,
            categories=None if keywords is None or categories is None else keywords.codes(categories),
        )
        row_splits = lengths if ragged else None
        if offsets and self._file.template.trim is not None:
            self._trim_offsets(ids, spans, row_splits, add_special_tokens)
        return TokenBatch(
            ids=ids,
            lengths=np.diff(lengths).astype(np.int32) if ragged else lengths,
            row_splits=row_splits,
            offsets=spans,
            normalized=PackedText(data, splits) if normalized else None,
            replaced=replaced,
        )

    def _trim_offsets(self, ids: Any, spans: Any, row_splits: Any, template: bool) -> None:
        """Leave blanks at the edges of byte-level tokens out of their offsets, in place, as the reference does."""
        if self._edges is None:
            self._edges = np.zeros((2, max(self.vocab_size, self.pad_id + 1)), np.int32)
            for token, token_id in self._file.vocab.items():
                blank = [c == "\u0120" or c.isspace() for c in token]
                self._edges[:, token_id] = [
                    (*b, False).index(False) if not all(b) else len(b) for b in (blank, blank[::-1])
                ]
        lead, trail = self._edges[0][ids], self._edges[1][ids]
        if self._file.template.trim:
            first = spans[..., 0] == 0
            begin = len(self._file.template.before) if template else 0
            if row_splits is None:
                first[:, begin : begin + 1] = True
            else:
                at = row_splits[:-1] + begin
                first[at[at < row_splits[1:]]] = True
            lead[first & (lead == 1)] = 0
        starts, ends = spans[..., 0], spans[..., 1]
        starts[...] = np.minimum(starts + lead, ends)
        ends[...] = np.where((trail > 0) & (ends >= trail), np.maximum(ends - trail, starts), ends)
