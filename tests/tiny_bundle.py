"""A bundle with random weights, made in milliseconds: for every test that needs an engine but no trained model.

    write_tiny_bundle(path)            # then Engine.open(path); or the fixture `tiny_bundle` of conftest.py

The model has every branch (title CNN, n-gram bag, mall CNN), a WordPiece vocabulary of letters, digits and some Korean
syllables, and a three-level tree of six leaves. Its answers mean nothing, but they are the same on every machine and in
every execution, differ between titles, and some rows abstain.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from aitems_engine.bundle import write_bundle

TAXONOMY_CSV = """category_id,parent_id,name
food,,식품
digital,,Digital
fruit,food,Fruit
snack,food,Snack
phone,digital,Phone
apple,fruit,Apple
pear,fruit,Pear
chips,snack,Chips
cookie,snack,Cookie
smart,phone,Smartphone
cable,phone,Cable
"""
LABELS = ["apple", "pear", "chips", "cookie", "smart", "cable"]
SYLLABLES = "나이키에어맥스남성운동화사과배과자쿠키폰케이블삼성갤럭시노트충전기고속무선전자식품"
GRAM_BUCKETS = 64


def tokenizer_json() -> str:
    """Return a WordPiece tokenizer.json of single characters, pad 0 and unknown 1."""
    characters = dict.fromkeys("abcdefghijklmnopqrstuvwxyz0123456789+-.,>()[]/" + SYLLABLES)
    vocabulary = ["[PAD]", "[UNK]", *characters, *(f"##{c}" for c in characters)]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: i for i, token in enumerate(vocabulary)},
            },
        },
        ensure_ascii=False,
    )


def tiny_tensors(vocabulary: int, *, seed: int = 3, classes: int = len(LABELS)) -> dict[str, Any]:
    """Return random weights of a model with all branches."""
    rng = np.random.default_rng(seed)
    dimension, hidden = 8, 8
    tensors = {"embedding.weight": rng.normal(size=(vocabulary, dimension))}
    tensors["embedding.weight"][0] = 0
    depth = 0
    for branch, widths, filters in (("title", (2, 3), 12), ("mall", (1, 2), 4)):
        for width in widths:
            tensors[f"{branch}.conv{width}.weight"] = rng.normal(size=(filters, dimension, width)) / 4
            tensors[f"{branch}.conv{width}.bias"] = rng.normal(size=filters) / 4
            depth += filters
    tensors["title.bag.weight"] = rng.normal(size=(GRAM_BUCKETS, hidden))
    tensors["title.bag.bias"] = rng.normal(size=hidden) / 4
    depth += hidden
    tensors["head.weight"] = rng.normal(size=(classes, depth)) * 0.6
    tensors["head.bias"] = rng.normal(size=classes) / 4
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}


def classifier_json(**changes: Any) -> dict[str, Any]:
    """Return the settings that go with `tiny_tensors`."""
    return {
        "format_version": 1,
        "labels": LABELS,
        "max_title_length": 32,
        "max_mall_length": 16,
        "gram_min": 2,
        "gram_max": 4,
        "gram_buckets": GRAM_BUCKETS,
        "temperature": 1.0,
        "thresholds": {"default": 0.6, "by_top": {"food": 0.7}},
        "training": {"note": "random weights, for tests"},
    } | changes


def tiny_parts(*, seed: int = 3) -> dict[str, Any]:
    """Return the parts of the bundle by name."""
    from safetensors.numpy import save

    from aitems_engine.training.onnx_graph import build_onnx

    tokenizer = tokenizer_json()
    tensors = tiny_tensors(len(json.loads(tokenizer)["model"]["vocab"]), seed=seed)
    return {
        "tokenizer.json": tokenizer,
        "taxonomy.csv": TAXONOMY_CSV,
        "classifier.json": json.dumps(classifier_json(), ensure_ascii=False),
        "model.safetensors": save(tensors),
        "model.onnx": build_onnx(tensors),
    }


def write_tiny_bundle(path: str | Path, *, seed: int = 3) -> str:
    """Write the bundle and return its digest."""
    return write_bundle(path, tiny_parts(seed=seed), config={"seed": seed})
