"""Peers of the nearest-neighbour benchmarks: how each is built, and the efforts its search is swept over."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np


def one_thread(number: int) -> None:
    """Stand in for `set_threads` where only one is measured."""


@dataclass
class Contender:
    name: str
    build_s: float
    sweep: list[object]
    search: Callable[[np.ndarray, int, object], np.ndarray]  # queries, k, effort -> ids
    set_threads: Callable[[int], None] = one_thread


def built(make: Callable[[], object]) -> tuple[object, float]:
    began = time.process_time()
    return make(), time.process_time() - began


def hnswlib(items: np.ndarray, queries: np.ndarray) -> Contender:
    import hnswlib as peer

    def make() -> object:
        index = peer.Index(space="ip", dim=items.shape[1])
        index.init_index(max_elements=len(items), ef_construction=200, M=16)
        index.add_items(items, num_threads=1)
        index.set_num_threads(1)
        return index

    index, seconds = built(make)
    threads = [1]

    def search(q: np.ndarray, k: int, ef: object) -> np.ndarray:
        index.set_ef(max(ef, k))
        return index.knn_query(q, k=k, num_threads=threads[0])[0].astype(np.int64)

    def set_threads(number: int) -> None:
        threads[0] = number

    return Contender("hnswlib 16/200", seconds, [16, 32, 64, 128, 256, 512, 1024], search, set_threads)


def usearch(items: np.ndarray, queries: np.ndarray) -> Contender:
    from usearch.index import Index

    def make() -> object:
        index = Index(ndim=items.shape[1], metric="ip", dtype="bf16", connectivity=16, expansion_add=200)
        index.add(np.arange(len(items)), items, threads=1)
        return index

    index, seconds = built(make)
    threads = [1]

    def search(q: np.ndarray, k: int, ef: object) -> np.ndarray:
        index.expansion_search = max(ef, k)
        return np.atleast_2d(index.search(q, k, threads=threads[0]).keys).astype(np.int64)

    def set_threads(number: int) -> None:
        threads[0] = number

    return Contender("usearch bf16", seconds, [16, 32, 64, 128, 256, 512, 1024], search, set_threads)


def voyager(items: np.ndarray, queries: np.ndarray) -> Contender:
    import voyager as peer

    def make() -> object:
        index = peer.Index(peer.Space.InnerProduct, items.shape[1], M=16, ef_construction=200)
        index.add_items(items, num_threads=1)
        return index

    index, seconds = built(make)
    threads = [1]

    def search(q: np.ndarray, k: int, ef: object) -> np.ndarray:
        return index.query(q, k, num_threads=threads[0], query_ef=max(ef, k))[0].astype(np.int64)

    def set_threads(number: int) -> None:
        threads[0] = number

    return Contender("voyager 16/200", seconds, [16, 32, 64, 128, 256, 512, 1024], search, set_threads)


def faiss_ivfpq(items: np.ndarray, queries: np.ndarray) -> Contender:
    import faiss

    faiss.omp_set_num_threads(1)
    dim = items.shape[1]
    lists = 256 if len(items) < 200_000 else 1024

    def make() -> object:
        base = faiss.index_factory(dim, f"IVF{lists},PQ{dim // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
        index = faiss.IndexRefineFlat(base)
        index.train(items)
        index.add(items)
        return index, base

    (index, base), seconds = built(make)

    def search(q: np.ndarray, k: int, effort: object) -> np.ndarray:
        base.nprobe, index.k_factor = effort
        return index.search(q, k)[1]

    sweep = [(p, f) for p in (4, 8, 16, 32, 64, 128) for f in (3, 8, 20)]
    return Contender("faiss IVF-PQ fast scan + refine", seconds, sweep, search, faiss.omp_set_num_threads)


def faiss_hnsw(items: np.ndarray, queries: np.ndarray) -> Contender:
    import faiss

    faiss.omp_set_num_threads(1)

    def make() -> object:
        base = faiss.index_factory(items.shape[1], "HNSW16,SQ8", faiss.METRIC_INNER_PRODUCT)
        base.hnsw.efConstruction = 200
        index = faiss.IndexRefineFlat(base)
        index.train(items)
        index.add(items)
        return index, base

    (index, base), seconds = built(make)

    def search(q: np.ndarray, k: int, effort: object) -> np.ndarray:
        base.hnsw.efSearch, index.k_factor = effort, 2
        return index.search(q, k)[1]

    return Contender("faiss HNSW16,SQ8 + refine", seconds, [32, 64, 128, 256, 512], search, faiss.omp_set_num_threads)


def scann(items: np.ndarray, queries: np.ndarray) -> Contender:
    import scann as peer

    leaves = 200 if len(items) < 200_000 else 1000

    def make() -> object:
        builder = peer.scann_ops_pybind.builder(items, 10, "dot_product")
        tree = builder.tree(num_leaves=leaves, num_leaves_to_search=20, training_sample_size=min(len(items), 250_000))
        return tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    index, seconds = built(make)
    threads = [1]

    def search(q: np.ndarray, k: int, effort: object) -> np.ndarray:
        leaves_to_search, reorder = effort
        options = {
            "final_num_neighbors": k,
            "leaves_to_search": leaves_to_search,
            "pre_reorder_num_neighbors": max(k, reorder),
        }
        if len(q) == 1:
            return index.search(q[0], **options)[0][None].astype(np.int64)
        run = index.search_batched if threads[0] == 1 else index.search_batched_parallel
        return run(q, **options)[0].astype(np.int64)

    def set_threads(number: int) -> None:
        threads[0] = number
        index.set_num_threads(number)

    sweep = [(p, r) for p in (3, 6, 12, 16, 20, 24, 32, 48, 100) for r in (30, 60, 80, 120, 150)]
    return Contender("ScaNN", seconds, sweep, search, set_threads)


@contextlib.contextmanager
def quiet() -> object:
    """SVS and rabitqlib log to the process's standard output."""
    held = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(held, 1)
        os.close(held)


def svs_vamana(items: np.ndarray, bits: tuple[int, int] | None) -> Contender:
    import svs

    # Its advice: alpha below 1 for inner product.
    parameters = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=64, window_size=200)

    def make() -> object:
        with tempfile.TemporaryDirectory() as folder, quiet():
            if bits is None:
                return svs.Vamana.build(parameters, items, svs.DistanceType.MIP, num_threads=1)
            path = f"{folder}/items.fvecs"
            svs.write_vecs(items, path)
            loader = svs.VectorDataLoader(path, svs.DataType.float32)
            compressed = svs.LVQLoader(loader, primary=bits[0], residual=bits[1], padding=32)
            return svs.Vamana.build(parameters, compressed, svs.DistanceType.MIP, num_threads=1)

    index, seconds = built(make)
    capacity = 2 if bits is not None and bits[1] else 1

    def search(q: np.ndarray, k: int, window: object) -> np.ndarray:
        window = max(window, k)
        settings = index.search_parameters
        settings.buffer_config = svs.SearchBufferConfig(window, capacity * window)
        index.search_parameters = settings
        return index.search(q, k)[0].astype(np.int64)

    def set_threads(number: int) -> None:
        index.num_threads = number

    name = "SVS f32" if bits is None else f"SVS LVQ{bits[0]}" + (f"x{bits[1]}" if bits[1] else "")
    return Contender(name, seconds, [10, 16, 24, 40, 64, 100, 160, 250, 400, 700], search, set_threads)


def symphonyqg(items: np.ndarray, queries: np.ndarray) -> Contender:
    import rabitqlib

    def make() -> object:
        with quiet():
            index = rabitqlib.SymqgIndex(items.shape[1], 64, metric="ip")
            index.build(items, 400, num_threads=1)
        return index

    index, seconds = built(make)
    threads = [1]

    def search(q: np.ndarray, k: int, ef: object) -> np.ndarray:
        run = index.search if len(q) == 1 else index.search_batch
        return np.atleast_2d(run(q, k, max(ef, k), num_threads=threads[0])[0]).astype(np.int64)

    def set_threads(number: int) -> None:
        threads[0] = number

    return Contender("SymphonyQG", seconds, [10, 20, 40, 70, 100, 160, 250, 400, 700], search, set_threads)


# Package -> peers made with it.
PEERS: dict[str, list[Callable[[np.ndarray, np.ndarray], Contender]]] = {
    "rabitqlib": [symphonyqg],  # first: its import crashed when SVS had run before
    "hnswlib": [hnswlib],
    "usearch": [usearch],
    "voyager": [voyager],
    "faiss": [faiss_ivfpq, faiss_hnsw],
    "scann": [scann],
    "svs": [
        lambda items, queries: svs_vamana(items, None),
        lambda items, queries: svs_vamana(items, (8, 0)),
        lambda items, queries: svs_vamana(items, (4, 8)),
    ],
}


def installed() -> tuple[list[Callable[[np.ndarray, np.ndarray], Contender]], list[str]]:
    """Return the makers of the installed peers, and the packages that are missing."""
    makers = [make for package, makes in PEERS.items() if find_spec(package) for make in makes]
    return makers, [package for package in PEERS if not find_spec(package)]
