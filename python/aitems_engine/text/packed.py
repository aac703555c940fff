"""Many texts in two arrays, as the native core reads and writes them: no Python object a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PackedText:
    """UTF-8 texts laid end to end.

    Attributes
    ----------
    data : uint8 array, shape (num_bytes,)
    offsets : int64 array, shape (num_texts + 1,)
        Text i is ``data[offsets[i]:offsets[i + 1]]``.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> PackedText:
        """Pack texts; lone surrogates become U+FFFD."""
        parts = [text.encode("utf-8", "replace") if text.isascii() else _encode(text) for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "replace")

    def to_list(self) -> list[str]:
        """Return the texts as `str`."""
        return [self[i] for i in range(len(self))]


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in text).encode()
