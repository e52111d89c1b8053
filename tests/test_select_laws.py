"""Selectors on random scores and constraints, against a second, plain implementation."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import jaxprune as jp
from chains import chain, kept, widths
from jaxprune import cost, select
from jaxprune.errors import BudgetError

SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=3)
CONSTRAINTS = st.fixed_dictionaries(
    {},
    optional={
        "min_channels": st.integers(1, 4),
        "min_keep_ratio": st.sampled_from([0.1, 0.3, 0.5]),
        "max_prune_ratio": st.sampled_from([0.4, 0.7, 1.0]),
        "multiple_of": st.integers(1, 4),
    },
)


@st.composite
def cases(draw):
    """Returns a graph, scores with ties, and constraints."""
    graph, _ = chain(*draw(SIZES))
    scores = {
        name: np.array(draw(st.lists(st.integers(0, 5), min_size=g.size, max_size=g.size)), float)
        for name, g in graph.groups.items()
    }
    return graph, scores, draw(CONSTRAINTS)


def allowed(count, size, constraints):
    """True if a group of `size` may keep `count`; written as the constraints are stated."""
    if count == size:
        return True
    kept_share = Fraction(count, size)
    return (
        count >= constraints.get("min_channels", 1)
        and kept_share >= Fraction(str(constraints.get("min_keep_ratio", 0)))
        and 1 - kept_share <= Fraction(str(constraints.get("max_prune_ratio", 1)))
        and count % constraints.get("multiple_of", 1) == 0
    )


def points(scores, constraints):
    """Returns every keep on the way down, each one step after the last."""
    keep = {name: np.ones(values.size, bool) for name, values in scores.items()}
    found = [keep]
    while True:
        steps = []
        for place, (name, values) in enumerate(scores.items()):
            alive = [int(c) for c in np.flatnonzero(keep[name])]
            alive.sort(key=lambda c, values=values: (values[c], c))
            for gone in range(1, len(alive)):
                if allowed(len(alive) - gone, values.size, constraints):
                    steps.append((values[alive[gone - 1]], place, name, alive[:gone]))
                    break
        if not steps:
            return found
        _, _, name, gone = min(steps)
        keep = {other: mask.copy() for other, mask in keep.items()}
        keep[name][gone] = False
        found.append(keep)


@given(cases(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]))
def test_global_ratio_is_the_first_reachable_point_that_removes_enough(case, ratio):
    graph, scores, constraints = case
    total = sum(group.size for group in graph.groups.values())
    wanted = int(total * Fraction(str(ratio)))
    reached = [p for p in points(scores, constraints) if total - sum(widths(p)) >= wanted]
    if reached:
        keep = select.global_ratio(graph, scores, prune_ratio=ratio, **constraints)
        assert kept(keep) == kept(reached[0])
    else:
        with pytest.raises(BudgetError, match=f"asks for {wanted} of {total} channels"):
            select.global_ratio(graph, scores, prune_ratio=ratio, **constraints)


@given(cases(), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.sampled_from([0.2, 0.6, 1.0]))
def test_budget_is_the_first_reachable_point_at_or_below_all_bounds(case, share, other):
    graph, scores, constraints = case

    def holds(keep):
        return cost.macs(graph, keep) <= share * cost.macs(graph) and cost.activation_bytes(
            graph, keep
        ) <= other * cost.activation_bytes(graph)

    bounds = {"keep_macs": share, "keep_bytes": jp.Share(other)}
    reached = [p for p in points(scores, constraints) if holds(p)]
    if reached:
        keep = select.budget(graph, scores, **bounds, **constraints)
        assert kept(keep) == kept(reached[0])
    else:
        with pytest.raises(BudgetError, match="smallest reachable"):
            select.budget(graph, scores, **bounds, **constraints)


@given(cases(), st.integers(0, 5))
def test_threshold_is_the_last_point_that_keeps_all_above_it(case, level):
    graph, scores, constraints = case
    keep = select.threshold(graph, scores, threshold=level, **constraints)
    on_the_way = [
        p
        for p in points(scores, constraints)
        if all(p[name][scores[name] > level].all() for name in p)
    ]
    assert kept(keep) == kept(on_the_way[-1])


@given(cases(), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_per_group_is_the_largest_allowed_count_at_or_below_the_ratio(case, ratio):
    graph, scores, constraints = case
    floors = {name: value for name, value in constraints.items() if name != "multiple_of"}
    expected, stuck = {}, []
    for name, group in graph.groups.items():
        size = group.size
        wanted = size - int(size * Fraction(str(ratio)))
        reachable = [c for c in range(1, size + 1) if allowed(c, size, constraints)]
        below = [c for c in reachable if c <= wanted]
        expected[name] = below[-1] if below else reachable[0]
        multiple_is_to_blame = any(allowed(c, size, floors) for c in range(1, size))
        if wanted < size and reachable == [size] and multiple_is_to_blame:
            stuck.append(name)
    if stuck:
        with pytest.raises(BudgetError, match="leaves no count but the full size") as caught:
            select.per_group(graph, scores, prune_ratio=ratio, **constraints)
        assert [name for name in graph.groups if repr(name) in str(caught.value)] == stuck
        return
    keep = select.per_group(graph, scores, prune_ratio=ratio, **constraints)
    assert dict(zip(keep, widths(keep), strict=True)) == expected
    for name, mask in keep.items():
        ranked = np.argsort(scores[name], kind="stable")
        assert mask[ranked].tolist() == sorted(mask.tolist())
