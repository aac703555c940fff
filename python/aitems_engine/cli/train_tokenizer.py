"""Train a tokeniser on the titles (and mall categories) of a product file and write it as `tokenizer.json`.

The text is read in batches; titles pass through NFKC and lower case. The file that results is in the Hugging Face
format and opens in `aitems_engine.text.Tokenizer` and in the `tokenizers` package, with the same ids.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from aitems_engine.catalog import iter_products
from aitems_engine.catalog.columns import parse_column_options
from aitems_engine.errors import InvalidInputError, require_extra

EXAMPLES = """  aitems train tokenizer --products shop/products.parquet --out tokenizer.json
  aitems train tokenizer --products titles.tsv --column title=name --vocab-size 32000 --model unigram --out uni.json
  aitems train tokenizer --texts titles.txt --model byte_bpe --out tokenizer.json      # one text a line
"""


def configure(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--products", type=Path, help="product file: CSV, TSV, JSONL (also .gz) or Parquet")
    source.add_argument("--texts", type=Path, help="text file, one text a line")
    parser.add_argument("--out", required=True, type=Path, help="tokenizer.json to write")
    # the names are those of training.tokenizer.MODELS, which is not imported for --help
    parser.add_argument("--model", choices=("wordpiece", "bpe", "byte_bpe", "unigram"), default="wordpiece")
    parser.add_argument("--vocab-size", type=int, default=20_000, help="tokens at most (default 20000)")
    parser.add_argument("--min-frequency", type=int, default=2, help="pairs seen less often stay apart (default 2)")
    parser.add_argument("--strip-accents", action="store_true", help="also drop accents")
    parser.add_argument("--column", action="append", default=[], metavar="FIELD=NAME", help="where no name is guessed")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def texts(args: argparse.Namespace) -> Iterator[str]:
    """Yield every title and mall category, or every line."""
    if args.texts:
        with args.texts.open(encoding="utf-8", errors="replace") as file:
            yield from (line.rstrip("\r\n") for line in file)
        return
    for products in iter_products(args.products, columns=parse_column_options(args.column)):
        yield from products.title
        yield from (path for path in products.mall_category or () if path)


def run(args: argparse.Namespace) -> None:
    if not args.out.parent.is_dir():
        raise InvalidInputError(f"--out: the directory '{args.out.parent}' does not exist")
    require_extra("train", "tqdm")
    from tqdm import tqdm

    from aitems_engine.training.tokenizer import train_tokenizer

    started = time.perf_counter()
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for text in tqdm(texts(args), unit=" texts", desc="reading", disable=args.quiet):
            count += 1
            yield text

    tokenizer = train_tokenizer(
        counted(),
        model=args.model,
        vocab_size=args.vocab_size,
        min_frequency=args.min_frequency,
        strip_accents=args.strip_accents,
        progress=not args.quiet,
    )
    partial = args.out.with_name(args.out.name + ".partial")
    tokenizer.save(partial)
    partial.replace(args.out)
    print(
        f"{args.out}: {tokenizer.model}, {tokenizer.vocab_size} tokens, {count} texts, "
        f"{time.perf_counter() - started:.1f} s"
    )
