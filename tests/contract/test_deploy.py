"""What docs/deploy/ holds fits its schemas and this package: commands parse, ports agree, metrics exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aitems_engine.cli import build_parser

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
DASHBOARD = json.loads((DEPLOY / "dashboard.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\b(?:nv|aitems)_\w+")


def dashboard_metrics() -> set[str]:
    """Return the names of the metrics that the dashboard asks for."""
    return {
        name for panel in DASHBOARD["panels"] for t in panel.get("targets", ()) for name in METRIC.findall(t["expr"])
    }


def documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def test_compose_files_fit_the_schema() -> None:
    pytest.importorskip("check_jsonschema")
    files = [DEPLOY / "compose.yaml", DEPLOY.parent / "kafka-compose.yaml"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_objects_fit_the_schema() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    objects = documents("kubernetes.yaml")
    assert len(objects) >= 5
    for one in objects:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    wrong = json.loads(json.dumps(objects[0]))
    wrong["spec"]["template"]["spec"]["containers"][0]["port"] = 8001
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_commands_of_the_containers_parse() -> None:
    (compose,) = documents("compose.yaml")
    commands = [s["command"] for s in compose["services"].values() if s["image"] == "aitems-engine"]
    for one in documents("kubernetes.yaml"):
        if one["kind"] == "Deployment":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            commands.append(container["args"])
            arguments = build_parser(container["args"]).parse_args(container["args"])
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert arguments.metrics_port == ports["metrics"]
            if "grpc" in ports:
                probes = [container[name]["grpc"]["port"] for name in ("startupProbe", "readinessProbe")]
                assert [arguments.grpc_port] * 2 == probes == [ports["grpc"]] * 2
    assert len(commands) == 4
    for words in commands:
        build_parser(words).parse_args(words)


def test_dashboard() -> None:
    pytest.importorskip("prometheus_client")
    from aitems_engine.streaming.metrics import StreamMetrics

    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    there = {f.name + s for f in StreamMetrics().registry.collect() for s in suffixes[f.type]}
    asked = dashboard_metrics()
    # those of the server: tests/integration/test_triton_client.py asks a running one
    assert {name for name in asked if name.startswith("aitems_")} <= there
    assert any(name.startswith("nv_") for name in asked)
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: Counter[tuple[int, int]] = Counter()
    for at in (panel["gridPos"] for panel in panels):
        cells.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) < 24


def test_no_model_has_a_queue_policy() -> None:
    """With one, this Triton sleeps for half a second where it misses a call (docs/design/0003-triton.md)."""
    templates = list((DEPLOY.parents[1] / "model_repository").glob("*/config.pbtxt"))
    assert templates
    assert [path.parent.name for path in templates if "queue_policy {" in path.read_text()] == []
