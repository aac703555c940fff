"""Write the repository of models that Triton serves a bundle from: configurations, shells, warm-up, the bundle itself.

Every model comes with requests recorded here and their answers: the server loads it only where it answers the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """  aitems export triton --bundle bundle --out repository
  aitems export triton --bundle bundle --out repository --instances 4
  aitems export triton --bundle bundle --out repository --target onnxruntime-trt
  aitems export triton --bundle bundle --out repository --target tensorrt --precision int8
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems export triton`."""
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="directory written by `aitems train category` or `bundle build`")
    add("--out", type=Path, required=True, help="directory for the repository; must not exist or be empty")
    add("--target", default="cpu", help="what the server runs on: cpu (default), onnxruntime-trt or tensorrt")
    add("--backend", default="auto", help="what answers category_match: auto (default), native or python")
    add("--instances", type=int, default=1, metavar="N", help="processes for each model (default 1)")
    add("--plans", type=Path, default=Path("plans"), help="of tensorrt: directory where plans are kept (default plans)")
    add("--precision", default="fp16", help="of tensorrt: fp16 (default) or int8")


def run(args: argparse.Namespace) -> None:
    """Write the repository and name its models."""
    from aitems_engine.serving.repository import export_repository

    models = export_repository(
        args.bundle,
        args.out,
        target=args.target,
        instances=args.instances,
        backend=args.backend,
        plans=args.plans,
        precision=args.precision,
    )
    print(f"{args.out}: {', '.join(models)}")
