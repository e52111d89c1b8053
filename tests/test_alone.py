"""Sensitivities by hand: each group alone, from one program, and what is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from chains import INPUTS, apply, chain
from jaxprune.errors import BudgetError, JaxpruneError, PatternError, ScoreError, TreeError
from jaxprune.select import alone

A, B, C = (f"layer_{i}/kernel" for i in range(3))
SCORES = {A: [4.0, 1.0, 3.0, 2.0], B: [0.5, 6.0, 5.0, 7.0, 8.0]}
X = np.random.default_rng(1).uniform(size=(6, INPUTS)).astype(np.float32)


def alive(*widths: int) -> tuple[jp.ChannelGraph, Any]:
    """A chain whose units all pass something on."""
    graph, variables = chain(*widths)
    return graph, jax.tree.map(np.abs, variables)


def outputs(variables: Any) -> Any:
    return jnp.abs(apply(variables, X)).mean()


def by_hand(variables: Any, **gone: list[int]) -> float:
    """The same in NumPy, where units of `layer_i` are taken out of the sums."""
    x, layers = X.astype(np.float64), variables["params"]
    for name, layer in layers.items():
        x = x @ layer["kernel"] + layer["bias"]
        if name != f"layer_{len(layers) - 1}":
            x = np.maximum(x, 0)
            x[:, gone.get(name, [])] = 0
    return float(np.abs(x).mean())


def test_one_group_at_a_time_loses_its_lowest_scores() -> None:
    graph, variables = alive(4, 5)
    found = jp.select.sensitivity(
        graph, variables, SCORES, outputs, prune_ratios=(0.75, 0.0, 0.25, 0.4)
    )
    assert list(found) == [A, B]
    a = [by_hand(variables, layer_0=gone) for gone in ([1, 2, 3], [], [1], [1])]
    b = [by_hand(variables, layer_1=gone) for gone in ([0, 2, 1], [], [0], [0, 2])]
    np.testing.assert_allclose(found[A], a, rtol=1e-5)
    np.testing.assert_allclose(found[B], b, rtol=1e-5)
    assert found[A].dtype == np.float64
    assert len({*a, *b}) == 6  # the dense network once, and no two prunings alike


def test_the_masked_network_is_the_sliced_one() -> None:
    graph, variables = alive(4, 5)
    (value,) = jp.select.sensitivity(graph, variables, SCORES, outputs, prune_ratios=(0.5,))[B]
    keep = jp.select.per_group(graph, {B: SCORES[B]}, prune_ratio=0.5)
    np.testing.assert_allclose(value, outputs(jp.slice(graph, variables, keep)), rtol=1e-5)


def test_all_groups_and_ratios_are_one_program(monkeypatch) -> None:
    graph, variables = alive(4, 5)
    traced, calls = [], []
    mask = alone.mask

    def counted(*args: Any) -> Any:
        traced.append("mask")
        return mask(*args)

    @jax.jit
    def evaluated(variables: Any) -> Any:
        traced.append("evaluate")
        return outputs(variables)

    def evaluate(variables: Any) -> Any:
        calls.append(variables)
        return evaluated(variables)

    monkeypatch.setattr(alone, "mask", counted)
    found = jp.select.sensitivity(graph, variables, SCORES, evaluate)
    assert {name: len(row) for name, row in found.items()} == {A: 9, B: 9}
    assert traced == ["mask", "evaluate"]
    # A keeps 4, 3, 2 or 1 units, B 5, 4, 3, 2 or 1; whole they are the same network
    assert len(calls) == 3 + 4 + 1


def test_the_group_that_matters_comes_out() -> None:
    """All outputs come through one unit of B, of the lowest score; A has four equal units."""
    graph, variables = alive(4, 5, 3)
    params = {name: dict(layer) for name, layer in variables["params"].items()}
    params["layer_0"]["kernel"] = np.ones((INPUTS, 4), np.float32)
    params["layer_0"]["bias"] = np.ones(4, np.float32)
    only = np.zeros((5, 3), np.float32)
    only[0] = 1
    params["layer_1"] = {"kernel": np.ones((4, 5), np.float32), "bias": np.zeros(5, np.float32)}
    params["layer_2"] = {"kernel": only, "bias": np.zeros(3, np.float32)}
    params["layer_3"] = {"kernel": np.ones((3, 3), np.float32), "bias": np.zeros(3, np.float32)}
    scores = {A: np.arange(4.0), B: SCORES[B], C: np.arange(3.0)}
    found = jp.select.sensitivity(
        graph, {"params": params}, scores, outputs, prune_ratios=(0.0, 0.34)
    )
    left = {name: row[1] / row[0] for name, row in found.items()}
    assert sorted(left, key=lambda name: left[name]) == [B, C, A]
    np.testing.assert_allclose([*left.values()], [3 / 4, 0, 2 / 3], rtol=1e-5)


def test_constraints_hold_and_equal_groups_go_together() -> None:
    graph, variables = alive(4, 4)
    scores = {A: SCORES[A], B: [1.0, 2.0, 3.0, 4.0]}
    ratios = (0.25, 0.75)

    def found(**constraints: Any) -> dict[str, np.ndarray]:
        return jp.select.sensitivity(
            graph, variables, scores, outputs, prune_ratios=ratios, **constraints
        )

    both = [
        by_hand(variables, layer_0=[1], layer_1=[0]),
        by_hand(variables, layer_0=[1, 2, 3], layer_1=[0, 1, 2]),
    ]
    tied = found(equal=[[A, B]])
    np.testing.assert_allclose(tied[A], both, rtol=1e-5)
    np.testing.assert_array_equal(tied[A], tied[B])
    assert list(found(protect=A)) == list(found(only=B)) == [B]
    floor = found(only=A, min_channels=3)[A]
    np.testing.assert_allclose(floor, 2 * [by_hand(variables, layer_0=[1])], rtol=1e-5)
    within = {A: np.array([False, True, True, True])}
    left = found(within=within)
    gone = [by_hand(variables, layer_0=[0], layer_1=rest) for rest in ([0], [0, 1, 2])]
    np.testing.assert_allclose(left[B], gone, rtol=1e-5)


def test_layers_of_a_stack_lose_their_own_channels() -> None:
    rng = np.random.default_rng(0)
    stack = {
        "up": rng.normal(size=(2, INPUTS, 4)).astype(np.float32),
        "down": rng.normal(size=(2, 4, INPUTS)).astype(np.float32),
    }

    def fn(v: Any, x: Any) -> Any:
        def block(x: Any, w: Any) -> Any:
            return x + jax.nn.relu(x @ w["up"]) @ w["down"], None

        return jax.lax.scan(block, x, v)[0]

    graph = jp.trace(fn, stack, X)
    (name,) = (name for name, group in graph.groups.items() if group.layers == 2)
    scores = {name: np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])}
    found = jp.select.sensitivity(
        graph, stack, scores, lambda v: jnp.abs(fn(v, X)).mean(), prune_ratios=(0.5,)
    )
    x = X
    for layer, kept in enumerate(([2, 3], [0, 1])):
        hidden = np.maximum(x @ stack["up"][layer][:, kept], 0)
        x = x + hidden @ stack["down"][layer][kept]
    np.testing.assert_allclose(found[name], [np.abs(x).mean()], rtol=1e-5)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "evaluate": ({"evaluate": 1.0}, JaxpruneError, "evaluate must be a function, got 1.0"),
    "nan": (
        {"evaluate": lambda _: float("nan")},
        JaxpruneError,
        f"evaluate gave nan for group '{A}' at prune_ratio=0.5, not a finite number",
    ),
    "vector": ({"evaluate": lambda _: np.ones(3)}, JaxpruneError, "evaluate gave .*not a finite"),
    "nothing": ({"evaluate": lambda _: None}, JaxpruneError, "evaluate gave None for group"),
    "no ratio": ({"prune_ratios": ()}, BudgetError, "prune_ratios holds no ratio"),
    "one ratio": ({"prune_ratios": 0.5}, BudgetError, "prune_ratios must be several, got 0.5"),
    "all": ({"prune_ratios": (0.5, 1.0)}, BudgetError, r"must be in \[0, 1\), got 1.0"),
    "score": ({"scores": {A: [1.0]}}, ScoreError, r"shape \[?\(?1"),
    "group": ({"scores": {"a": [1.0]}}, ScoreError, "'a', which is not a group"),
    "pattern": ({"protect": "z*"}, PatternError, "z"),
    "constraint": ({"min_channel": 2}, JaxpruneError, "near: .*min_channels"),
    "tree": ({"variables": {"params": {"a": np.ones(2)}}}, TreeError, "does not mirror"),
}


@pytest.mark.parametrize(("changes", "error", "text"), BAD.values(), ids=BAD)
def test_what_makes_no_sense_is_an_error(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    graph, variables = alive(4, 5)
    evaluate: Callable[..., Any] = outputs
    given: dict[str, Any] = {
        "variables": variables, "scores": SCORES, "evaluate": evaluate, "prune_ratios": (0.5,)
    }  # fmt: skip
    with pytest.raises(error, match=text) as found:
        jp.select.sensitivity(graph, **given | changes)
    assert "Fix: " in str(found.value)
