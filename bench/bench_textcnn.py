"""Speed of the text classifier beside ONNX Runtime: 4,215 leaves, batch 512, real title lengths, top 5 out.

Peers get batches bucketed by length (their cost grows with the padded width; ours does not) and a graph that ends in
TopK. The int8 peer is ONNX Runtime's static quantisation as QDQ with Gemm (as MatMul + Add it is several times slower);
of its variants the fastest is the peer. One thread each, CPU time of that thread, interleaved, medians.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aitems_engine._native import isa, textcnn
from aitems_engine.runtime import NativeScorer, ScorerInputs
from aitems_engine.runtime.onnx_scorer import _padded_grams
from aitems_engine.training.onnx_graph import build_onnx

LEAVES, VOCABULARY, DIMENSION, FILTERS, BATCH, TOP = 4215, 20_000, 128, 256, 512, 5
BUCKETS, HIDDEN, MALL_FILTERS = 131_072, 64, 64
ROWS = 4096
ROUNDS = 5
DATA = Path(os.environ.get("AITEMS_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))


def titles() -> tuple[list[np.ndarray], list[int], str]:
    """Return token ids and the number of characters of `ROWS` titles, and where they come from."""
    rng = np.random.default_rng(1)
    danawa, korean = DATA / "danawa" / "products.tsv", DATA / "korean_titles" / "titles.txt"
    if danawa.exists() and korean.exists():
        from aitems_engine.training.tokenizer import train_tokenizer

        names = [line.split("\t")[1] for line in danawa.read_text(encoding="utf-8").split("\n")[1:] if "\t" in line]
        noisy = [line for line in korean.read_text(encoding="utf-8").split("\n") if line]
        tokenizer = train_tokenizer(names + noisy, vocab_size=VOCABULARY)
        chosen = [*rng.choice(names, ROWS * 3 // 4), *rng.choice(noisy, ROWS // 4)]
        rng.shuffle(chosen)
        batch = tokenizer.encode_batch(chosen, max_length=32)
        ids = [row[:n] for row, n in zip(batch.ids, batch.lengths, strict=True)]
        return ids, [len(t) for t in chosen], "titles of danawa (3/4) and korean_titles (1/4)"
    # without the data: lengths and token frequencies of the same shape
    lengths = np.clip(rng.lognormal(2.0, 0.5, ROWS).astype(int), 1, 32)
    ids = [np.minimum(rng.zipf(1.3, n), VOCABULARY - 1).astype(np.int32) for n in lengths]
    return ids, (lengths * 3).tolist(), "made-up lengths (log-normal, median 7 tokens)"


def weights(full: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    tensors = {"embedding.weight": rng.normal(size=(VOCABULARY, DIMENSION))}
    tensors["embedding.weight"][0] = 0
    depth = 0
    branches = [("title", w, FILTERS) for w in (2, 3, 4, 5)] + [("mall", w, MALL_FILTERS) for w in (1, 2, 3)] * full
    for branch, w, filters in branches:
        tensors[f"{branch}.conv{w}.weight"] = rng.normal(size=(filters, DIMENSION, w)) / np.sqrt(DIMENSION * w)
        tensors[f"{branch}.conv{w}.bias"] = rng.normal(size=filters) / 10
        depth += filters
    if full:
        tensors["title.bag.weight"] = rng.normal(size=(BUCKETS, HIDDEN)) / 2
        tensors["title.bag.bias"] = np.zeros(HIDDEN)
        depth += HIDDEN
    tensors["head.weight"] = rng.normal(size=(LEAVES, depth)) * 2 / np.sqrt(depth)
    tensors["head.bias"] = rng.normal(size=LEAVES)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def batches(full: bool) -> tuple[list[ScorerInputs], str, float]:
    """Return the batches in order of length, each as wide as its longest title."""
    ids, characters, source = titles()
    rng = np.random.default_rng(3)
    order = np.argsort([len(i) for i in ids], kind="stable")
    out = []
    for start in range(0, ROWS, BATCH):
        rows = order[start : start + BATCH]
        lengths = np.array([len(ids[r]) for r in rows], np.int32)
        padded = np.zeros((len(rows), max(1, lengths.max())), np.int32)
        for i, r in enumerate(rows):
            padded[i, : lengths[i]] = ids[r]
        if not full:
            out.append(ScorerInputs(padded, lengths))
            continue
        # as many n-grams as that many characters have, with two spaces: sizes 2 to 4
        counts = np.array([max(0, 3 * (characters[r] + 2) - 6) for r in rows])
        grams = rng.integers(0, BUCKETS, counts.sum()).astype(np.int32)
        mall_lengths = rng.integers(4, 12, len(rows)).astype(np.int32)
        mall = rng.integers(1, VOCABULARY, (len(rows), mall_lengths.max())).astype(np.int32)
        mall[np.arange(mall.shape[1]) >= mall_lengths[:, None]] = 0
        splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        out.append(ScorerInputs(padded, lengths, grams, splits, mall, mall_lengths))
    return out, source, float(np.mean([len(i) for i in ids]))


def onnx_peers(tensors: dict[str, np.ndarray], inputs: list[ScorerInputs], folder: Path) -> dict[str, Callable]:
    """Return ONNX Runtime in fp32 and in three static int8 variants; each call takes the number of a batch."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    feeds = []
    for batch in inputs:
        feed = {"title_ids": batch.title_ids, "title_lengths": batch.title_lengths}
        if batch.gram_ids is not None:
            feed["gram_ids"] = _padded_grams(batch.gram_ids, batch.gram_splits, batch.count, BUCKETS)
            feed |= {"mall_ids": batch.mall_ids, "mall_lengths": batch.mall_lengths}
        feeds.append(feed)

    class Calibration(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter([{name: value[::8] for name, value in feed.items()} for feed in feeds])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    def session(path: Path) -> Callable:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run
        return lambda i: run(["top_indices", "top_probabilities"], feeds[i])

    plain = folder / "fp32.onnx"
    plain.write_bytes(build_onnx(tensors, top_k=TOP))
    peers = {"ONNX Runtime fp32": session(plain)}
    for name, operators, weight_type, per_channel in (
        ("Gemm, per channel", ["Gemm"], QuantType.QInt8, True),
        ("Conv + Gemm, per channel", ["Conv", "Gemm"], QuantType.QInt8, True),
        ("Conv + Gemm, per tensor", ["Conv", "Gemm"], QuantType.QInt8, False),
    ):
        path = folder / f"{name}.onnx"
        quantize_static(
            str(plain),
            str(path),
            Calibration(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=weight_type,
        )
        peers[f"ONNX Runtime static int8 ({name})"] = session(path)
    return peers


@pytest.mark.timeout(900)
@pytest.mark.parametrize("full", [False, True], ids=["title", "full"])
def test_text_classifier(full, publish, tmp_path):
    tensors = weights(full)
    inputs, source, mean_length = batches(full)
    engines = onnx_peers(tensors, inputs, tmp_path)
    scorers = {}
    for level in [level for level in isa.runnable() if level != "baseline"]:
        for mode in ("exact", "int8"):
            scorers[f"native {mode}, {level}"] = NativeScorer(tensors, mode=mode, isa=level)
    for name, scorer in scorers.items():
        engines[name] = lambda i, scorer=scorer: scorer.score(inputs[i], TOP)

    # the answer first: agreement with fp32 of every execution
    answers = {name: [run(i) for i in range(len(inputs))] for name, run in engines.items()}
    truth = answers["ONNX Runtime fp32"]

    def agreement(name: str) -> tuple[float, float]:
        same = np.mean([(a[0][:, 0] == b[0][:, 0]).mean() for a, b in zip(answers[name], truth, strict=True)])
        worst = max(np.abs(a[1] - b[1]).max() for a, b in zip(answers[name], truth, strict=True))
        return float(same), float(worst)

    for name in scorers:
        same, worst = agreement(name)
        assert worst < 1e-4 if "exact" in name else same > 0.9, (name, same, worst)

    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, run in engines.items():
            start = time.thread_time()
            for i in range(len(inputs)):
                run(i)
            seconds[name].append(time.thread_time() - start)
    rate = {name: ROWS / float(np.median(times)) for name, times in seconds.items()}
    int8_peer = max((name for name in rate if "static int8" in name), key=rate.__getitem__)
    lines = [
        f"Shape: {LEAVES:,} leaves, vocabulary {VOCABULARY:,} x {DIMENSION}, title widths 2-5 x {FILTERS}"
        + (f", bag {BUCKETS:,} x {HIDDEN}, mall widths 1-3 x {MALL_FILTERS}, joint head" if full else ", head only")
        + f"; random weights; {ROWS:,} rows from {source}, {mean_length:.1f} tokens on average; batch {BATCH}, "
        f"bucketed by length; top {TOP} with probabilities; one thread.",
        "",
        "| execution | rows per core-second | beside the peer | top 1 equal to fp32 "
        "| largest difference of a probability | tables + weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, value in rate.items():
        same, worst = agreement(name)
        peer = "ONNX Runtime fp32" if "exact" in name else int8_peer
        beside = f"{value / rate[peer]:.2f}x {peer}" if name in scorers else ""
        memory = scorers[name].describe() if name in scorers else None
        size = f"{(memory['table_bytes'] + memory['weight_bytes']) / 1e6:.0f} MB" if memory else ""
        lines.append(f"| {name} | {value:,.0f} | {beside} | {same:.4f} | {worst:.1e} | {size} |")
    publish("textcnn_full" if full else "textcnn", "\n".join(lines))


def test_char_ngrams(publish):
    """n-grams a second beside the obvious Python."""
    rng = np.random.default_rng(4)
    letters = np.array([*"abcdefgh0123456789 ", *"가나다라마바사아자차카타파하"])
    texts = ["".join(rng.choice(letters, rng.integers(15, 60))) for _ in range(4096)]
    encoded = [t.encode() for t in texts]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
    times = []
    for _ in range(9):
        start = time.thread_time()
        ids, splits = textcnn.char_ngrams(data, offsets, 2, 4, BUCKETS, 1)
        times.append(time.thread_time() - start)
    assert splits[-1] == len(ids)
    rate = len(texts) / float(np.median(times))
    publish(
        "textcnn_grams",
        f"Hashed character n-grams (2-4): {rate:,.0f} titles per core-second ({rate * len(ids) / len(texts) / 1e6:.0f} "
        f"million n-grams), titles of {np.mean([len(t) for t in texts]):.0f} characters.",
    )
