"""A count or indices in the place of a mask: the error says what a keep is, and how to make one."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp

V = {"a": np.float32(np.random.default_rng(0).normal(size=(2, 8))), "b": np.ones((8, 3))}
X = np.ones((1, 2), np.float32)


def fn(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"]) @ v["b"]


class Twin(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.b(nnx.relu(self.a(x)))


GRAPH = jp.trace(fn, V, X)
SCORES = jp.scores.l2(GRAPH, V)
MODULE = nn.Sequential([nn.Dense(8, name="a"), nn.relu, nn.Dense(3)])
MODULE_GRAPH = jp.linen.trace(MODULE, jax.eval_shape(MODULE.init, jax.random.key(0), X), X)
TWIN = Twin(nnx.Rngs(0))
TWIN_GRAPH = jp.nnx.trace(TWIN, X)
TX = optax.sgd(0.1, momentum=0.9)

MASKS: dict[str, Callable[[Any], Any]] = {
    "mask": lambda k: jp.mask(GRAPH, V, {"a": k}),
    "slice": lambda k: jp.slice(GRAPH, V, {"a": k}),
    "unslice": lambda k: jp.unslice(GRAPH, V, {"a": k}),
    "narrow": lambda k: jp.narrow(fn, GRAPH, {"a": k}),
    "resize": lambda k: jp.resize(fn, GRAPH, {"a": k}),
    "linen.resize": lambda k: jp.linen.resize(MODULE, MODULE_GRAPH, {"layers_0/kernel": k}),
    "nnx.resize": lambda k: jp.nnx.resize(TWIN, TWIN_GRAPH, {"a/kernel": k}),
    "compare": lambda k: jp.compare(GRAPH, {"a": k}),
    "verify": lambda k: jp.verify(GRAPH, fn, {"a": k}, V, X),
    "spec": lambda k: jp.spec(GRAPH, {"a": k}),
    "slice_opt_state": lambda k: jp.slice_opt_state(GRAPH, TX.init(V), {"a": k}, tx=TX, params=V),
    "within": lambda k: jp.select.budget(GRAPH, SCORES, keep_macs=0.5, within={"a": k}),
}
"""What takes masks, and no counts."""


@pytest.mark.parametrize("call", MASKS.values(), ids=MASKS)
def test_a_count_or_indices_in_the_place_of_a_mask(call: Callable[[Any], Any]) -> None:
    for given, way_out in (
        (4, r"4 channels of the highest.*jp\.select\.per_group\(.*: 1 - 4 / 8\}\)"),
        ([0, 2], r"np\.isin\(np\.arange\(8\), \[0, 2\]\)"),
        (np.array([0, 2]), r"np\.isin\(np\.arange\(8\), \[0, 2\]\)"),
        ([1, 0, 1, 0, 1, 1, 1, 0], r"np\.asarray\(mask, bool\)"),
    ):
        with pytest.raises(jp.errors.KeepError) as caught:
            call(given)
        text = str(caught.value)
        assert "{group: bool[n]}, a bool for each channel that says whether it stays" in text
        assert re.search(way_out, text), text


def test_costs_take_counts_and_refuse_indices() -> None:
    assert jp.cost.macs(GRAPH, {"a": 4}) == jp.cost.macs(GRAPH, {"a": np.arange(8) < 4})
    with pytest.raises(jp.errors.KeepError, match=r"np\.isin\(np\.arange\(8\), \[0, 2\]\)"):
        jp.cost.macs(GRAPH, {"a": [0, 2]})


def test_what_is_neither_a_count_nor_indices_gets_no_such_advice() -> None:
    for given in (-2, 0, 9, [9], [-1, 2], [], [0.5], "x"):
        with pytest.raises(jp.errors.KeepError, match=r"Fix: select with jp\.select"):
            jp.slice(GRAPH, V, {"a": given})


def test_the_ways_out_lead_out() -> None:
    for count in range(1, 9):
        keep = jp.select.per_group(GRAPH, SCORES, prune_ratio={"a": 1 - count / 8})
        assert set(np.flatnonzero(keep["a"])) == set(np.argsort(SCORES["a"])[8 - count :])
    keep = {"a": np.isin(np.arange(8), [0, 2])}
    assert jp.slice(GRAPH, V, keep)["a"].tolist() == V["a"][:, [0, 2]].tolist()


def test_a_group_whose_name_has_brackets_is_selected_by_it() -> None:
    module = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=8)
    x = np.ones((1, 5, 6), np.float32)
    variables = module.init(jax.random.key(0), x, x)
    graph = jp.linen.trace(module, variables, x, x)
    name = next(name for name in graph.groups if "[" in name)
    scores = jp.scores.l2(graph, variables)
    keep = jp.select.per_group(graph, scores, prune_ratio={name: 1 - 1 / graph.groups[name].size})
    assert jp.widths(graph, keep)[name] == 1


@pytest.mark.parametrize(("count", "shown"), [(8, r"\[0, 1, 2, 3, 4, 5, 6, 7\]"), (9, "indices")])
def test_a_few_indices_are_written_out(count: int, shown: str) -> None:
    v = {"a": np.ones((3, 12)), "b": np.ones((12, 2))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 3)))
    with pytest.raises(jp.errors.KeepError, match=rf"np.isin\(np.arange\(12\), {shown}\)"):
        jp.slice(graph, v, {"a": np.arange(count)})
