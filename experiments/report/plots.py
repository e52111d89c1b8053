"""Figures of a pruning run, as PNG files."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure  # not pyplot: no window, no global state
from matplotlib.ticker import MaxNLocator

from experiments.runner import processes

Point = tuple[float, float, float]
"""MACs, what is measured, and its standard error."""

_BEFORE, _AFTER = "#9aa5b1", "#1f6feb"
_POINTS: dict[str, Any] = {"marker": "o", "markersize": 3, "elinewidth": 1}
_COLORS = (_BEFORE, _AFTER, "#d1495b", "#2a9d8f", "#edae49", "#6a4c93", "#8d99ae", "#00798c")


def standard_error(accuracy: float, images: int) -> float:
    """Returns that of a share of so many images, at least one image.

    >>> round(standard_error(0.5, 400), 4), standard_error(1.0, 400)
    (0.025, 0.0025)
    """
    return max((accuracy * (1 - accuracy) / images) ** 0.5, 1 / images)


def scale_histogram(
    path: Path, scales: Mapping[str, np.ndarray], *, threshold: float | None = None
) -> None:
    """Writes the histograms of several sets of BatchNorm scales |gamma|, in one picture.

    Args:
      path: of the picture.
      scales: {name of a set: its values}.
      threshold: below which channels went, if there was one.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, max(values.max() for values in scales.values()) or 1, 50).tolist()
    colors = _COLORS[: len(scales)]
    for (name, values), color in zip(scales.items(), colors, strict=True):
        label = f"{name}: {values.size} scales"
        axes.hist(values, bins, color=color, alpha=0.7, label=label)
    if threshold is not None:
        label = f"threshold {threshold:.3g}"
        axes.axvline(threshold, color=_COLORS[2], linestyle="--", label=label)
    axes.set(
        xlabel=r"$|\gamma|$", ylabel="scales", yscale="log", title="Scales of the BatchNorm layers"
    )
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)
    _save(figure, path)


def curve(
    path: Path,
    ratios: Sequence[float],
    accuracies: Sequence[float],
    *,
    images: int,
    chosen: float,
) -> None:
    """Writes validation accuracy against the share of pruned channels, nothing retrained.

    Args:
      path: of the picture.
      ratios: shares of pruned channels.
      accuracies: at each of them.
      images: how many the accuracies are measured on.
      chosen: the share that the run pruned.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    errors = [standard_error(accuracy, images) for accuracy in accuracies]
    label = f"accuracy on {images} images, ± standard error"
    axes.errorbar(ratios, accuracies, errors, color=_AFTER, label=label, **_POINTS)
    label = f"chosen: {100 * chosen:.0f} % pruned"
    axes.axvline(chosen, color=_COLORS[2], linestyle="--", label=label)
    axes.legend(frameon=False)
    axes.set(
        xlabel="share of channels pruned",
        ylabel="validation accuracy",
        ylim=(0, 1.02),
        title="Pruned, nothing recalibrated or retrained",
    )
    axes.grid(alpha=0.3)
    _save(figure, path)


def rounds(path: Path, records: Sequence[Mapping[str, Any]], *, images: int | None) -> None:
    """Writes validation accuracy and MACs against the prunings, the Ticks of a Gate Decorator.

    What trains between two of them is a step up or down.

    Args:
      path: of the picture.
      records: `accuracy`, `macs` (both 0 to 1), `kind` and `rounds` of every phase.
      images: how many the accuracies are measured on; None where they are not shares of these.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ticks, accuracies = ([r[name] for r in records] for name in ("rounds", "accuracy"))
    errors = [standard_error(accuracy, images) for accuracy in accuracies] if images else None
    label = f"accuracy on {images} images, ± standard error" if images else "accuracy"
    axes.errorbar(ticks, accuracies, errors, color=_AFTER, label=label, **_POINTS)
    macs = [r["macs"] for r in records]
    axes.plot(ticks, macs, color=_COLORS[2], label="MACs", marker="o", markersize=3)
    cuts = [record["rounds"] for record in records if record["kind"] == "commit"]
    for number, place in enumerate(cuts):
        label = None if number else "pruned channels are cut out"
        axes.axvline(place, color=_BEFORE, linestyle=":", label=label)
    _whole_numbers(axes.xaxis)
    axes.set(
        xlabel="prunings",
        ylabel="validation accuracy, share of the MACs",
        ylim=(0, 1.02),
        title="Pruned in rounds",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def widths(path: Path, *, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Writes the channels of every group before and after pruning, as bars."""
    figure = Figure(figsize=(7, 1.5 + 0.4 * len(before)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(before))
    bars = axes.barh(rows, list(before.values()), 0.8, color=_BEFORE, label="before")
    axes.barh(rows, [after[name] for name in before], 0.5, color=_AFTER, label="after")
    axes.bar_label(bars, [f"{after[name]} of {count}" for name, count in before.items()], padding=3)
    axes.margins(x=0.15)
    _whole_numbers(axes.xaxis)
    axes.set_yticks(rows, list(before))
    axes.invert_yaxis()
    axes.set(xlabel="channels", title="Width of every channel group")
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    _save(figure, path)


def spectrum(
    path: Path,
    curves: Mapping[str, Sequence[Point]],
    *,
    measure: str = "test accuracy",
) -> None:
    """Writes accuracy against MACs, a line for each kind of network.

    Args:
      path: of the picture.
      curves: {label: the points of its networks}; error bars are drawn where there are errors.
      measure: what stands for accuracy.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, (label, points) in zip(cycle(_COLORS[1:]), curves.items(), strict=False):
        macs, values, errors = zip(*sorted(points), strict=True)
        axes.errorbar(
            macs, values, errors if any(errors) else None, color=color, label=label, **_POINTS
        )
    axes.set(xlabel="MACs", ylabel=measure, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def compared(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    *,
    dense: float,
    cost: str,
) -> None:
    """Writes accuracy against a cost, a panel for what methods need, a line for each method.

    Args:
      path: of the picture.
      panels: {need: {method: (cost, accuracy, half of its interval) at every budget}}.
      dense: accuracy of the network before any pruning.
      cost: what is on the other axis.
    """
    figure = Figure(figsize=(4 * len(panels), 8), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (need, methods) in zip(every, panels.items(), strict=True):
        for number, (name, points) in enumerate(methods.items()):
            costs, values, errors = zip(*sorted(points), strict=True)
            turn, color = divmod(number, len(_COLORS) - 1)
            line = {"linestyle": ("-", "--", ":", "-.")[turn % 4], "color": _COLORS[1 + color]}
            axes.errorbar(costs, values, errors, label=name, **line, **_POINTS)
        axes.axhline(dense, color=_BEFORE, linestyle="--", label="dense")
        axes.set(xlabel=cost, title=f"needs {need}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="x-small", ncols=2, loc="lower right")
    every[0].set_ylabel("test accuracy")
    _save(figure, path)


def sensitivity(path: Path, swept: Mapping[str, Any]) -> None:
    """Writes accuracy or loss against the share of the channels that one group lost, a line each.

    Args:
      path: of the picture.
      swept: as in `sensitivity.json`.
    """
    groups, measure = swept["groups"], swept["measure"]
    figure = Figure(figsize=(8, 2.5 + 0.25 * max(8, len(groups))), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(groups.items()):
        points = sorted((100 * float(ratio), value) for ratio, value in values.items())
        shares, heights = zip(*points, strict=True)
        turn, color = divmod(number, 5)
        line = ("-", "--", ":", "-.")[turn % 4] + "o"
        axes.plot(shares, heights, line, markersize=3, color=_COLORS[1 + color], label=name)
    dense, label = swept["dense"], "nothing pruned"
    if measure == "accuracy":
        error, label = standard_error(dense, swept["images"]), f"{label}, ± standard error"
        axes.axhspan(dense - error, dense + error, color=_BEFORE, alpha=0.3)
    axes.axhline(dense, color=_BEFORE, linestyle="--", label=label)
    axes.set(
        xlabel=f"channels of one group pruned by {swept['score']}, %",
        ylabel=f"validation {measure}" + (", nats" if measure == "loss" else ""),
        title=f"Each group alone, nothing retrained; {swept['images']} images",
    )
    if measure == "accuracy":
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    if processes.first():
        figure.savefig(path, dpi=150)


def _whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(integer=True))
