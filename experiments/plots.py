"""Figures of a pruning run, as PNG files."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window, no global state

_BEFORE, _AFTER = "#9aa5b1", "#1f6feb"
_COLORS = (_BEFORE, _AFTER, "#d1495b", "#2a9d8f", "#edae49", "#6a4c93", "#8d99ae", "#00798c")


def scale_histogram(path: Path, scales: Mapping[str, np.ndarray]) -> None:
    """Writes the histograms of several sets of BatchNorm scales |gamma|, in one picture."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(values.max() for values in scales.values()) or 1, 50).tolist()
    colors = _COLORS[: len(scales)]
    for (name, values), color in zip(scales.items(), colors, strict=True):
        label = f"{name}: {values.size} scales"
        axes.hist(values, bins, color=color, alpha=0.7, label=label)
    axes.set(
        xlabel=r"$|\gamma|$", ylabel="scales", yscale="log", title="Scales of the BatchNorm layers"
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def curve(path: Path, ratios: Sequence[float], accuracies: Sequence[float]) -> None:
    """Writes validation accuracy against the share of pruned channels, nothing retrained."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(ratios, accuracies, color=_AFTER, marker="o", markersize=3)
    axes.set(
        xlabel="share of channels pruned",
        ylabel="validation accuracy",
        ylim=(0, 1.02),
        title="Pruned, nothing recalibrated or retrained",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def rounds(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes validation accuracy and MACs against the prunings, the Ticks of a Gate Decorator.

    What trains between two of them is a step up or down; dotted lines are where it was cut.

    Args:
      path: of the picture.
      records: `accuracy`, `macs` (both 0 to 1), `kind` and `rounds` of every phase.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    marker = {"marker": "o", "markersize": 3}
    ticks = [r["rounds"] for r in records]
    axes.plot(ticks, [r["accuracy"] for r in records], color=_AFTER, label="accuracy", **marker)
    axes.plot(ticks, [r["macs"] for r in records], color=_COLORS[2], label="MACs", **marker)
    for record in records:
        if record["kind"] == "commit":
            axes.axvline(record["rounds"], color=_BEFORE, linestyle=":")
    axes.set(
        xlabel="prunings",
        ylabel="validation accuracy, share of the MACs",
        ylim=(0, 1.02),
        title="Pruned in rounds",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def widths(path: Path, *, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Writes the channels of every group before and after pruning, as bars."""
    figure = Figure(figsize=(7, 1.5 + 0.4 * len(before)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(before))
    axes.barh(rows, list(before.values()), 0.8, color=_BEFORE, label="before")
    bars = axes.barh(rows, [after[name] for name in before], 0.5, color=_AFTER, label="after")
    axes.bar_label(bars, padding=3)
    axes.set_yticks(rows, list(before))
    axes.invert_yaxis()
    axes.set(xlabel="channels", title="Width of every channel group")
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def spectrum(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    measure: str = "test accuracy",
) -> None:
    """Writes accuracy against MACs, a line for each kind of network.

    Args:
      path: of the picture.
      curves: {label: (MACs, accuracy) of its networks}.
      measure: what stands for accuracy.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, (label, points) in zip(cycle(_COLORS[1:]), curves.items(), strict=False):
        macs, accuracies = zip(*sorted(points), strict=True)
        axes.plot(macs, accuracies, color=color, marker="o", markersize=3, label=label)
    axes.set(xlabel="MACs", ylabel=measure, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
