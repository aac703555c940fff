"""Tokenisers against their peers: `list[str]` to padded int32 ids, processor time of one core, ids checked.

Every timed call of every tokeniser gets new `str` objects, as titles from a message or a file are: what a peer leaves
in a string (its UTF-8) is not there yet. Peers run interleaved with us in one process; the release candidate of
`tokenizers` has the same name as the release, so that it runs in a worker process of its own.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")

import numpy as np
import pytest

from aitems_engine.text import PackedText, Tokenizer

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AITEMS_DATA", ROOT.parent / "shared" / "data"))
CANDIDATE = "1.0.0rc3"
ROUNDS = int(os.environ.get("AITEMS_BENCH_ROUNDS", "7"))
STRINGS = int(os.environ.get("AITEMS_BENCH_STRINGS", "1000000"))
VOCAB = 20_000
# model -> factors that we promise: over tokenizers 0.23, over its release candidate, over tokie
BARS = {"wordpiece": (15, 5, 1.2), "bpe": (12, 3.5, None), "byte_bpe": (12, 3.5, None), "unigram": (12, 3.5, None)}

WORKER = """
import hashlib, json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
raw = [text.encode() for text in json.load(open(sys.argv[3]))]
def padded(texts):
    rows = [e.ids_array for e in tokenizer.encode_batch(texts)]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.zeros((len(rows), int(lengths.max())), np.int32)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return out
for line in sys.stdin:
    texts = [part.decode() for part in raw]
    begin = time.process_time()
    out = padded(texts)
    seconds = time.process_time() - begin
    print(json.dumps([seconds, hashlib.sha1(out.tobytes()).hexdigest()]), flush=True)
"""


def titles() -> dict[str, list[str]]:
    if not (DATA / "danawa" / "products.tsv").exists():
        pytest.skip("AITEMS_DATA has no title files")
    with (DATA / "danawa" / "products.tsv").open(encoding="utf-8") as file:
        out = {"danawa": [line.split("\t")[1] for line in file][1:]}
    out["long Korean titles"] = (DATA / "korean_titles" / "titles.txt").read_text("utf-8").splitlines()
    with (DATA / "retrotech" / "products.csv").open(encoding="utf-8", newline="") as file:
        out["English"] = [row["name"] or "" for row in csv.DictReader(file)]
    return out


def train(model: str, corpus: Sequence[str], path: Path) -> Any:
    """Train the reference tokeniser: 20,000 tokens, NFKC + lower case, the model's usual pre-tokeniser."""
    sys.path.insert(0, str(ROOT))
    from tests.reference.tokenizers_differential import NFKC_LOWER, trained
    from tokenizers import pre_tokenizers

    pre: Any = pre_tokenizers.BertPreTokenizer()
    if model == "unigram":
        pre = pre_tokenizers.Metaspace()
    if model == "byte_bpe":
        pre = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    reference = trained(model, NFKC_LOWER, pre, corpus, VOCAB - (256 if model == "byte_bpe" else 0))
    reference.save(str(path))
    return reference


def candidate_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"aitems-bench-tokenizers-{CANDIDATE}"
    if not (folder / "tokenizers").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(folder),
            f"tokenizers=={CANDIDATE}",
            "numpy",
        ]
        subprocess.run(pip, check=True)
    return folder


def from_rows(rows: Sequence[Any]) -> np.ndarray:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    out = np.zeros((len(rows), int(lengths.max(initial=0))), np.int32)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
    return out


def digest(ids: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()


def equal_rows(flat: np.ndarray, lengths: np.ndarray, expected: np.ndarray, expected_lengths: np.ndarray) -> float:
    """Return the share of texts with the same ids as the reference."""
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    same = [
        lengths[i] == expected_lengths[i]
        and (flat[splits[i] : splits[i + 1]] == expected[i, : expected_lengths[i]]).all()
        for i in range(len(lengths))
    ]
    return float(np.mean(same))


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return []


@pytest.mark.parametrize("model", list(BARS))
def test_speed(model: str, rows: list[str], tmp_path: Path, publish: Callable[[str, str], None]) -> None:
    files = titles()
    corpus = files["danawa"][:20_000] + files["long Korean titles"] + files["English"][:20_000]
    path = tmp_path / "tokenizer.json"
    reference = train(model, corpus, path)
    reference.enable_padding(pad_id=0)
    ours = Tokenizer.from_file(path)

    for name, texts in files.items():
        texts = texts * max(1, 20_000 // len(texts))
        (tmp_path / "texts.json").write_text(json.dumps(texts))
        raw = [text.encode() for text in texts]
        packed = PackedText.from_texts(texts)
        batch = ours.encode_batch(texts)
        expected = np.array([e.ids for e in reference.encode_batch(texts)], np.int32)
        assert (batch.ids == expected).all()

        runs: dict[str, tuple[Callable[[list[str]], Any], float]] = {
            "ours": (ours.encode_batch, 1.0),
            "ours, packed": (lambda _, packed=packed: ours.encode_batch(packed), 1.0),
            "tokenizers 0.23": (
                lambda fresh: np.array([e.ids for e in reference.encode_batch_fast(fresh)], np.int32),
                1.0,
            ),
        }
        lower = [reference.normalizer.normalize_str(text) for text in texts]
        if model == "wordpiece":
            tokie = pytest.importorskip("tokie").Tokenizer.from_json(str(path))
            flat, lengths = tokie.encode_batch_flat(lower)
            share = equal_rows(flat.astype(np.int32), lengths.astype(np.int64), expected, batch.lengths)
            runs["tokie, flat, normalised before"] = (tokie.encode_batch_flat, share)
        if model == "byte_bpe" and importlib.util.find_spec("fastokens"):
            import fastokens

            document = json.loads(path.read_text())
            document["normalizer"] = None  # it refuses this one: normalised before
            fast = fastokens.Tokenizer.from_json_str(json.dumps(document))
            ids, splits = fast.encode_batch_flat(lower)
            lengths = np.diff(np.frombuffer(splits, np.uint64)).astype(np.int64)
            share = equal_rows(np.frombuffer(ids, np.uint32).astype(np.int32), lengths, expected, batch.lengths)
            runs["fastokens, flat, normalised before"] = (fast.encode_batch_flat, share)
        if model == "unigram" and importlib.util.find_spec("sentencepiece"):
            runs["sentencepiece, own vocabulary"] = (sentencepiece_run(corpus, tmp_path), float("nan"))

        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(candidate_folder()), str(path), str(tmp_path / "texts.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as worker:  # fmt: skip
            assert worker.stdin is not None
            assert worker.stdout is not None
            seconds: dict[str, list[float]] = {key: [] for key in [*runs, f"tokenizers {CANDIDATE}"]}
            same = 0.0
            for _ in range(ROUNDS):
                for key, (call, _share) in runs.items():
                    source = lower if "normalised before" in key else None
                    fresh = [part.decode() for part in raw] if source is None else [t.encode().decode() for t in source]
                    begin = time.process_time()
                    call(fresh)
                    seconds[key].append(time.process_time() - begin)
                worker.stdin.write("go\n")
                worker.stdin.flush()
                took, theirs = json.loads(worker.stdout.readline())
                seconds[f"tokenizers {CANDIDATE}"].append(took)
                same = 1.0 if theirs == digest(batch.ids) else 0.0
            worker.stdin.close()
        for key, values in seconds.items():
            rate = len(texts) / statistics.median(values) / 1000
            ratio = statistics.median(v / o for v, o in zip(values, seconds["ours"], strict=True))
            share = same if key.endswith(CANDIDATE) else runs[key][1]
            shown = "-" if share != share else f"{share:.1%}" if share else "not all"
            rows.append(f"| {model} | {name} | {key} | {rate:,.0f} | {ratio:.1f} | {shown} |")
    bars = "; ".join(
        f"{m}: {a}x tokenizers 0.23, {b}x {CANDIDATE}" + (f", {c}x tokie" if c else "") for m, (a, b, c) in BARS.items()
    )
    table = "\n".join(
        [
            "| model | titles | tokeniser | thousand titles per core-second | ours is faster by | ids equal to 0.23 |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    publish(
        "tokenizers",
        f"{VOCAB:,} tokens, NFKC + lower case; `list[str]` (new strings each time) to padded int32 ids, one thread. "
        "tokie and fastokens return flat ids and get texts that were normalised before the clock starts. Caches "
        f"are warm for all; the 1,400 long Korean titles are repeated 14 times. Bars: {bars}.\n\n{table}",
    )


def sentencepiece_run(corpus: Sequence[str], folder: Path) -> Callable[[list[str]], Any]:
    import sentencepiece

    prefix = str(folder / "spm")
    if not Path(prefix + ".model").exists():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=prefix, vocab_size=VOCAB, hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf", num_threads=1, minloglevel=2, character_coverage=1.0,
        )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model", num_threads=1)
    return lambda fresh: from_rows(processor.encode(fresh))


@pytest.mark.parametrize("model", list(BARS))
def test_random_unicode_ids(model: str, tmp_path: Path) -> None:
    """Ids of 10^6 random texts (unassigned, combining, surrogates, some of 10 kB) equal those of tokenizers 0.23."""
    sys.path.insert(0, str(ROOT))
    from tests.reference.tokenizers_differential import configurations, differences, random_texts, training_corpus

    reference = configurations(training_corpus())[model]
    ours = Tokenizer.from_str(reference.to_str())
    step, wrong = 50_000, 0
    for chunk in range(max(1, STRINGS // step)):
        texts = [*random_texts(min(step, STRINGS) - 20, chunk, surrogates=True), *random_texts(20, chunk, longest=6000)]
        wrong += len(differences(ours, reference, texts, offsets=False))
    print(f"{model}: {wrong} of {STRINGS:,} random texts differ")
    assert wrong == 0
