"""Build what a bundle's networks run as on this host: TensorRT plans for its GPU.

A plan is compared with ONNX Runtime and kept where it agrees and computes in the precision that was asked for; it is
built again where the model, TensorRT, the GPU or its driver changes. `aitems export triton --target tensorrt` takes the
plans from here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """  aitems compile --target tensorrt --bundle bundle
  aitems compile --target tensorrt --bundle bundle --precision int8 --plans /var/lib/aitems/plans
  aitems export triton --target tensorrt --bundle bundle --out repository
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `aitems compile`."""
    add = parser.add_argument
    add("--target", choices=["tensorrt"], required=True, help="what runs the networks")
    add("--bundle", type=Path, required=True, help="directory written by `aitems train category` or `bundle build`")
    add("--plans", type=Path, default=Path("plans"), help="directory where plans are kept (default plans)")
    add("--precision", default="fp16", help="fp16 (default) or int8")


def run(args: argparse.Namespace) -> None:
    """Build the plans that are not there yet and say how each computes."""
    from aitems_engine.serving.networks import Network
    from aitems_engine.serving.plans import plan_of
    from aitems_engine.serving.repository import models_of
    from aitems_engine.serving.tensorrt_builder import TensorRtBuilder

    networks = [model for model in models_of(args.bundle) if isinstance(model, Network)]
    builder = TensorRtBuilder()
    for network in networks:
        network.open(args.bundle, {})
        plan = plan_of(network, builder, args.plans, args.precision)
        layers = ", ".join(f"{count} layers in {kind}" for kind, count in plan.layers.items() if count)
        print(
            f"{network.name}: {plan.path} ({'new' if plan.new else 'kept'}): {layers}; "
            f"off ONNX Runtime by {plan.deviation:.2g} at most, {plan.tolerance:g} allowed"
        )
