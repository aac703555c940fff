"""The `aitems` command: one file a subcommand, found by name in `COMMANDS` and imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aitems_engine import __version__
from aitems_engine.errors import AitemsError, ConfigError

# words of the command -> (module under aitems_engine.cli, one-line help). A module has `configure(parser)`, which adds
# its arguments, and `run(args) -> int | None`. Its docstring is the description, `EXAMPLES` the epilogue.
COMMANDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("doctor",): ("doctor", "versions, instruction sets and optional parts of this installation"),
    ("ann", "build"): ("ann_build", "build a nearest-neighbour index from a file of vectors"),
    ("ann", "search"): ("ann_search", "search a saved nearest-neighbour index"),
    ("ann", "evaluate"): ("ann_evaluate", "recall and speed of a saved index"),
    ("simulate", "shop"): ("simulate_shop", "a Korean shop with known truth: taxonomy, titles, malls, labels"),
    ("train", "tokenizer"): ("train_tokenizer", "train a vocabulary and write tokenizer.json"),
    ("train", "category"): ("train_category", "train the category classifier and write a bundle"),
    ("train", "retrieval"): ("train_retrieval", "train a retriever on events, from popularity to two towers"),
    ("train", "ranking"): ("train_ranking", "train a ranker on impressions: deepfm, dlrm, dcn-v2, esmm"),
    ("stream", "classify"): ("stream_classify", "classify the products of a Kafka topic into another one"),
    ("export", "triton"): ("export_triton", "write the repository of models that Triton serves a bundle from"),
    ("compile",): ("compile", "build TensorRT plans of a bundle's networks on the host that serves them"),
    ("serve",): ("serve", "serve a bundle over gRPC and HTTP with Triton"),
    ("classify",): ("classify", "categories for the products of a file"),
    ("bundle", "build"): ("bundle_build", "catalogue, retrievers, ranker, rules and classifier as one bundle"),
    ("recommend",): ("recommend", "items for a user from a bundle, or for every history of a file"),
    ("explain",): ("explain", "how a page came about, made again from its trace"),
    ("evaluate", "retrieval"): ("evaluate_retrieval", "recall and NDCG of retrievers over the whole catalogue"),
    ("evaluate", "ranking"): ("evaluate_ranking", "AUC, gAUC, log loss and calibration of rankers on impressions"),
    ("evaluate", "policy"): ("evaluate_policy", "what another policy would have earned, from a log: IPS, SNIPS, DR"),
    ("evaluate", "category"): (
        "evaluate_category",
        "accuracy, calibration and coverage of a bundle on labelled products",
    ),
}
GROUPS = {
    "ann": "nearest-neighbour search",
    "export": "write models for other servers",
    "bundle": "put trained models together",
    "simulate": "make data with known truth",
    "train": "train models",
    "evaluate": "measure models and write reports",
    "stream": "run on Kafka streams",
}


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with the arguments of the command that `words` begins with (others: names and help only)."""
    parser = argparse.ArgumentParser(prog="aitems", description="Inference engine for shopping platforms.")
    parser.add_argument("--version", action="version", version=f"aitems-engine {__version__}")
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for path, (module_name, summary) in COMMANDS.items():
        parent = top
        if len(path) == 2:
            if path[0] not in groups:
                group = top.add_parser(path[0], help=GROUPS[path[0]], description=GROUPS[path[0]])
                groups[path[0]] = group.add_subparsers(metavar="WHAT", required=True)
            parent = groups[path[0]]
        if tuple(words[: len(path)]) != path:
            parent.add_parser(path[-1], help=summary)
            continue
        module = importlib.import_module(f"aitems_engine.cli.{module_name}")
        command = parent.add_parser(
            path[-1],
            help=summary,
            description=module.__doc__,
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed with a message, 2 wrong usage, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(words).parse_args(words)
    try:
        status: int = args.run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (AitemsError, OSError) as error:
        print(f"aitems: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def read_json(path: Path) -> Any:
    """Return what a JSON file given to a command holds; a `ConfigError` where it holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
