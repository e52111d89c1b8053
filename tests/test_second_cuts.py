"""A network that lost branches is cut again by the names of its own graph: both cuts are one."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxprune as jp
import residual_networks as networks
from jaxprune.arguments.paths import flatten
from jaxprune.errors import KeepError
from residual_networks import FORMS

X = np.random.default_rng(1).normal(size=(3, 3))
Networks = st.lists(st.sampled_from(FORMS), min_size=1, max_size=3).map(tuple)


def assert_equal(ours: Any, theirs: Any) -> None:
    a, b = flatten(ours)[0], flatten(theirs)[0]
    assert a.keys() == b.keys()
    for path, leaf in a.items():
        np.testing.assert_array_equal(leaf, b[path], err_msg=path)


def check(forms: tuple[str, ...], seed: int) -> None:
    """Cuts again and again, by the names of the graph as it is, are one cut of the original."""
    with jax.enable_x64(True):
        variables, fn = networks.variables(forms), networks.network(forms)
        graph = jp.trace(fn, variables, X)
        random = np.random.default_rng(seed)
        keep = networks.drawn_keep(graph, random)
        run, here = jp.narrow(fn, graph, keep), graph
        small = jp.slice(graph, variables, keep)
        for _ in range(2):
            here = jp.trace(run, small, X)
            then = networks.drawn_keep(here, random)
            run, small = jp.narrow(run, here, then), jp.slice(here, small, then)
            keep = jp.compose(keep, then, graphs=(graph, here))
            stored = json.loads(json.dumps(jp.spec(graph, keep)))
            once = jp.slice(graph, variables, jp.keep_from_spec(stored, graph))
            assert_equal(small, once)
        theirs = jp.narrow(fn, graph, keep)(once, X)
        np.testing.assert_allclose(run(small, X), theirs, rtol=1e-9, atol=1e-9)


@example(("pre", "parallel", "scanned"), 0)
@example(("scanned", "shared"), 1)
@example(("nested", "remat", "jitted"), 2)
@settings(max_examples=3)
@given(Networks, st.integers(0, 2**16))
def test_cuts_again_are_one_cut(forms: tuple[str, ...], seed: int) -> None:
    check(forms, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.sampled_from(FORMS), min_size=1, max_size=5).map(tuple), st.integers(0, 2**16))
def test_cuts_again_are_one_cut_of_many(forms: tuple[str, ...], seed: int) -> None:
    check(forms, seed)


def test_a_name_that_another_group_had() -> None:
    """Without the branch that reads them apart, what were the first two pieces is one."""
    shapes = {"in": (3, 12), "left": (8, 3), "low": (4, 12), "right": (4, 3), "up": (8, 12)}
    v = {name: np.random.default_rng(0).normal(size=shape) for name, shape in shapes.items()}

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["in"]
        x = x + (jnp.tanh(x[:, :4]) @ v["low"] + x[:, 4:] @ v["up"])
        return x[:, :8] @ v["left"] + x[:, 8:] @ v["right"]

    graph = jp.trace(fn, v, X)
    first = {"+low+up": False}
    small = jp.slice(graph, v, first)
    pruned = jp.trace(jp.narrow(fn, graph, first), small, X)
    assert graph.groups["in[1.1]"].size == pruned.groups["in[1.1]"].size == 4
    second = {"in[1.1]": np.arange(4) < 3}
    with pytest.raises(KeepError, match=r"takes out branch '\+low\+up', and then names .* others"):
        jp.compose(first, second)
    keep = jp.compose(first, second, graphs=(graph, pruned))
    assert keep["in[1.2]"].tolist() == second["in[1.1]"].tolist()
    assert_equal(jp.slice(pruned, small, second), jp.slice(graph, v, keep))


def parted(v: Any, x: Any) -> Any:
    """A branch ties its stream to a side path."""
    x = x @ v["stem"]
    side = x @ v["side"]
    y = x + jnp.tanh(x @ v["up"]) * side
    return y @ v["head"] + side @ v["tail"]


def frozen(v: Any, x: Any) -> Any:
    """A branch freezes its stream."""
    x = x @ v["stem"]
    return (x + (x * np.arange(4.0)[None]) @ v["up"]) @ v["head"]


def cut_twice(fn: Any, second: Any) -> Any:
    v = {name: np.ones((4, 4)) for name in ("head", "side", "stem", "tail", "up")}
    v = v if fn is parted else {name: v[name] for name in ("head", "stem", "up")}
    x = np.ones((2, 4))
    graph = jp.trace(fn, v, x)
    (name,) = jp.branches(graph)
    first = {name: False}
    pruned = jp.trace(jp.narrow(fn, graph, first), jp.slice(graph, v, first), x)
    return jp.compose(first, second, graphs=(graph, pruned))


def test_what_is_no_keep_of_the_original_is_refused() -> None:
    half = np.arange(4) < 2
    keep = cut_twice(parted, {"side": half, "stem": half})
    assert sorted(keep) == ["+up", "side"]
    assert keep["side"].tolist() == half.tolist()
    with pytest.raises(KeepError, match="no keep of the original is both cuts") as caught:
        cut_twice(parted, {"stem": half})
    assert "axis 1 of 'side' is group 'side' in the pruned network, group 'side' in the" in str(
        caught.value
    )
    with pytest.raises(KeepError, match=r"axis 1 of 'stem' is group 'stem' .* whole .* in the or"):
        cut_twice(frozen, {"stem": half})


def test_graphs_must_be_those_of_the_keeps() -> None:
    v = {name: np.ones((4, 4)) for name in ("head", "stem", "up")}
    graph = jp.trace(lambda v, x: (x @ v["stem"] + x @ v["up"]) @ v["head"], v, np.ones((2, 4)))
    keep = {"stem": np.arange(4) < 3}
    with pytest.raises(KeepError, match=r"'head' has shape \(4, 4\), .* leaves \(3, 4\)"):
        jp.compose(keep, keep, graphs=(graph, graph))
    with pytest.raises(KeepError, match=r"leaves a single channel of 'q\[1.0\]'"):
        jp.compose({"q[1.0]": [True, False]}, {"q[1.1]": [True, False]})
