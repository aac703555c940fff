from typing import Any

class Tokenizer:
    def __init__(self, spec: dict[str, Any], isa: str = "") -> None: ...
    @property
    def isa(self) -> str: ...
    def encode(
        self,
        texts: Any,
        packed_offsets: Any,
        max_length: int,
        pad_to: int,
        pad_id: int,
        ragged: bool,
        offsets: bool,
        normalized: bool,
        add_special: bool,
        threads: int,
        keywords: KeywordRules | None,
        categories: Any,
    ) -> tuple[Any, Any, Any, Any, Any, int]: ...

class KeywordRules:
    def __init__(self, tokenizer: Tokenizer, rules: list[tuple[str, list[int]]]) -> None: ...
