"""Product files: what is read, what is refused with file, row and column, and memory that stays bounded."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitems_engine.catalog import products as products_module
from aitems_engine.catalog.columns import parse_column_options
from aitems_engine.catalog.products import Products, iter_products, read_products, write_products
from aitems_engine.catalog.table_writer import TableWriter
from aitems_engine.catalog.tables import MAX_FIELD_CHARS, MAX_LINE_BYTES, iter_table
from aitems_engine.errors import AitemsError, DataError, InvalidInputError

TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def put(tmp_path: Path, name: str, data: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def sample() -> Products:
    return Products.from_columns(
        ['나이키 에어맥스, 270 "한정"', "", '24" monitor'],
        product_id=["a", "b", "c"],
        mall_id=["m1", None, "m2"],
        mall_category=["패션 > 신발", None, None],
        category=["shoes", "etc", None],
        price=[129000.0, math.nan, 0.5],
        image=[None, "http://x/y.jpg", None],
        registered_at=[1_700_000_000_123, -1, 253_402_300_799_999],
    )


def same(a: Products, b: Products) -> None:
    assert a.product_id == b.product_id
    assert a.title == b.title
    assert (a.mall_id, a.mall_category, a.category, a.image) == (b.mall_id, b.mall_category, b.category, b.image)
    np.testing.assert_array_equal(a.price, b.price)
    np.testing.assert_array_equal(a.registered_at, b.registered_at)


@pytest.mark.parametrize("suffix", [*TEXT_FORMATS, ".parquet"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    write_products(path, sample())
    same(read_products(path), sample())
    same(Products.concatenate(list(iter_products(path, batch_size=2))), sample())
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("id,name,category,last_price_krw", {"product_id", "title", "category", "price"}),
        ("상품번호,상품명,카테고리,판매가,등록일", {"product_id", "title", "category", "price", "registered_at"}),
        ("Product ID,Product-Name,MALL_CATEGORY", {"product_id", "title", "mall_category"}),
        ("title,name", {"title"}),
    ],
)
def test_column_names_are_guessed(tmp_path: Path, header: str, fields: set[str]) -> None:
    found = products_module.match_columns(header.split(","), None, ("title",), "x")
    assert set(found) == fields


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "name,sub_category,text\nx,Air Conditioners,real title\n")
    p = read_products(path, columns={"title": "text", "category": "sub_category"}, require=("title", "category"))
    assert p.title == ["real title"]
    assert p.category == ["Air Conditioners"]
    assert p.product_id == ["1"]
    with pytest.raises(
        DataError, match=r"no column 'sub_categroy' for field 'category'; found .*; closest: 'sub_category'"
    ):
        read_products(path, columns={"category": "sub_categroy"})
    with pytest.raises(DataError, match="no column for field 'title'; found 'sub_category', 'text'"):
        read_products(put(tmp_path, "q.csv", "name,sub_category,text\na,b,c\n"), columns={"category": "name"})
    with pytest.raises(InvalidInputError, match="no field 'titel'; fields are product_id, title"):
        read_products(path, columns={"titel": "name"})


def test_missing_required_column_lists_what_was_found(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "product_idx,titel_ko,x\n1,2,3\n")
    with pytest.raises(DataError) as caught:
        read_products(path)
    message = str(caught.value)
    assert "p.csv: no column for field 'title'; found 'product_idx', 'titel_ko', 'x'" in message
    assert "'titel_ko'" in message.split("closest:")[1]
    assert "--column title=COLUMN" in message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"", "p.csv: the file is empty"),
        ("p.csv", "title\n", "p.csv: the file has no product"),
        ("p.jsonl", "\n\n", "p.jsonl: no column for field 'title'"),
        ("p.csv", "title,price\na,1\nb,twelve\n", "p.csv, line 3, column 'price': 'twelve' is not a price"),
        ("p.csv", "title,price\na,nan\n", "line 2, column 'price': 'nan' is not a price"),
        ("p.csv", "title,price\na,inf\n", "line 2, column 'price': 'inf' is not a price"),
        ("p.csv", "title,price\na,-5\n", "line 2, column 'price': '-5' is not a price"),
        ("p.csv", "title,price\na," + "9" * 40 + "\n", "is not a price between 0 and 1e+15"),
        ("p.jsonl", '{"title":"a","price":NaN}\n', "line 1: not a JSON object: NaN is not a JSON value"),
        ("p.jsonl", '{"title":"a","price":1e999}\n', "line 1, column 'price': inf is not a price"),
        ("p.jsonl", '{"title":"a","price":true}\n', "line 1, column 'price': must be a number, got bool"),
        ("p.jsonl", '{"title":"a"}\n{"title":5}\n', "line 2, column 'title': must be text, got int 5"),
        ("p.jsonl", '{"title":["a"]}\n', "line 1, column 'title': must be text, got list"),
        ("p.jsonl", '{"title":"\\ud800"}\n', "line 1, column 'title': holds a lone surrogate"),
        ("p.jsonl", '{"title":"a","product_id":1.5}\n', "column 'product_id': must be text, got float"),
        ("p.jsonl", '{"title":"a"}\n[1]\n', "line 2: must be a JSON object, got list"),
        ("p.jsonl", '{"title":"a"\n', "line 1: not a JSON object"),
        ("p.jsonl", '{"title":"a","title":"b"}\n', "key 'title' appears twice"),
        ("p.jsonl", '{"title":' + "[" * 200_000 + "\n", "line 1:"),
        ("p.jsonl", '{"title":"a","price":' + "1" * 5000 + "}\n", "line 1"),
        ("p.csv", "title,price\na,1\nb\n", "line 3: 1 fields, but the header has 2: title, price"),
        ("p.csv", "title,title\na,b\n", "line 1: column 'title' appears more than once"),
        ("p.csv", 'title,price\n"a,1\nb,2\n', "is a quotation mark left open, or escaped by a backslash"),
        ("p.csv", "title\n" + "x" * (MAX_FIELD_CHARS + 1) + "\n", "line 2: field larger than field limit"),
        ("p.csv", b"title\n" + b"x" * (MAX_LINE_BYTES + 1), "line 2: the line is longer than"),
        ("p.jsonl", '{"title":"' + "x" * (MAX_FIELD_CHARS + 1) + '"}', "line 1, column 'title': 131073 characters"),
        ("p.csv", b"title\nok\n\xec\xa0\n", "line 3: not UTF-8 (byte 0xec at 0)"),
        ("p.csv", "title\n나이키\n".encode("cp949"), "line 2: not UTF-8 (byte 0xb3 at 0); it may be cp949"),
        ("p.csv", "title\nx\n".encode("utf-16"), "line 1: not UTF-8 (byte 0xff at 0)"),
        ("p.csv", "id,title\n1,a\n2,b\n1,c\n", "column 'product_id': '1' stands in product 1 and again in product 3"),
        ("p.csv", "id,title\n1,a\n,b\n", "line 3, column 'id': is empty"),
        ("p.csv", "title,registered_at\na,tomorrow\n", "column 'registered_at': 'tomorrow' is neither"),
        ("p.csv", "title,registered_at\na,-7\n", "column 'registered_at': -7 is not a time between 1970 and 9999"),
        ("p.jsonl", '{"title":"a","registered_at":[]}\n', "column 'registered_at': must be a whole number"),
        ("p.csv.gz", b"title\n", "p.csv.gz, line 1: the gzip file is damaged"),
        ("p.csv.gz", gzip.compress(b"title\n" + bytes(range(32, 127)) * 50)[:-20], "the gzip file ends too early"),
        ("p.parquet", b"PAR1 nonsense PAR1", "p.parquet, after row 0: damaged or truncated Parquet"),
    ],
)  # fmt: skip
def test_refuses_with_file_row_and_column(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_products(put(tmp_path, name, data))
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)


def test_duplicate_ids_may_be_kept_or_left_out(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "id,title\n1,a\n2,b\n1,c\n1,d\n")
    with pytest.raises(DataError, match=r"\(2 such rows in all\).* duplicate_ids='first' .* leaves the later ones out"):
        read_products(path)
    assert read_products(path, duplicate_ids="first").title == ["a", "b"]
    assert read_products(path, duplicate_ids="keep").title == ["a", "b", "c", "d"]
    with pytest.raises(InvalidInputError, match="duplicate_ids must be"):
        read_products(path, duplicate_ids="last")


def test_csv_with_backslashes(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", 'title,price\n"3.125\\" fan",1\n"a ""b""",2\n')
    with pytest.raises(DataError, match=r"line 2: ',' expected after '\"'; is a quotation mark .* --csv-escape"):
        read_products(path)
    assert read_products(path, csv_escape="\\").title == ['3.125" fan', 'a "b"']
    with pytest.raises(InvalidInputError, match="csv_escape must be one character"):
        read_products(path, csv_escape="ab")


def test_required_values_may_not_be_empty(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "title,category,price\na,x,1\n,y,2\nc, ,3\n")
    assert read_products(path).title == ["a", "", "c"]
    with pytest.raises(DataError, match="line 4, column 'category': is empty"):
        read_products(path, require=("title", "category"))


def test_suffixes(tmp_path: Path) -> None:
    for name in ("p.xlsx", "p", "p.parquet.gz", "p.csv.zip"):
        with pytest.raises(InvalidInputError, match="must end with"):
            read_products(put(tmp_path, name, "title\na\n"))
    with pytest.raises(FileNotFoundError):
        read_products(tmp_path / "nothing.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        read_products(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1000", 1000.0), ("₩32,999", 32999.0), ("12,900원", 12900.0), (" 3.50 ", 3.5), ("0", 0.0), ("", math.nan),
     ("KRW 5000", 5000.0), ("1,234,567.8", 1234567.8), ("1.0E5", 100000.0),
     ("₹1,10,990", 110990.0)],
)  # fmt: skip
def test_prices(tmp_path: Path, text: str, value: float) -> None:
    p = read_products(put(tmp_path, "p.csv", f'title,price\na,"{text}"\n'))
    np.testing.assert_array_equal(p.price, [value])


@pytest.mark.parametrize("text", ["1,2", "1,2345", "1.2.3", "٣", "1e", "0x10", "1 000", "--", "₩"])
def test_ambiguous_prices_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="is not a price"):
        read_products(put(tmp_path, "p.csv", f'title,price\na,"{text}"\n'))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1700000000123", 1700000000123), ("1700000000", 1700000000000), ("2023-11-14T22:13:20Z", 1700000000000),
     ("2023-11-15T07:13:20+09:00", 1700000000000), ("2023-11-14", 1699920000000), ("", -1), ("-1", -1)],
)  # fmt: skip
def test_times(tmp_path: Path, text: str, value: int) -> None:
    p = read_products(put(tmp_path, "p.csv", f"title,registered_at\na,{text}\n"))
    assert p.registered_at.tolist() == [value]


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    p = read_products(put(tmp_path, "p.csv", b'\xef\xbb\xbftitle,price\r\n"two\r\nlines",1\r\n\r\nb,2\r\n'))
    assert p.title == ["two\r\nlines", "b"]


def test_error_after_a_field_of_two_lines_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 5, column 'price'"):
        read_products(put(tmp_path, "p.csv", 'title,price\n"two\nlines",1\nb,2\nc,x\n'))


def test_jsonl_rows_may_have_different_keys(tmp_path: Path) -> None:
    p = read_products(
        put(tmp_path, "p.jsonl", '{"title":"a","product_id":7}\n{"product_id":"8","price":3,"extra":{}}\n')
    )
    assert p.product_id == ["7", "8"]
    assert p.title == ["a", ""]
    np.testing.assert_array_equal(p.price, [math.nan, 3.0])


def test_parquet_types_and_damage(tmp_path: Path) -> None:
    from datetime import datetime, timezone
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.parquet"
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int32()),
            "title": pa.array(["a", "나", None]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None, Decimal("3.00")], pa.decimal128(10, 2)),
            "registered_at": pa.array([datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc), None, None]),
            "vector": pa.array([[1.0], [2.0], [3.0]]),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    p = read_products(path)
    assert p.product_id == ["1", "2", "3"]
    assert p.title == ["a", "나", ""]
    np.testing.assert_array_equal(p.price, [1.5, math.nan, 3.0])
    assert p.registered_at.tolist() == [1_700_000_000_000, -1, -1]
    data = path.read_bytes()
    for size in (4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match="damaged or truncated Parquet"):
            read_products(path)
    nan = pa.table({"title": ["a", "b"], "price": [1.0, math.nan]})
    pq.write_table(nan, path)
    with pytest.raises(DataError, match=r"p\.parquet, row 2, column 'price': nan is not a price"):
        read_products(path)
    offsets = pa.py_buffer(np.array([0, 2, 3], np.int32))
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ok\xff")])
    pq.write_table(pa.table({"title": bad}), path)
    with pytest.raises(DataError, match=r"p\.parquet, row 2, column 'title': not UTF-8"):
        read_products(path)


def test_batches_keep_numbering(tmp_path: Path) -> None:
    path = put(tmp_path, "p.csv", "title\n" + "".join(f"t{i}\n" for i in range(10)))
    parts = list(iter_products(path, batch_size=4))
    assert [len(p) for p in parts] == [4, 4, 2]
    assert parts[2].product_id == ["9", "10"]
    assert [len(p) for p in iter_products(path, batch_size=5)] == [5, 5]
    with pytest.raises(InvalidInputError, match="batch_size must be at least 1"):
        list(iter_products(path, batch_size=0))


def test_lines_are_not_read_ahead_of_the_batch(tmp_path: Path) -> None:
    """A damaged row behind the first batches is only noticed when it is reached: nothing is read whole."""
    path = put(tmp_path, "p.csv", "title\n" + "ok\n" * 5000 + "too,many\n")
    batches = iter_products(path, batch_size=10)
    assert len(next(batches)) == 10
    with pytest.raises(DataError, match="line 5002"):
        list(batches)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.csv.gz", "x.parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(b"title,price\n" + data if name in ("x.csv", "x.tsv") else data)
    try:
        products = read_products(path)
    except AitemsError as error:
        _ = error if name in str(error) else pytest.fail(f"does not name the file: {error}")
    else:
        assert len(products) > 0
        for title in products.title:
            title.encode()


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(TEXT, st.none() | st.floats(0, 1e15), st.none() | st.integers(10**11, 253402300799999)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([".csv", ".jsonl", ".parquet"]),
)
def test_whatever_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float | None, int | None]], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("rt") / f"p{suffix}"
    products = Products.from_columns(
        [r[0] for r in rows],
        price=[math.nan if r[1] is None else r[1] for r in rows],
        registered_at=[-1 if r[2] is None else r[2] for r in rows],
    )
    write_products(path, products)
    again = read_products(path)
    assert again.title == products.title
    np.testing.assert_array_equal(again.registered_at, products.registered_at)
    np.testing.assert_array_equal(again.price, products.price)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=8))
def test_csv_cells_equal_the_csv_module(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["a", "b"], *rows])
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    expected = list(csv.reader(io.StringIO(text.getvalue(), newline="")))[1:]
    batches = list(iter_table(path, 3))
    ours = [list(cells) for b in batches for cells in zip(*b.columns.values(), strict=True)]
    assert ours == [cells for cells in expected if cells]


def test_writer_is_atomic(tmp_path: Path) -> None:
    path = put(tmp_path, "out.jsonl", "old\n")
    with pytest.raises(ValueError, match="not JSON compliant"), TableWriter(path) as writer:
        writer.write({"a": [1.0, math.nan]})
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
    with TableWriter(path) as writer:
        writer.write({"a": [1, 2], "b": [[{"x": "한"}], []]})
        writer.write({"a": [3], "b": [None]})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"a": 1, "b": [{"x": "한"}]}, {"a": 2, "b": []}, {"a": 3, "b": None},
    ]  # fmt: skip


def test_tsv_cannot_hold_tabs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.tsv, row 2: TSV cannot hold a tab or line break"):
        write_products(tmp_path / "p.tsv", Products.from_columns(["a", "b\tc"]))
    assert not list(tmp_path.iterdir())


def test_take_and_lengths() -> None:
    p = sample().take([2, 0])
    assert p.product_id == ["c", "a"]
    assert p.price.tolist() == [0.5, 129000.0]
    with pytest.raises(InvalidInputError, match="columns must have one length"):
        Products.from_columns(["a"], product_id=["1", "2"])


@pytest.mark.parametrize("option", ["title", "titel=x", "title=", "=x"])
def test_column_options(option: str) -> None:
    with pytest.raises(InvalidInputError, match="--column must be FIELD=NAME"):
        parse_column_options([option])
    assert parse_column_options(["title=a=b", "price=p"]) == {"title": "a=b", "price": "p"}
    with pytest.raises(InvalidInputError, match="twice"):
        parse_column_options(["title=a", "title=b"])
