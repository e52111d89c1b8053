"""An allocation as a picture: what stays of every choice, and how the planner came to it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.plan.allocation import Allocation

_BEFORE, _AFTER = "#9aa5b1", "#1f6feb"


def plot(allocation: Allocation, *, axes: Sequence[Any] | None = None) -> Any:
    """Returns the Matplotlib figure of an allocation: the widths of its choices, and its trace.

    On the left a bar for every choice, what stays of it in front of what there was; on the right
    the value of every decision of the trace, in order.

    Args:
      allocation: what a planner returned.
      axes: two of Matplotlib, such as `plt.subplots(1, 2)[1]`; by default those of a new figure,
        which has no window: `figure.savefig("plan.png")`.

    Raises:
      JaxpruneError: it is not an allocation, these are not two axes, or Matplotlib is missing.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> found = jp.plan.problem(graph, {"first": [4.0, 3.0, 2.0, 1.0]}, bounds={jp.cost.macs: 0.5})
    >>> figure = jp.plan.plot(jp.plan.sensitivity(found))
    >>> [axes.get_title() for axes in figure.axes]
    ['macs 10 of 20', 'value 7']
    """
    if not isinstance(allocation, Allocation):
        raise JaxpruneError(
            f"plot takes an Allocation, got {kind_of(allocation)}.\nFix: what jp.plan.milp returns."
        )
    left, right = _axes(allocation, axes)
    choices = allocation.problem.choices
    rows, full = np.arange(len(choices)), [choice.widths[0] for choice in choices]
    kept = [allocation.widths[choice.name] for choice in choices]
    shares = [n / most for n, most in zip(kept, full, strict=True)]
    left.barh(rows, [1.0] * len(rows), 0.8, color=_BEFORE)
    bars = left.barh(rows, shares, 0.5, color=_AFTER)
    counts = [f"{n:,} of {most:,}" for n, most in zip(kept, full, strict=True)]
    left.bar_label(bars, counts, padding=3)
    left.set_yticks(rows, [choice.name for choice in choices])
    left.invert_yaxis()
    costs = (
        f"{x.name} {allocation.costs[x.name]:,} of {x.dense:,}" for x in allocation.problem.limits
    )
    left.set(xlabel="share that stays", title="\n".join(costs))
    values = [decision.value for decision in allocation.trace]
    right.plot(range(1, len(values) + 1), values, marker="o", markersize=3, color=_AFTER)
    right.set(xlabel="decision", ylabel="value", title=f"value {allocation.value:.6g}")
    right.grid(alpha=0.3)
    return left.figure


def _axes(allocation: Allocation, axes: Any) -> tuple[Any, Any]:
    if axes is None:
        try:
            from matplotlib.figure import Figure  # not pyplot: no window, no global state
        except ImportError as cause:
            raise JaxpruneError(
                "plot needs Matplotlib, which is not installed.\nFix: pip install matplotlib."
            ) from cause
        height = 2 + 0.3 * len(allocation.problem.choices)
        axes = Figure(figsize=(10, height), layout="constrained").subplots(1, 2)
    given = list(axes) if isinstance(axes, Sequence | np.ndarray) else []
    if len(given) != 2 or not all(hasattr(each, "barh") for each in given):
        raise JaxpruneError(
            f"axes must be two of Matplotlib, got {kind_of(axes)}.\n"
            "Fix: axes=plt.subplots(1, 2)[1], or none."
        )
    return given[0], given[1]
