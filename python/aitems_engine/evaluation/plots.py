"""Pictures of the report as PNG bytes. Labels are English words and numbers only, so that no font is missing a glyph.

Figures are made without pyplot: no global state, no window system, safe in threads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aitems_engine.errors import require_extra
from aitems_engine.evaluation.metrics import CoverageCurve, ReliabilityBins

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f77b4", "#d9730d", "#999999"


def _figure(width: float, height: float) -> Figure:
    require_extra("train", "matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def learning_curve(epochs: Sequence[Mapping[str, float]]) -> bytes:
    """Draw losses (left) and other measures (right) by epoch; keys are the names of the lines."""
    names = [n for n in dict.fromkeys(k for e in epochs for k in e) if n != "epoch"]
    losses, others = (
        [n for n in names if "loss" in n or "nll" in n],
        [n for n in names if "loss" not in n and "nll" not in n],
    )
    figure = _figure(9, 3.6)
    for axis, group, label in zip(figure.subplots(1, 2), (losses, others), ("loss", "measure"), strict=True):
        for name in group:
            points = [(e.get("epoch", i + 1), e[name]) for i, e in enumerate(epochs) if name in e]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.replace("_", " "))
        axis.set(xlabel="epoch", ylabel=label)
        axis.grid(alpha=0.3)
        if group:
            axis.legend(frameon=False, fontsize=8)
    return _png(figure)


def reliability(
    bins: ReliabilityBins, labels: tuple[str, str] = ("confidence", "accuracy"), *, whole: bool = True
) -> bytes:
    """Draw accuracy against confidence; on the diagonal a probability means what it says.

    Parameters
    ----------
    bins : ReliabilityBins
    labels : two str
        Of the axes.
    whole : bool
        From 0 to 1; otherwise as far as there are values, as for clicks, which are rare.
    """
    figure = _figure(4.6, 4.4)
    axis = figure.subplots()
    end = 1.02 if whole else 1.05 * float(max(bins.confidence.max(), bins.accuracy.max(), 1e-6))
    axis.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    axis.vlines(bins.confidence, bins.confidence, bins.accuracy, color=ORANGE, linewidth=2, label="gap")
    axis.plot(bins.confidence, bins.accuracy, color=BLUE, marker="o", markersize=4, label="model")
    axis.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, end), ylim=(0, end))
    axis.set_title(f"ECE {bins.error:.4f}", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return _png(figure)


def coverage(curve: CoverageCurve, point: tuple[float, float] | None) -> bytes:
    """Draw accuracy against coverage, with the point where the thresholds of the bundle stand."""
    figure = _figure(6, 3.8)
    axis = figure.subplots()
    axis.plot(curve.coverage, curve.accuracy, color=BLUE, label="by confidence")
    if point is not None:
        axis.plot(*point, color=ORANGE, marker="o", linestyle="", label="thresholds of the bundle")
        axis.legend(frameon=False, fontsize=8)
    axis.set(xlabel="coverage", ylabel="accuracy of the rows kept", xlim=(0, 1.02))
    axis.grid(alpha=0.3)
    return _png(figure)


def confusion(counts: npt.NDArray[Any]) -> bytes:
    """Draw a confusion matrix as shares of each row; the last column is 'any other'. Shape (k, k + 1)."""
    k = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(0.42 * k + 2.2, 0.38 * k + 1.6)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(k + 1), [*map(str, range(1, k + 1)), "other"], fontsize=8)
    axis.set_yticks(range(k), list(map(str, range(1, k + 1))), fontsize=8)
    axis.set(xlabel="answer", ylabel="truth")
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[i, j] > 0.5 else "black"
        axis.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=colour)
    return _png(figure)


def measures(found: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> bytes:
    """Draw measure -> model -> (mean, low, high) as points with intervals, one axis a measure."""
    figure = _figure(3.2 * len(found), 1.2 + 0.4 * max(map(len, found.values())))
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (measure, models) in zip(axes, found.items(), strict=True):
        for row, (mean, low, high) in enumerate(models.values()):
            axis.plot([low, high], [row, row], color=GREY, linewidth=2)
            axis.plot(mean, row, color=BLUE, marker="o", markersize=5)
        axis.set_yticks(range(len(models)), list(models) if axis is axes[0] else [""] * len(models), fontsize=8)
        axis.set(title=measure, ylim=(len(models) - 0.5, -0.5))
        axis.grid(alpha=0.3, axis="x")
    return _png(figure)


def recall_against_rate(
    curve: Sequence[tuple[float, float]], chosen: tuple[float, float], exact_rate: float, k: int
) -> bytes:
    """Draw recall against queries per CPU-second of an index: by effort, the chosen effort, and the exact scan."""
    figure = _figure(6, 3.8)
    axis = figure.subplots()
    if curve:
        axis.plot(*zip(*curve, strict=True), color=BLUE, marker="o", markersize=4, label="by number of lists probed")
    axis.plot(*chosen, color=ORANGE, marker="D", linestyle="", label="the index as it is")
    axis.plot([1], [exact_rate], color=GREY, marker="s", linestyle="", label="exact scan")
    axis.set(xlabel=f"recall@{k}", ylabel="queries per CPU-second", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, fontsize=8)
    return _png(figure)
