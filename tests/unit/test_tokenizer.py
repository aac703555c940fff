"""The tokeniser facade: shapes, inputs, bounds, errors. Ids are checked in test_tokenizer_reference.py."""

from __future__ import annotations

import numpy as np
import pytest

from aitems_engine.errors import InvalidInputError
from aitems_engine.text import PackedText, Tokenizer
from aitems_engine.training.tokenizer import MODELS, train_tokenizer

pytestmark = pytest.mark.native
TEXTS = ["게이밍 마우스 G502 블랙", "Gaming Mouse ＢＬＡＣＫ 1000x400", "", "usb-c 케이블 2m", "①②③ ½ ﬁne café"]


@pytest.fixture(scope="module", params=MODELS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS * 5, model=request.param, vocab_size=400)


def test_padded_and_ragged_hold_the_same_ids(tokenizer: Tokenizer) -> None:
    padded = tokenizer.encode_batch(TEXTS)
    ragged = tokenizer.encode_batch(TEXTS, ragged=True)
    assert padded.ids.dtype == padded.lengths.dtype == ragged.ids.dtype == np.int32
    assert padded.ids.shape == (len(TEXTS), padded.lengths.max())
    assert ragged.row_splits is not None
    for i, length in enumerate(padded.lengths):
        row = ragged.ids[ragged.row_splits[i] : ragged.row_splits[i + 1]]
        assert padded.ids[i, :length].tolist() == row.tolist()
        assert (padded.ids[i, length:] == tokenizer.pad_id).all()
    assert padded.lengths[2] == 0
    assert ragged.lengths.tolist() == padded.lengths.tolist()


def test_max_length_cuts_and_pad_to_widens(tokenizer: Tokenizer) -> None:
    full = tokenizer.encode_batch(TEXTS)
    cut = tokenizer.encode_batch(TEXTS, max_length=3, pad_to=5)
    assert cut.ids.shape == (len(TEXTS), 5)
    assert cut.lengths.tolist() == np.minimum(full.lengths, 3).tolist()
    assert (cut.ids[:, :3] == full.ids[:, :3]).all()


def test_every_kind_of_input_gives_the_same(tokenizer: Tokenizer) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    expected = tokenizer.encode_batch(TEXTS).ids
    packed = PackedText.from_texts(TEXTS)
    inputs = [
        tuple(TEXTS),
        [t.encode() for t in TEXTS],
        [t or None for t in TEXTS],
        packed,
        pyarrow.array([t or None for t in TEXTS]),
        pyarrow.array(["x", *TEXTS], pyarrow.large_string())[1:],
        pyarrow.chunked_array([TEXTS[:2], TEXTS[2:]]),
    ]
    for texts in inputs:
        assert tokenizer.encode_batch(texts).ids.tolist() == expected.tolist()


def test_normalized_text_is_what_the_model_saw() -> None:
    tokenizer = train_tokenizer(TEXTS * 5, vocab_size=400)
    normalized = tokenizer.encode_batch(TEXTS, normalized=True).normalized
    assert normalized is not None
    assert normalized.to_list()[1] == "gaming mouse black 1000x400"
    assert len(normalized) == len(TEXTS)


@pytest.mark.parametrize("texts", ["one", b"one", 3, [1], ["a", 2.0]])
def test_wrong_input_is_refused(tokenizer: Tokenizer, texts: object) -> None:
    with pytest.raises(InvalidInputError, match="texts must"):
        tokenizer.encode_batch(texts)


def test_ill_formed_text_is_replaced_and_counted(tokenizer: Tokenizer) -> None:
    bad = tokenizer.encode_batch([b"a\xffb", b"\xed\xa0\x80", "a\udc80b", b"ok \xe2\x82"])
    good = tokenizer.encode_batch(["a\ufffdb", "\ufffd\ufffd\ufffd", "a\ufffdb", "ok \ufffd"])
    assert bad.ids.tolist() == good.ids.tolist()
    assert (bad.replaced, good.replaced) == (6, 0)


def test_round_trip_through_text_and_file(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.to_str() == tokenizer.to_str()
    assert again.encode_batch(TEXTS).ids.tolist() == tokenizer.encode_batch(TEXTS).ids.tolist()
    assert again.vocab_size == tokenizer.vocab_size
    assert again.id_to_token(again.token_to_id("[PAD]")) == "[PAD]"
