"""Scores that know the cost of a channel, worked by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import BudgetError, KeepError, ScoreError

A, B = "layer_0/kernel", "layer_1/kernel"
SCORES = {A: np.array([4.0, 1.0, 3.0, 2.0]), B: np.array([5.0, 6.0, 0.5, 7.0, 8.0])}


def get_score(score: np.ndarray, mask: np.ndarray, area: int, eta: float) -> np.ndarray:
    """`GatedBatchNorm2d.get_score(eta)` of the authors' code, line by line."""
    flops_reg = eta * area * mask.sum()
    return (score - flops_reg) * mask


def network(v: Any, x: Any) -> Any:
    """A stem at 4 x 4 with a residual branch, then a strided layer at 2 x 2, and a head."""

    def conv(x: Any, kernel: Any, stride: int = 1) -> Any:
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=dims
        )

    x = conv(x, v["stem"])
    x = jax.nn.relu(x + conv(jax.nn.relu(conv(x, v["up"])), v["down"]))
    return jax.nn.relu(conv(x, v["narrow"], 2)).mean((1, 2)) @ v["head"]


SHAPES = {"stem": (3, 3, 2, 4), "up": (1, 1, 4, 6), "down": (3, 3, 6, 4), "narrow": (3, 3, 4, 5)}
VARIABLES = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
VARIABLES["head"] = np.ones((5, 3), np.float32)
GRAPH = jp.trace(network, VARIABLES, jnp.ones((1, 4, 4, 2)))
STREAM = next(name for name, group in GRAPH.groups.items() if group.size == 4)


def test_the_numbers_of_the_authors_by_hand() -> None:
    """Areas are 16, 16 (twice for the stream: stem and down) and 4, the least; eta is 0.5.

    up: 0.5 / 4 * 16 * 6 = 12. narrow: 0.5 / 4 * 4 * 5 = 2.5. The stream: two gates of 0.5 / 4 * 16
    * 4 = 8 each.
    """
    scores = {STREAM: np.arange(4.0), "up": np.arange(6.0), "narrow": np.arange(5.0)}
    found = jp.select.cost_regularized(GRAPH, scores, strength=0.5)
    np.testing.assert_allclose(found[STREAM], np.arange(4.0) - 16)
    np.testing.assert_allclose(found["up"], np.arange(6.0) - 12)
    np.testing.assert_allclose(found["narrow"], np.arange(5.0) - 2.5)


def test_it_is_get_score_of_the_authors_code() -> None:
    random = np.random.default_rng(0)
    gates = {STREAM: (16, 16), "up": (16,), "narrow": (4,)}  # the areas of the members
    members = {
        name: [random.random(GRAPH.groups[name].size) for _ in areas]
        for name, areas in gates.items()
    }
    keep = {"up": np.array([1, 0, 1, 1, 0, 1], bool), "narrow": np.array([0, 1, 1, 0, 0], bool)}
    eta, eta_scale_factor = 0.3, min(area for areas in gates.values() for area in areas)
    expected = {}
    for name, areas in gates.items():  # `IterRecoverFramework.prune`
        mask = keep.get(name, np.ones(GRAPH.groups[name].size, bool))
        each = zip(members[name], areas, strict=True)
        expected[name] = sum(get_score(s, mask, area, eta / eta_scale_factor) for s, area in each)
    joint: dict[str, Any] = {name: sum(scores) for name, scores in members.items()}
    joint["up"][1] = np.nan  # a channel that is gone
    found = jp.select.cost_regularized(GRAPH, joint, strength=eta, within=keep)
    for name in gates:
        np.testing.assert_allclose(found[name], expected[name])
    assert found["up"][1] == found["narrow"][0] == 0


def test_areas_are_those_of_the_groups_that_are_scored() -> None:
    """Without `narrow` the least area is 16."""
    found = jp.select.cost_regularized(GRAPH, {"up": np.zeros(6)}, strength=0.5)
    np.testing.assert_allclose(found["up"], -0.5 * 6)


def test_a_cost_charges_what_the_network_saves() -> None:
    """A channel of A costs 2 + 5 MACs, one of B 4 + 3: both 7. At 2 channels of A, B costs 5."""
    graph, _ = chain(4, 5)
    same = jp.select.cost_regularized(graph, SCORES, strength=0.5, cost=jp.cost.macs)
    for name, values in SCORES.items():
        np.testing.assert_allclose(same[name], values - 0.5)
    within = {A: np.array([True, True, False, False])}
    found = jp.select.cost_regularized(
        graph, SCORES, strength=0.5, cost=jp.cost.macs, within=within
    )
    np.testing.assert_allclose(found[A], [4 - 0.5 * 7 / 5, 1 - 0.5 * 7 / 5, 0, 0])
    np.testing.assert_allclose(found[B], SCORES[B] - 0.5)
    last = {A: np.array([True, False, False, False])}
    found = jp.select.cost_regularized(graph, SCORES, strength=1, cost=jp.cost.macs, within=last)
    np.testing.assert_allclose(found[A][0], 4 - 7 / 4)  # B costs 1 + 3, A 2 + 5 from two to one


def test_errors() -> None:
    graph, _ = chain(4, 5)
    with pytest.raises(BudgetError, match=r"strength must be finite[\s\S]*Fix"):
        jp.select.cost_regularized(graph, SCORES, strength=-1)
    with pytest.raises(ScoreError, match=r"'other'[\s\S]*Fix: recompute"):
        jp.select.cost_regularized(graph, {"other": np.ones(2)}, strength=1)
    with pytest.raises(KeepError, match=r"keep for group 'layer_0/kernel' is \[0, 2\], not bool"):
        jp.select.cost_regularized(graph, SCORES, strength=1, within={A: [0, 2]})
