"""Which column of a file is which field of a product: mapped by the user, otherwise guessed from usual names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aitems_engine.errors import DataError, InvalidInputError

# Field -> column names, best first; compared in lower case with everything but letters and digits dropped.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "product_id": (
        "product_id", "id", "item_id", "goods_id", "sku", "pid", "nv_mid", "upc", "product_no", "상품번호",
        "상품id",
    ),
    "title": (
        "title", "product_name", "name", "product_title", "item_name", "goods_name", "상품명", "제목",
        "상품이름",
    ),
    "mall_id": (
        "mall_id", "mall", "mall_name", "seller_id", "seller", "shop_id", "store_id", "몰id", "쇼핑몰",
        "판매자",
    ),
    "mall_category": (
        "mall_category", "mall_category_path", "seller_category", "mall_category_name", "category_path",
        "몰카테고리",
    ),
    "category": (
        "category", "category_id", "leaf_id", "leaf", "label", "cat_id", "카테고리", "카테고리id", "분류",
    ),
    "price": (
        "price", "sale_price", "last_price", "last_price_krw", "price_krw", "amount", "discount_price", "가격",
        "판매가",
    ),
    "image": (
        "image", "image_url", "image_path", "img", "img_url", "picture", "thumbnail", "이미지", "이미지url",
    ),
    "registered_at": (
        "registered_at", "created_at", "reg_date", "registration_date", "timestamp", "date", "등록일",
        "등록일시",
    ),
}  # fmt: skip


def simplified(name: str) -> str:
    """Return a column name in lower case without anything but letters and digits."""
    return re.sub(r"[\W_]+", "", name.lower())


def match_columns(
    found: Sequence[str],
    mapping: Mapping[str, str] | None,
    require: Sequence[str],
    source: str,
    synonyms: Mapping[str, Sequence[str]] = SYNONYMS,
) -> dict[str, str]:
    """Return field -> column of the file.

    Parameters
    ----------
    found : sequence of str
        Column names of the file.
    mapping : mapping of field to column, optional
        What the user said; it wins over guesses.
    require : sequence of str
        Fields that must be there.
    source : str
        Name of the file, for messages.
    synonyms : mapping of field to column names, best first
        Default: the fields of a product.

    Raises
    ------
    InvalidInputError
        `mapping` or `require` names an unknown field.
    DataError
        A mapped or required column is missing; lists what was found and the closest names.
    """
    for field in [*(mapping or {}), *require]:
        if field not in synonyms:
            raise InvalidInputError(f"no field '{field}'; fields are {', '.join(synonyms)}")
    duplicates = sorted({c for c in found if list(found).count(c) > 1})
    if duplicates:
        raise DataError(f"{source}: column '{duplicates[0]}' appears more than once")
    result: dict[str, str] = {}
    for field, column in (mapping or {}).items():
        if column not in found:
            raise DataError(f"{source}: no column '{column}' for field '{field}'; {_nearest(column, found, synonyms)}")
        result[field] = column
    by_simple: dict[str, str] = {}
    for column in found:
        by_simple.setdefault(simplified(column), column)
    taken = set(result.values())
    for field, names in synonyms.items():
        if field in result:
            continue
        for name in names:
            column = by_simple.get(simplified(name), "")
            if column and column not in taken:
                result[field] = column
                taken.add(column)
                break
    for field in require:
        if field not in result:
            free = [column for column in found if column not in taken]
            raise DataError(
                f"{source}: no column for field '{field}'; {_nearest(field, free, synonyms)}. "
                f"Map one with columns={{'{field}': 'COLUMN'}} or --column {field}=COLUMN"
            )
    return result


def _nearest(name: str, found: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> str:
    from difflib import get_close_matches  # only for messages: 5 ms of import time

    simple = {simplified(c): c for c in found}
    wanted = [name, *synonyms.get(name, ())]
    close = [simple[m] for w in wanted for m in get_close_matches(simplified(w), list(simple), n=2, cutoff=0.6)]
    shown = ", ".join(f"'{c[:60]}'" for c in list(found)[:30]) or "none"
    guess = f"; closest: {', '.join(repr(c) for c in dict.fromkeys(close))}" if close else ""
    return f"found {shown}{guess}"


def parse_column_options(
    options: Sequence[str], synonyms: Mapping[str, Sequence[str]] = SYNONYMS, example: str = "title=product_name"
) -> dict[str, str]:
    """Return the mapping of `--column FIELD=NAME` options.

    Raises
    ------
    InvalidInputError
        Not of that form, or an unknown or repeated field.
    """
    mapping: dict[str, str] = {}
    for option in options:
        field, equals, column = option.partition("=")
        if not equals or not column or field not in synonyms:
            raise InvalidInputError(
                f"--column must be FIELD=NAME with FIELD one of {', '.join(synonyms)}, got '{option}'; "
                f"example: --column {example}"
            )
        if field in mapping:
            raise InvalidInputError(f"--column names '{field}' twice")
        mapping[field] = column
    return mapping
