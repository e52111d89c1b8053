"""Figures of a pruning run, as PNG files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window, no global state

_BEFORE, _AFTER = "#9aa5b1", "#1f6feb"


def scale_histogram(path: Path, *, before: np.ndarray, after: np.ndarray) -> None:
    """Writes the histogram of the BatchNorm scales |gamma|, before and after pruning."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(before.max(), after.max()), 50).tolist()
    axes.hist(before, bins, color=_BEFORE, label=f"before: {before.size} scales")
    axes.hist(after, bins, color=_AFTER, alpha=0.8, label=f"after: {after.size} scales")
    axes.set(
        xlabel=r"$|\gamma|$", ylabel="scales", yscale="log", title="Scales of the BatchNorm layers"
    )
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
