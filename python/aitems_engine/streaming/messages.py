"""The message schema: one product in as JSON, one category record out as JSON; docs/streaming.md shows both.

Only `product_id`, `title` and `mall_category` are looked at: the other product fields may be absent or anything, and
decoding skips them. msgspec decodes 2.2 million messages per core-second here, so that a native decoder of our own
would not be felt beside scoring. The record is `Classification.json_records`.
"""

from __future__ import annotations

import msgspec

from aitems_engine.errors import InvalidInputError

# A title is a line of text; what is longer is a mistake of the sender, not a product name.
TITLE_CHARACTERS_MAX = 10_000
# The identifier is repeated in the record, which must not outgrow the output topic.
ID_CHARACTERS_MAX = 1_000


class Product(msgspec.Struct):
    """The fields of a product message that the classifier reads."""

    product_id: str | int
    title: str
    mall_category: str | None = None


_decoder = msgspec.json.Decoder(Product)
_decode = _decoder.decode


def decode_product(value: bytes | None, bytes_max: int) -> Product:
    """Return the product in `value`.

    Parameters
    ----------
    value : bytes or None
        The value of a Kafka message.
    bytes_max : int
        A longer message is refused before it is parsed.

    Raises
    ------
    InvalidInputError
        With the cause as it is written to the dead letters.
    """
    if value is None:
        raise InvalidInputError("the message has no value (a tombstone); expected a JSON object with 'title'")
    if len(value) > bytes_max:
        raise InvalidInputError(f"the message has {len(value)} bytes; at most {bytes_max} are read")
    try:
        product = _decode(value)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"the message does not fit the product schema: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the message is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidInputError("the message is nested too deeply") from None
    title = product.title
    if not title or title.isspace():
        raise InvalidInputError("the title is empty")
    if len(title) > TITLE_CHARACTERS_MAX:
        raise InvalidInputError(f"the title has {len(title)} characters; at most {TITLE_CHARACTERS_MAX} are read")
    product_id = product.product_id
    if isinstance(product_id, str):
        if len(product_id) > ID_CHARACTERS_MAX:
            raise InvalidInputError(
                f"the product_id has {len(product_id)} characters; at most {ID_CHARACTERS_MAX} are read"
            )
    elif not -(2**63) <= product_id < 2**63:
        raise InvalidInputError("the product_id is a number beyond 64 bits; send it as a string")
    if "\0" in title or (product.mall_category and "\0" in product.mall_category):
        raise InvalidInputError("the title or the mall category holds a NUL character")
    return product


def dead_letter_headers(cause: str, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    """Return the headers that say why a message was put aside and where it came from."""
    return [
        ("error", cause.encode("utf-8", "replace")),
        ("topic", topic.encode("utf-8", "replace")),
        ("partition", str(partition).encode()),
        ("offset", str(offset).encode()),
    ]
