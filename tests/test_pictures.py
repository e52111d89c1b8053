"""The picture of an allocation shows its widths, its costs and its trace."""

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")

from matplotlib.figure import Figure

import jaxprune as jp
from jaxprune.plan import plot, random_search
from test_level_swaps import interacting, small, switched


def test_bars_are_the_shares_and_the_line_is_the_trace() -> None:
    found = small()
    plan = random_search(found, interacting(found), draws=30)
    left, right = plot(plan).axes
    (_, kept) = left.containers
    widths = [bar.get_width() for bar in kept]
    assert widths == [plan.widths[c.name] / c.widths[0] for c in found.choices]
    assert [tick.get_text() for tick in left.get_yticklabels()] == [c.name for c in found.choices]
    assert left.get_title() == "\n".join(
        f"{x.name} {plan.costs[x.name]:,} of {x.dense:,}" for x in found.limits
    )
    (line,) = right.lines
    assert list(line.get_ydata()) == [step.value for step in plan.trace]
    assert list(line.get_xdata()) == list(range(1, len(plan.trace) + 1))


def test_it_draws_on_given_axes_and_branches_too() -> None:
    figure = Figure()
    axes = figure.subplots(2, 1)
    plan = jp.plan.milp(switched(), gap=0.0)
    assert plot(plan, axes=axes) is figure
    assert len(axes[0].containers[1]) == len(plan.widths)
    assert list(axes[1].lines[0].get_ydata()) == [step.value for step in plan.trace]
