"""Have we become slower beside our peers? Small cases of each native room, in two minutes: `make bench-compare`.

Each compares the answers, measures the ratio of processor times in turns, and fails where it fell by more than 15 %
below the one in baselines.json (ratios.py). `--update-baselines` stores those of this machine. One thread each. The
tables of docs/benchmarks.md come from the other files here, at full size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")

import numpy as np
import pytest
from bench import bench_batch, bench_rerank, bench_textcnn
from bench.conftest import RATIO, processor
from bench.ratios import ATTEMPTS, BASELINES, Baselines, measure
from tests.tiny_bundle import SYLLABLES

from aitems_engine._native import rerank as native_rerank
from aitems_engine.ann import AnnIndex
from aitems_engine.ann.tuning import recall
from aitems_engine.ranking import FeatureQuery
from aitems_engine.runtime import NativeScorer, ScorerInputs

Compare = Callable[..., None]


@pytest.fixture
def compare(request: pytest.FixtureRequest, benchmark: Any, record_property: Callable[[str, object], None]) -> Compare:
    """Return `compare(name, ours, peer, make, package=...)`: measure, and fail or store."""

    def run(name: str, ours: Any, peer: Any, make: Callable[[], Any] = lambda: None, *, package: str) -> None:
        baselines = Baselines(Path(request.config.getoption("--baselines") or BASELINES), processor())
        update, ratios = request.config.getoption("--update-baselines"), [measure(ours, peer, make)]
        missing = not update and baselines.missing(name)
        while (len(ratios) < ATTEMPTS) and (
            update or (not missing and baselines.regression(name, max(ratios), package))
        ):
            ratios.append(measure(ours, peer, make))
        ratio = float(np.median(ratios) if update else max(ratios))
        record_property(RATIO, f"{name}: {ratio:.2f} times as fast as {package}, {baselines.before(name)}")
        # our own time, for pytest-benchmark's table and files
        benchmark.extra_info["ratio"] = ratio
        benchmark.pedantic(ours, setup=lambda: ((make(),), {}), rounds=5)
        if update:
            baselines.update(name, ratio, package)
        elif missing:
            pytest.skip(missing)
        elif found := baselines.regression(name, ratio, package):
            pytest.fail(found, pytrace=False)

    return run


@pytest.mark.parametrize("model", ["wordpiece", "bpe", "unigram"])
def test_tokenizer(compare: Compare, tmp_path: Path, model: str) -> None:
    from tokenizers import Tokenizer as Peer

    from aitems_engine.training.tokenizer import train_tokenizer

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*SYLLABLES], rng.integers(1, 5))) for _ in range(5000)]
    texts = [" ".join(words[min(int(i), 4999)] for i in rng.zipf(1.2, rng.integers(3, 12))) for _ in range(2000)]
    raw = [text.encode() for text in texts]
    ours = train_tokenizer(texts, model=model, vocab_size=4000)
    ours.save(tmp_path / "tokenizer.json")
    peer = Peer.from_file(str(tmp_path / "tokenizer.json"))
    peer.enable_padding(pad_id=0)
    wanted = [e.ids for e in peer.encode_batch(texts)]
    assert ours.encode_batch(texts).ids.tolist() == wanted
    compare(
        f"tokenizer_{model}",
        ours.encode_batch,
        lambda fresh: np.array([e.ids for e in peer.encode_batch_fast(fresh)], np.int32),
        lambda: [part.decode() for part in raw],
        package="tokenizers",
    )


@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_textcnn(compare: Compare, mode: str) -> None:
    import onnxruntime

    from aitems_engine.training.onnx_graph import build_onnx

    rng = np.random.default_rng(1)
    tensors = bench_textcnn.weights(full=False)
    lengths = np.sort(np.clip(rng.lognormal(2.0, 0.5, 512).astype(np.int32), 1, 32))[256:384]
    ids = np.minimum(rng.zipf(1.3, (128, lengths.max())), bench_textcnn.VOCABULARY - 1).astype(np.int32)
    ids[np.arange(ids.shape[1]) >= lengths[:, None]] = 0
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(build_onnx(tensors, top_k=5), options, providers=["CPUExecutionProvider"])
    feed = {"title_ids": ids, "title_lengths": lengths}
    scorer, inputs = NativeScorer(tensors, mode=mode), ScorerInputs(ids, lengths)
    top = session.run(["top_indices"], feed)[0]
    assert (scorer.score(inputs, 5)[0][:, 0] == top[:, 0]).mean() > 0.9
    compare(
        f"textcnn_{mode}",
        lambda _: scorer.score(inputs, 5),
        lambda _: session.run(["top_indices", "top_probabilities"], feed),
        package="onnxruntime",
    )


def vectors(items: int, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return items and queries in clusters, of unit norm."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((200, dim))
    both = centres[rng.integers(0, 200, items + 512)] + 0.7 * rng.standard_normal((items + 512, dim))
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[:items].astype(np.float32), both[items:].astype(np.float32)


def test_ann_exact(compare: Compare) -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    items, queries = vectors(20_000)
    ours, peer = AnnIndex.build(items, kind="exact"), faiss.IndexFlatIP(items.shape[1])
    peer.add(items)
    assert recall(ours.search(queries, 10).ids, peer.search(queries, 10)[1]) > 0.999
    compare("ann_exact", lambda _: ours.search(queries, 10), lambda _: peer.search(queries, 10), package="faiss-cpu")


def test_ann_approximate(compare: Compare) -> None:
    """At the effort at which each reaches 0.95 on other queries; a peer whose memory access is as regular as ours."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    items, queries = vectors(20_000)
    tuning, queries = queries[:256], queries[256:]
    exact = AnnIndex.build(items, kind="exact")
    ours = AnnIndex.build(items, queries=tuning, recall_target=0.95)
    peer = faiss.index_factory(items.shape[1], "IVF128,Flat", faiss.METRIC_INNER_PRODUCT)
    peer.train(items)
    peer.add(items)
    truth = exact.search(tuning, 10).ids
    for peer.nprobe in range(1, 129):
        if recall(peer.search(tuning, 10)[1], truth) >= 0.95:
            break
    truth = exact.search(queries, 10).ids
    assert recall(ours.search(queries, 10).ids, truth) > 0.93
    assert recall(peer.search(queries, 10)[1], truth) > 0.93
    compare(
        "ann_approximate", lambda _: ours.search(queries, 10), lambda _: peer.search(queries, 10), package="faiss-cpu"
    )


def test_gather(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ITEMS", 50_000), ("USERS", 200)):
        monkeypatch.setattr(bench_batch, name, value)
    rng = np.random.default_rng(3)
    features, shown = bench_batch.make_features(rng)
    peer = bench_batch.NumpyGather(features)

    def request() -> FeatureQuery:
        user, n = int(rng.integers(200)), 1000
        return FeatureQuery(
            shown.events, shown.event_times, shown.begins[user : user + 1], shown.ends[user : user + 1],
            shown.now[user : user + 1], rng.integers(0, 50_000, n).astype(np.int32), np.array([0, n]),
            {"placement": ["home"]},
        )  # fmt: skip

    query = request()
    out = features.gather(query)
    np.testing.assert_array_equal(out.codes, peer(query).codes)
    np.testing.assert_allclose(out.dense, peer(query).dense, rtol=1e-4, atol=1e-5)
    compare("feature_gather", lambda query: features.gather(query, out=out), peer, request, package="numpy")


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_variety(compare: Compare, method: str) -> None:
    rng = np.random.default_rng(4)
    n, dim, k = 1000, 128, 20
    scores = np.sort(rng.gamma(1, 0.02, n))[::-1]
    relevance = np.ascontiguousarray((scores - scores.min()) / (scores.max() - scores.min()))
    found = (rng.standard_normal((60, dim))[rng.integers(0, 60, n)] + 0.5 * rng.standard_normal((n, dim))).astype(
        np.float32
    )
    rows = np.arange(n, dtype=np.int32)
    shared = (relevance, found, rows, None, k, bench_rerank.STRENGTH, bench_rerank.MISSING)

    def ours(_: object) -> np.ndarray:
        return native_rerank.mmr(*shared) if method == "mmr" else native_rerank.dpp(*shared, 10_000, bench_rerank.FLOOR)

    def peer(_: object) -> np.ndarray:
        return getattr(bench_rerank, f"{method}_numpy")(relevance, found, k)

    assert ours(None).tolist() == peer(None).tolist()
    compare(f"variety_{method}", ours, peer, package="numpy")
