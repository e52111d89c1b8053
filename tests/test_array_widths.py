"""Counts rounded so that the widths of arrays are multiples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.select import ArrayWidth

CONV = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)  # fmt: skip
SHAPES = {"a": (1, 1, 3, 32), "b": (3, 3, 8, 32), "c": (1, 1, 32, 6), "d": (9, 2), "e": (3, 3)}


@functools.cache
def resnext() -> jp.ChannelGraph:
    """A convolution in 4 groups of 8 channels, then a concatenation."""

    def fn(v: Any, x: Any) -> Any:
        y = CONV(CONV(x, v["a"]), v["b"], feature_group_count=4)
        y = CONV(y, v["c"]).mean((1, 2))
        return jnp.concatenate([y, x.mean((1, 2)) @ v["e"]], -1) @ v["d"]

    v = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return jp.trace(fn, v, np.ones((1, 2, 2, 3), np.float32))


GROUPS, FIRST, SECOND, LAST, SIDE = resnext().groups


def reached(multiple_of: Any, **constraints: Any) -> dict[str, set[int]]:
    """All counts that any ratio leaves, by group."""
    graph = resnext()
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    found: dict[str, set[int]] = {name: set() for name in graph.groups}
    for ratio in np.linspace(0, 0.99, 60):
        keep = jp.select.threshold(
            graph, scores, threshold=8.5 * ratio, multiple_of=multiple_of, **constraints
        )
        for name, kept in keep.items():
            found[name].add(int(kept.sum()))
    return found


def test_the_width_of_an_array_is_rounded_and_not_that_of_a_group() -> None:
    found = reached(ArrayWidth(8), min_channels=1)
    assert found[GROUPS] == {4}  # fewer groups alone would not be a multiple
    assert found[FIRST] == found[SECOND] == {8, 6, 4, 2}
    assert found[LAST] == {6}
    assert reached(8)[SECOND] == {8}


def test_groups_that_stay_whole_count_as_they_are() -> None:
    for rest in ({"protect": GROUPS}, {"only": SECOND}):
        assert reached(ArrayWidth(16), **rest)[SECOND] == {8, 4}
    graph = resnext()
    within = {GROUPS: np.array([True, True, False, True])}
    scores = {SECOND: np.arange(8.0)}
    keep = jp.select.per_group(
        graph, scores, prune_ratio=0.4, multiple_of=ArrayWidth(12), within=within
    )
    assert keep[SECOND].sum() == 4  # 3 groups of 4


def test_parts_of_a_concatenation_are_rounded_each() -> None:
    found = reached({LAST: ArrayWidth(3), SIDE: ArrayWidth(2), SECOND: 1})
    assert (found[LAST], found[SIDE]) == ({6, 3}, {3, 2})
    assert len(found[SECOND]) == 8


def test_smaller_factors_are_rounded_first() -> None:
    found = reached({"*": ArrayWidth(2)})
    assert found[GROUPS] == {4, 2}
    assert found[SECOND] == set(range(1, 9))


def test_a_width_of_no_number_is_refused() -> None:
    with pytest.raises(jp.errors.BudgetError, match="at least 1, got 0"):
        ArrayWidth(0)
