"""Against the real Triton server: the same answers as the embedded engine, and every fault that can be made."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.integration.triton_kit import (
    KINDS,
    Waiting,
    kinds,
    needs_triton,
    post,
    repaired,
    resident_kilobytes,
    run_on_a_fake,
    under_load,
    write_both,
)
from tests.tiny_bundle import SYLLABLES, write_tiny_bundle
from tests.unit.test_plans import FakeBuilder
from tests.unit.test_recommender import catalogue, requests, same

from aitems_engine import Engine, Request
from aitems_engine.bundle import Bundle
from aitems_engine.category.classifier import CategoryClassifier
from aitems_engine.category.loading import load_classifier, write_native
from aitems_engine.cli import main
from aitems_engine.errors import BundleError, ConfigError, InvalidInputError, ServingError
from aitems_engine.events import Interactions
from aitems_engine.ranking.batches import FeatureBatch
from aitems_engine.ranking.ranker import open_ranker
from aitems_engine.recommendation import load_recommender
from aitems_engine.runtime import OnnxScorer
from aitems_engine.serving import Client
from aitems_engine.serving.installation import Installation
from aitems_engine.serving.models import NATIVE_FILE
from aitems_engine.serving.networks import CategoryNetwork, Ranking
from aitems_engine.serving.repository import CONFIG, add_version, export_repository, remove_version, versions_of
from aitems_engine.serving.server import TritonServer

MODELS = ["category_match", "category_classifier", "recommend", "user_encoder", "ranker"]
pytestmark = [pytest.mark.triton, needs_triton, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "both"
    write_both(path)
    return path


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return Engine.open(bundle)


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> CategoryClassifier:
    return Bundle.open_as(bundle, partial(load_classifier, execution="onnx", mode="exact"))


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    assert export_repository(bundle, repository) == MODELS
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as running:
        yield running


@pytest.fixture(params=[*KINDS, *(f"{kind}-async" for kind in KINDS)])
def client(server: TritonServer, request: pytest.FixtureRequest) -> Iterator[Client | Waiting]:
    options = kinds(server)[request.param.removesuffix("-async")]
    kind = Waiting if request.param.endswith("-async") else Client
    with kind(**options, retries=0) as connected:
        yield connected


def native_classifier(bundle: Path) -> CategoryClassifier:
    return Bundle.open_as(bundle, partial(load_classifier, execution="native", mode="int8"))


def recorded_titles(count: int) -> list[str | bytes | None]:
    rng = random.Random(5)
    pool = SYLLABLES + "abcdefgh 0123456789 ()+-"
    made: list[str | bytes | None] = ["".join(rng.choices(pool, k=rng.randrange(60))) for _ in range(count - 6)]
    return [*made, "", None, b"\xff\xfe\x00broken", "lone \udc00 surrogate", "nul \0 inside", "ﷺ ㈱ İ"]


def test_classify_equals_the_embedded_engine(client: Client, engine: Engine) -> None:
    titles = recorded_titles(3000)
    malls = [None if i % 3 else "식품 > 과일" for i in range(len(titles))]
    alone = [*range(0, len(titles), 61), *range(len(titles) - 6, len(titles))]
    for some in (slice(0, None), *(slice(i, i + 1) for i in alone)):
        found, wanted = (e.classify(titles[some], malls[some], top_k=4) for e in (client, engine))
        assert found.leaf_ids.tolist() == wanted.leaf_ids.tolist()
        assert np.abs(found.probabilities - wanted.probabilities).max() <= 1e-4
        np.testing.assert_array_equal(found.parent_probabilities, wanted.parent_probabilities)
        assert found.abstained.tolist() == wanted.abstained.tolist()
        assert (found.causes, found.parent_ids, found.paths) == (wanted.causes, wanted.parent_ids, wanted.paths)
        assert found.bundle_digest == wanted.bundle_digest
    assert len(client.classify([])) == 0


def test_recommend_equals_the_embedded_engine(client: Client, engine: Engine) -> None:
    asked = requests(40)
    for found, wanted in zip(client.recommend_many(asked), engine.recommend_many(asked), strict=True):
        assert same(found, wanted)
        assert (found.next_cursor, found.short_reason, found.flags) == (
            wanted.next_cursor,
            wanted.short_reason,
            wanted.flags,
        )
    page = client.recommend(Request(user_id="u3", k=5))
    assert same(engine.replay(page.trace), page)


def test_ten_thousand_requests(server: TritonServer, engine: Engine, bundle: Path) -> None:
    titles = recorded_titles(10_000)
    malls = [None if i % 3 else "식품 > 과일" for i in range(len(titles))]
    wanted = engine.classify(titles, malls, top_k=4)
    asked = requests(2_000)
    pages = engine.recommend_many(asked)
    features, ranker = open_ranker(Bundle.open(bundle).inside("ranker."), catalogue())
    rng = np.random.default_rng(0)
    codes = rng.integers(0, features.spec.cardinalities, (10_240, len(features.spec.cardinalities))).astype(np.int32)
    dense = rng.normal(size=(len(codes), features.spec.dense)).astype(np.float32)
    logits = ranker.logits(FeatureBatch(codes, dense))
    for protocol, port in (("grpc", server.grpc_port), ("http", server.http_port)):
        with Client(f"127.0.0.1:{port}", protocol=protocol, retries=0, deadline_s=60) as client:
            found = client.classify(titles, malls, top_k=4)
            np.testing.assert_array_equal(found.leaf_ids, wanted.leaf_ids)
            np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
            assert (found.causes, found.parent_ids) == (wanted.causes, wanted.parent_ids)
            assert all(same(*pair) for pair in zip(client.recommend_many(asked), pages, strict=True))
            for rows in range(0, len(codes), 1024):
                part = {"codes": codes[rows : rows + 1024], "dense": dense[rows : rows + 1024]}
                np.testing.assert_allclose(
                    client.infer("ranker", part)["logits"], logits[rows : rows + 1024], atol=1e-4
                )


def test_tensors_of_recommend(client: Client) -> None:
    texts = [[b'{"k": 3, "request_id": "a"}'], [b'{"k": 5, "request_id": "a"}']]
    found = client.infer("recommend", {"REQUEST": np.array(texts, object)}, outputs=("ITEM_ID", "SCORE"))
    assert set(found) == {"ITEM_ID", "SCORE"}
    assert found["ITEM_ID"].shape == found["SCORE"].shape == (2, 5)
    assert found["ITEM_ID"][0, 3:].tolist() == [b"", b""]
    assert np.isneginf(found["SCORE"][0, 3:]).all()


def test_ranker_equals_the_embedded_one(client: Client, bundle: Path) -> None:
    features, ranker = open_ranker(Bundle.open(bundle).inside("ranker."), catalogue())
    rng = np.random.default_rng(0)
    codes = rng.integers(0, features.spec.cardinalities, (700, len(features.spec.cardinalities))).astype(np.int32)
    dense = rng.normal(size=(700, features.spec.dense)).astype(np.float32)
    found = client.infer("ranker", {"codes": codes, "dense": dense})["logits"]
    np.testing.assert_allclose(found, ranker.logits(FeatureBatch(codes, dense)), atol=1e-4)
    for name, array, value in (("codes", codes, -1), ("codes", codes, 10**6), ("dense", dense, np.nan)):
        wrong = array[:1].copy()
        wrong[0, 0] = value
        with pytest.raises(InvalidInputError, match=f"{name}.* (must be from 0|must hold finite)"):
            client.infer("ranker", {"codes": codes[:1], "dense": dense[:1], name: wrong})


def ids_of(classifier: CategoryClassifier, titles: list[str], malls: list[str | None]) -> dict[str, np.ndarray]:
    """Return titles as `category_classifier` takes them, with one column of padding more than there must be."""
    assert isinstance(classifier.scorer, OnnxScorer)
    feeds = classifier.scorer.feeds(classifier.prepare(titles, malls))
    return {
        name: array[:, None]
        if array.ndim == 1
        else np.pad(array, ((0, 0), (0, 1)), constant_values=-1 if name == "gram_ids" else 0)
        for name, array in feeds.items()
    }


def test_category_classifier_equals_the_embedded_one(client: Client, classifier: CategoryClassifier) -> None:
    titles = [t for t in recorded_titles(200) if isinstance(t, str) and "\udc00" not in t]
    malls: list[str | None] = [None if i % 3 else "식품 > 과일" for i in range(len(titles))]
    wanted = classifier.scorer.logits(classifier.prepare(titles, malls))
    tensors = ids_of(classifier, titles, malls)
    for rows in (slice(0, None), *(slice(i, i + 1) for i in range(0, len(titles), 9))):
        found = client.infer("category_classifier", {name: value[rows] for name, value in tensors.items()})["logits"]
        np.testing.assert_allclose(found, wanted[rows], atol=1e-4)
    for name, value in (("title_ids", 10**6), ("title_lengths", 10**6), ("title_lengths", -1), ("gram_ids", 10**6)):
        wrong = tensors[name][:1].copy()
        wrong[0, 0] = value
        with pytest.raises(InvalidInputError, match=f"{name} must be from 0"):
            client.infer("category_classifier", {**{n: v[:1] for n, v in tensors.items()}, name: wrong})


def test_labels_of_the_logits(server: TritonServer, engine: Engine, classifier: CategoryClassifier) -> None:
    from tritonclient import grpc

    inputs = []
    for name, value in ids_of(classifier, ["apple"], [None]).items():
        inputs.append(grpc.InferInput(name, list(value.shape), "INT32"))
        inputs[-1].set_data_from_numpy(value)
    with grpc.InferenceServerClient(server.address) as stranger:
        wanted = [grpc.InferRequestedOutput("logits", class_count=3)]
        found = stranger.infer("category_classifier", inputs, outputs=wanted).as_numpy("logits")
    assert [text.decode().split(":")[2] for text in found[0]] == engine.classify(["apple"], top_k=3).leaf_ids[
        0
    ].tolist()


def test_user_encoder_equals_the_embedded_one(client: Client, bundle: Path) -> None:
    recommender = load_recommender(Bundle.open(bundle))
    source = recommender.sources["ials"]
    known = recommender.histories
    assert known is not None
    rows = [[known.item_ids[item] for item in known.history(user)] for user in range(60)]
    rows += [[], ["not there"], ["p5", "not there", "p7"]]
    wanted = source.retriever.queries(
        Interactions.from_events(
            [str(row) for row, items in enumerate(rows) for _ in items], [item for items in rows for item in items]
        )
        .of_users([str(row) for row in range(len(rows))])
        .over(list(source.retriever.item_ids))
    )
    column = np.full((len(rows), max(map(len, rows))), b"", object)
    for row, items in enumerate(rows):
        column[row, : len(items)] = [item.encode() for item in items]
    found = client.infer("user_encoder", {"HISTORY": column})["VECTOR"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert not found[60:62].any()
    for row in range(0, len(rows), 5):
        alone = client.infer("user_encoder", {"HISTORY": column[row : row + 1]})["VECTOR"]
        np.testing.assert_allclose(alone, wanted[row : row + 1], atol=1e-4)


@pytest.mark.parametrize("target", ["onnxruntime-trt", "tensorrt"])
def test_configurations_for_a_gpu(bundle: Path, tmp_path: Path, target: str, classifier: CategoryClassifier) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    models, fake = tmp_path / "models", FakeBuilder()
    assert export_repository(bundle, models, target=target, plans=tmp_path / "plans", builder=fake) == MODELS
    for network in (CategoryNetwork, Ranking):
        text = (models / network.name / CONFIG).read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert config.backend == target.removesuffix("-trt")
        assert config.max_batch_size == network.max_rows
        assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        # the graph is what the configuration says
        (graph,) = (models / network.name / "1").glob("model.*")
        assert graph.name == ("model.onnx" if target == "onnxruntime-trt" else "model.plan")
        session = onnxruntime.InferenceSession(graph)
        ranks = {tensor.name: len(tensor.shape) for tensor in session.get_inputs()}
        assert {t.name: 2 - t.HasField("reshape") for t in config.input} == ranks
        columns = {output.name: output.shape[1] for output in session.get_outputs()}
        assert {t.name: t.dims[0] for t in config.output}.items() <= columns.items()
        if target == "onnxruntime-trt":
            accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator[0]
            assert accelerator.name == "tensorrt"
            most = dict(part.split(":") for part in accelerator.parameters["trt_profile_max_shapes"].split(","))
            assert {n: len(shape.split("x")) for n, shape in most.items()} == ranks
            assert {int(shape.split("x")[0]) for shape in most.values()} == {network.max_rows}
    # in the real server, with strict configuration: only what runs the graph is a fake
    write_both(tmp_path / "next", seed=11)
    assert add_version(models, tmp_path / "next", builder=fake) == dict.fromkeys(sorted(MODELS), 2)
    for name in MODELS:
        remove_version(models, name, 1)
        if name in ("category_classifier", "ranker"):
            run_on_a_fake(models / name)
        else:
            shutil.rmtree(models / name)
    with TritonServer(models, grpc_port=0) as server, Client(server.address, retries=0) as client:
        assert server.models == ["category_classifier", "ranker"]
        found = client.infer("category_classifier", ids_of(classifier, ["apple"], [None]))["logits"]
        assert found[0].argmax() == Engine.open(tmp_path / "next").classify(["apple"], top_k=1).label_indices[0, 0]


class CachingServer(TritonServer):
    def _options(self) -> list[str]:
        wheel = Installation.find().wheel
        folder = [f"--cache-directory={wheel}/caches"] if wheel else []
        return [*super()._options(), "--cache-config=local,size=16777216", *folder]


def test_cached_answers_are_right(tmp_path: Path) -> None:
    # the cache knows a request by its tensors alone: it must be off where parameters or wanted outputs matter
    write_tiny_bundle(tmp_path / "bundle")
    export_repository(tmp_path / "bundle", tmp_path / "models")
    classifier = Bundle.open_as(tmp_path / "bundle", partial(load_classifier, execution="onnx", mode="exact"))
    with CachingServer(tmp_path / "models", grpc_port=0, metrics_port=0) as server, Client(server.address) as client:
        for top_k in (2, 4):
            assert client.classify(["apple"], top_k=top_k).leaf_ids.shape == (1, top_k)
        found = [client.infer("category_classifier", ids_of(classifier, ["apple"], [None]))["logits"] for _ in range(3)]
        np.testing.assert_array_equal(found[1:], found[:1] * 2)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
            metrics = answer.read().decode()
    assert 'nv_cache_num_hits_per_model{model="category_classifier",version="1"} 2' in metrics
    assert 'nv_cache_num_hits_per_model{model="category_match"' not in metrics


def test_stream_through_the_server(server: TritonServer, engine: Engine) -> None:
    pytest.importorskip("confluent_kafka")
    from tests.stream_kit.kafka_io import product, read_all, write

    from aitems_engine.streaming.embedded_broker import CLIENT_SETTINGS, EmbeddedBroker

    texts = [title for title in recorded_titles(10_000)[:-5] if isinstance(title, str) and title.strip()]
    products = [product(number, title) for number, title in enumerate(texts)]
    with EmbeddedBroker({"products": 2, "categories": 2, "products.dlq": 2}) as broker:
        write(broker.bootstrap, "products", products)
        words = ["stream", "classify", "--triton", server.address, "--bootstrap", broker.bootstrap, "--group", "g"]
        words += ["--input-topic", "products", "--output-topic", "categories", "--exit-when-idle-s", "1", "--quiet"]
        words += [part for name, value in CLIENT_SETTINGS.items() for part in ("--kafka", f"consumer.{name}={value}")]
        assert main(words) == 0
        found = {r["product_id"]: r for r in (json.loads(m.value()) for m in read_all(broker.bootstrap, "categories"))}
    titles = {p["product_id"]: p["title"] for p in map(json.loads, products)}
    wanted = engine.classify([titles[i] for i in found], ["가전 > 소형"] * len(found))
    assert len(found) == len(products) > 9000
    for record, right in zip(found.values(), wanted.records(list(found)), strict=True):
        assert [c["leaf_id"] for c in record["categories"]] == [c["leaf_id"] for c in right["categories"]]
        for ours, theirs in zip(record["categories"], right["categories"], strict=True):
            assert abs(ours["probability"] - theirs["probability"]) <= 1e-4
        assert (record["abstained"], record["bundle"]) == (right["abstained"], right["bundle"])


@pytest.mark.parametrize("top_k", [0, 1001, "many"])
def test_wrong_top_k(client: Client, top_k: object) -> None:
    with pytest.raises(InvalidInputError, match="top_k must be a whole number"):
        client.infer("category_match", {"TITLE": np.array([[b"a"]], object)}, top_k=top_k)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b'{"k": 0}', b'{"kk": 1}', b'{"history": [1]}', b'{"deadline_ms": NaN}', b"[" * 9999],
)
def test_malformed_request(client: Client, text: bytes) -> None:
    with pytest.raises(InvalidInputError):
        client.infer("recommend", {"REQUEST": np.array([[text]], object)})
    assert len(client.recommend(Request(k=3))) == 3


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"TITLE": np.zeros((1, 1), np.float32)}, "data-type"),
        ({"TITLE": np.array([b"a"], object)}, "unexpected shape"),
        ({"TITLE": np.array([[b"a", b"b"]], object)}, "unexpected shape"),
        ({"TITLE": np.array([[[b"a"]]], object)}, "unexpected shape"),
        ({"TITLE": np.full((257, 1), b"a", object)}, "batch-size"),
        ({"TITLE": np.array([[b"a"]], object), "PRICE": np.ones((1, 1), np.float32)}, "PRICE"),
        ({"MALL_CATEGORY": np.array([[b"a"]], object)}, "TITLE must have shape"),
        ({"TITLE": np.array([[b"a"], [b"b"]], object), "MALL_CATEGORY": np.array([[b"a"]], object)}, "batch"),
    ],
)
def test_wrong_tensors(client: Client, tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises((InvalidInputError, ServingError), match=says):
        client.infer("category_match", tensors)


@pytest.mark.parametrize(
    ("model", "tensors", "says"),
    [
        ("ranker", {"codes": np.zeros((1, 2), np.int32)}, "expected 2 inputs but got 1"),
        ("ranker", {"codes": np.zeros((1025, 2), np.int32), "dense": np.zeros((1025, 2), np.float32)}, "batch-size"),
        ("ranker", {"codes": np.zeros((1, 1), np.int32), "dense": np.zeros((1, 1), np.float32)}, "unexpected shape"),
        ("user_encoder", {"HISTORY": np.array([b"p1"], object)}, "unexpected shape"),
        ("user_encoder", {"HISTORY": np.full((257, 1), b"p1", object)}, "batch-size"),
        ("user_encoder", {"HISTORY": np.zeros((1, 1), np.float32)}, "data-type"),
        ("category_classifier", {"title_ids": np.zeros((1, 3), np.int32)}, "expected 5 inputs but got 1"),
        ("recommend", {"REQUEST": np.zeros((1, 1), np.int32)}, "data-type"),
        ("recommend", {"REQUEST": np.full((65, 1), b"{}", object)}, "batch-size"),
    ],
)
def test_wrong_tensors_of_other_models(client: Client, model: str, tensors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises((InvalidInputError, ServingError), match=says):
        client.infer(model, tensors)


def test_unknown_model_and_version(client: Client) -> None:
    for model, version in (("categories", ""), ("category_match", "7")):
        with pytest.raises((ServingError, InvalidInputError), match="unknown model"):
            client.infer(model, {"TITLE": np.array([[b"a"]], object)}, version=version)


def test_title_of_ten_megabytes(client: Client, engine: Engine) -> None:
    title = "나이키 에어맥스 " * 430_000
    assert len(title.encode()) > 9_000_000
    found, wanted = (e.classify([title, "apple"], top_k=2) for e in (client, engine))
    assert found.leaf_ids.tolist() == wanted.leaf_ids.tolist()


def test_json_as_curl_sends_it(server: TritonServer, engine: Engine) -> None:
    title = {"name": "TITLE", "datatype": "BYTES", "shape": [1, 1], "data": ["apple"]}
    status, answer = post(server.http_port or 0, "category_match", {"inputs": [title], "parameters": {"top_k": 2}})
    assert status == 200
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    assert found["LEAF_ID"] == engine.classify(["apple"], top_k=2).leaf_ids[0].tolist()
    assert json.loads(found["DETAIL"][0])["bundle"] == engine.bundle_digest
    for body in (b"{", b"[]", b'{"inputs": 1}', {"inputs": [{**title, "shape": [-1, 1]}]}, {"inputs": []}):
        status, answer = post(server.http_port or 0, "category_match", body)
        assert status in (400, 500), answer
        assert answer["error"]
    for shape in ([2**40, 1], [2**62, 4], [2**63 - 1], [2**64, 1]):
        post(server.http_port or 0, "category_match", {"inputs": [{**title, "shape": shape}]})
    assert post(server.http_port or 0, "category_match", {"inputs": [title]})[0] == 200


def test_models_are_loaded_by_nobody_else(server: TritonServer) -> None:
    from tritonclient import grpc, http
    from tritonclient.utils import InferenceServerException

    for api, port in ((grpc, server.grpc_port), (http, server.http_port)):
        stranger = api.InferenceServerClient(f"127.0.0.1:{port}")
        for call in (stranger.unload_model, stranger.load_model):
            with pytest.raises(InferenceServerException, match="restricted"):
                call("recommend")


def test_killed_process_is_loaded_again(server: TritonServer, engine: Engine) -> None:
    assert server.guard() == []
    assert server.processes()["category_match"] == []  # the native backend answers, in the server itself
    with Client(server.address, retries=0) as other, under_load(lambda: other.classify(["apple"])) as found:
        os.kill(server.processes()["recommend"][0], signal.SIGKILL)
        assert repaired(server) == ["model 'recommend' did not answer any more and was loaded again"]
        assert server.guard() == []
    assert set(found) == {"ok"}  # the other model went on
    with Client(server.address, retries=0) as client:
        assert client.recommend(Request(k=2)).item_ids == engine.recommend(Request(k=2)).item_ids


def test_python_backend(engine: Engine, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    export_repository(tmp_path / "bundle", tmp_path / "models", backend="python")
    titles = recorded_titles(300)
    with TritonServer(tmp_path / "models", grpc_port=0) as server, Client(server.address, retries=0) as client:
        for malls in (None, ["식품 > 과일"] * 300):
            found, wanted = (e.classify(titles, malls, top_k=4) for e in (client, Engine.open(tmp_path / "bundle")))
            assert found.leaf_ids.tolist() == wanted.leaf_ids.tolist()
            assert np.abs(found.probabilities - wanted.probabilities).max() <= 1e-4
        os.kill(server.processes()["category_match"][0], signal.SIGKILL)
        assert repaired(server) == ["model 'category_match' did not answer any more and was loaded again"]
        assert client.classify(["apple"]).leaf_ids.tolist() == engine.classify(["apple"]).leaf_ids.tolist()


def test_requests_that_nobody_waits_for(server: TritonServer, engine: Engine) -> None:
    titles = ["나이키 에어맥스 " * 2000] * 256

    def give_up() -> None:
        with pytest.raises(ServingError):
            impatient.classify(titles)

    with (
        Client(server.address, retries=0, deadline_s=0.005) as impatient,
        Client(server.address, retries=0) as client,
        under_load(lambda: client.classify(["apple"])) as found,
    ):
        for _ in range(20):
            give_up()
    assert set(found) == {"ok"}
    assert server.guard() == []


def test_bytes_that_lie(server: TritonServer, engine: Engine) -> None:
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    title = grpc.InferInput("TITLE", [2, 1], "BYTES")
    with grpc.InferenceServerClient(server.address) as api:
        for raw in (b"", b"\3\0\0", b"\1\0\0\0a", b"\xff\xff\xff\xffab", b"\1\0\0\0a" * 3, b"\1\0\0\0a\7\0\0\0abc"):
            title._raw_content = raw
            with pytest.raises(InferenceServerException):
                api.infer("category_match", [title])
    with Client(server.address, retries=0) as client:
        assert client.classify(["apple"]).leaf_ids.tolist() == engine.classify(["apple"]).leaf_ids.tolist()


def test_swaps_under_load(server: TritonServer, bundle: Path, classifier: CategoryClassifier, tmp_path: Path) -> None:
    digests = {write_both(tmp_path / f"b{seed}", seed=seed) for seed in (4, 5)}
    seen = set()

    def ask() -> None:
        seen.add(client.classify(["apple"]).bundle_digest)

    with Client(server.address, retries=0) as client, under_load(ask) as found:
        for turn in range(6):
            server.swap(tmp_path / f"b{4 + turn % 2}")
            if turn == 0:
                after_one = resident_kilobytes([server.pid])
        server.swap(bundle)
        assert resident_kilobytes([server.pid]) < after_one + 10_000
    assert set(found) == {"ok"}
    assert digests < seen
    labels = (server.repository / "category_classifier" / "labels.txt").read_text()
    assert labels.split() == classifier.labels.leaf_ids.tolist()
    assert [versions_of(server.repository / model) for model in server.models] == [[8]] * len(MODELS)


def test_bundles_that_must_not_take_over(server: TritonServer, bundle: Path, engine: Engine, tmp_path: Path) -> None:
    present = versions_of(server.repository / "recommend")
    write_tiny_bundle(tmp_path / "half")
    with pytest.raises(BundleError, match=f"the repository serves {', '.join(sorted(MODELS))}"):
        server.swap(tmp_path / "half")
    write_both(tmp_path / "damaged", seed=8)
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        server.swap(tmp_path / "damaged")
    # one that answers otherwise here than where it was written
    write_both(tmp_path / "other", seed=9)
    added = add_version(server.repository, tmp_path / "other")
    opened = Bundle.open(tmp_path / "other")
    wrong = server.repository / "category_match" / str(added["category_match"]) / NATIVE_FILE
    write_native(opened, native_classifier(bundle), wrong, [([b"apple"], None)], top_k=3)
    with pytest.raises(ServingError, match="this machine does not answer as the engine did"):
        server._control("load_model", "category_match")
    for model, version in added.items():
        remove_version(server.repository, model, version)
    assert versions_of(server.repository / "recommend") == present
    with Client(server.address, retries=0) as client:
        assert client.classify(["apple"]).bundle_digest == engine.bundle_digest


def test_metrics(server: TritonServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        assert b'nv_inference_request_success{model="category_match"' in answer.read()


def test_server_that_ends_is_started_again(server: TritonServer) -> None:
    # a numeric tensor of this shape makes the server allocate without limit, and end
    huge = {"name": "TITLE", "datatype": "FP32", "shape": [2**61, 1], "data": [1]}
    assert post(server.http_port or 0, "category_match", {"inputs": [huge]})[0] == 0
    assert "was started again" in repaired(server)[0]
    assert server.guard() == []
    with Client(server.address) as client:
        assert len(client.recommend(Request(k=3))) == 3


def test_repository_that_cannot_be(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        export_repository(bundle, tmp_path)
    with pytest.raises(ConfigError, match="target must be one of"):
        export_repository(bundle, tmp_path / "a", target="tpu")
    with pytest.raises(ConfigError, match="backend must be one of"):
        export_repository(bundle, tmp_path / "a", backend="rust")
    with pytest.raises(ConfigError, match="instances"):
        export_repository(bundle, tmp_path / "a", instances=0)
    with pytest.raises(ServingError, match="no repository"):
        TritonServer(tmp_path)
    with pytest.raises(ServingError, match="failed to connect"):
        Client("127.0.0.1:9", retries=1).classify(["a"])


def test_server_that_cannot_start_says_why(bundle: Path, tmp_path: Path) -> None:
    export_repository(bundle, tmp_path / "models")
    config = tmp_path / "models" / "recommend" / CONFIG
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_FP99"))
    server = TritonServer(tmp_path / "models", grpc_port=0)
    with pytest.raises(ServingError, match=r"recommend/config\.pbtxt"):
        server.start()
    assert not list(Path("/dev/shm").glob(f"{server.memory_prefix}*"))


def test_serve_command(tmp_path: Path) -> None:
    digests = {write_tiny_bundle(tmp_path / "bundle")}
    command = [sys.executable, "-m", "aitems_engine.cli", "serve", "--bundle", "bundle", "--grpc-port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stdout is not None
            ready = serve.stdout.readline()
            assert ready.startswith("ready: category_classifier, category_match; grpc 127.0.0.1:")
            client = Client(ready.split("; ")[1].removeprefix("grpc "), retries=0, deadline_s=5)
            seen = set()

            def ask() -> None:
                seen.add(client.classify(["apple"]).bundle_digest)

            with under_load(ask) as found:
                digests.add(write_tiny_bundle(tmp_path / "bundle", seed=4))
                end = time.monotonic() + 20
                while seen != digests and time.monotonic() < end:
                    time.sleep(0.1)
            assert seen == digests
            assert set(found) == {"ok"}
            with under_load(ask) as found:
                time.sleep(0.3)
                serve.send_signal(signal.SIGTERM)
                assert serve.wait(30) == 0
            # what was not answered had not been accepted: the server was on its way out or gone
            assert found.pop("ok") > 0
            assert all(kind.startswith("ServingError") and "eadline" not in kind for kind in found), found
        finally:
            serve.kill()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
