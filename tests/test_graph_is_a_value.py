"""A graph is a value: it never changes, hashes by identity, and threads may share it."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxprune as jp
from jaxprune.program import spaces as ax
from jaxprune.program import traced_spaces
from jaxprune.program.reasons import Why
from jaxprune.program.spaces import Reason

BY_THE_TEST = Reason(Why("by the test"))

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


class NnxScale(nnx.GroupNorm):
    """A group norm by class that only scales."""

    def __call__(self, x: Any) -> Any:
        return x * self.scale[None]


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.norm = NnxScale(8, num_groups=2, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.norm(self.first(x))))


class LinenScale(nn.GroupNorm):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x * self.param("scale", nn.initializers.ones, (x.shape[-1],))[None]


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3)(nn.relu(LinenScale(num_groups=2)(nn.Dense(8)(x))))


def snapshot(graph: jp.ChannelGraph) -> Any:
    """All that a graph says, and the atoms of every array of its program."""

    def arrays(walk: Any) -> Any:
        for op in walk.ops:
            for axes in (*op.ins, *op.outs):
                yield [(id(a), a.link, a.reason, a.name) for s in axes for a in ax.atoms(s)]
            for inner in op.inner:
                yield from arrays(inner)

    keep = {name: np.arange(group.size) % 2 == 0 for name, group in graph.groups.items()}
    small = jp.slice(graph, graph.abstract, keep)
    shapes = [leaf.shape for leaf in jax.tree.leaves(small)]
    costs = jp.cost.macs(graph, jp.widths(graph, keep)), jp.cost.params(graph)
    return str(graph), jp.explain(graph), shapes, costs, list(arrays(graph.walk))


@pytest.mark.filterwarnings("ignore:.*the traced call does not read norm/bias")
def test_a_norm_that_only_scales_is_resized_and_leaves_the_graph_alone() -> None:
    model = NnxNet()
    graph = jp.nnx.trace(model, X)
    before = snapshot(graph)
    keep = {"first/kernel": np.isin(np.arange(8), [1, 4, 6])}
    small = jp.nnx.resize(model, graph, keep)
    assert small.first.out_features == 3
    assert small.norm.scale.shape == (3,)
    np.testing.assert_allclose(
        small(X),
        graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), X)[0],
        rtol=1e-5,
        atol=1e-6,
    )
    assert snapshot(graph) == before


def test_the_same_in_linen() -> None:
    model = LinenNet()
    v = model.init(jax.random.key(0), X)
    graph = jp.trace(model.apply, v, X)
    before = snapshot(graph)
    keep = {"Dense_1/kernel": np.isin(np.arange(8), [1, 4, 6])}
    small = jp.linen.resize(model, graph, keep).apply(jp.slice(graph, v, keep), X)
    np.testing.assert_allclose(small, model.apply(jp.mask(graph, v, keep), X), rtol=1e-5, atol=1e-6)
    assert snapshot(graph) == before


def custom(x: Any) -> Any:
    """A function whose derivative adds what its own program does not."""

    @jax.custom_jvp
    def fn(x: Any) -> Any:
        return jnp.sin(x)

    fn.defjvp(lambda primals, tangents: (fn(*primals), tangents[0] + primals[0][:, ::-1] * 0))
    return fn(x)


def test_nothing_that_uses_a_graph_changes_it() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = custom(x @ v["w"])
        return jax.nn.relu(h.reshape(3, 2, 4)).reshape(3, 8) @ v["u"]

    v = {"w": np.ones((5, 8), np.float32), "u": np.ones((8, 2), np.float32)}
    graph = jp.trace(fn, v, X)
    before = snapshot(graph)
    keep = {name: np.arange(group.size) % 2 == 0 for name, group in graph.groups.items()}
    narrowed = jp.narrow(fn, graph, keep)
    small = jp.slice(graph, v, keep)
    with contextlib.suppress(jp.errors.ResizeError):
        jax.grad(lambda v: narrowed(v, X).sum())(small)
    jp.compare(graph, keep), jp.draw(graph), jp.kinds(graph), jp.interior(graph)
    jp.select.budget(graph, jp.scores.l2(graph, v), keep_macs=0.5)
    gates = {name: jnp.ones(group.shape) for name, group in graph.groups.items()}
    jp.gated(fn, graph)(v, gates, X)
    jp.recover.absorb_constants(graph, v, keep)
    assert snapshot(graph) == before


def test_a_graph_is_a_key() -> None:
    v = {"w": np.ones((5, 8), np.float32), "u": np.ones((8, 2), np.float32)}
    one, other = (jp.trace(lambda v, x: x @ v["w"] @ v["u"], v, X) for _ in range(2))
    assert one == one
    assert one != other
    assert {one: 1, other: 2}[one] == 1


def test_a_space_of_a_graph_cannot_be_refined() -> None:
    v = {"w": np.ones((5, 8), np.float32), "u": np.ones((8, 2), np.float32)}
    graph = jp.trace(lambda v, x: x @ v["w"] @ v["u"], v, X)
    space = graph.variables["w"].axes[1]
    for change in (
        lambda: ax.factor(space, 4),
        lambda: ax.split(space, 3),
        lambda: ax.freeze(space, BY_THE_TEST),
        lambda: ax.unify(space, ax.frozen(8, BY_THE_TEST)),
    ):
        with pytest.raises(RuntimeError, match="belongs to a traced graph, which never changes"):
            change()
    assert traced_spaces.factored(space, 4) is None
    ax.unify(space, ax.fresh(8))  # a new space is bound to the old one
    assert graph.groups["w"].size == 8


def test_threads_share_a_graph() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.relu(x @ v["w"])
        return jnp.concatenate([h, jnp.tanh(h @ v["a"])], -1) @ v["u"]

    random = np.random.default_rng(1)
    shapes = {"w": (5, 8), "a": (8, 6), "u": (14, 2)}
    v = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    graph = jp.trace(fn, v, X)
    keeps = [
        {name: np.random.default_rng(i).permutation(g.size) < 3 for name, g in graph.groups.items()}
        for i in range(16)
    ]

    def use(keep: Any) -> Any:
        small = jp.slice(graph, v, keep)
        text = str(jp.compare(graph, keep)) + str(graph) + jp.explain(graph)
        return jp.narrow(fn, graph, keep)(small, X), jp.resize(fn, graph, keep)(small, X), text

    alone = [use(keep) for keep in keeps]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(use, keeps))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        assert one[2] == other[2]


@pytest.mark.parametrize("pads", range(1, 5))
def test_a_pad_inside_does_not_change_the_verdict_on_others(pads: int) -> None:
    def plain(v: Any, x: Any) -> Any:
        h = x @ v["a"]
        g = x @ v["b"]
        return jnp.cos(h).sum(-1) + g.max(-1) + (x @ v["c"]).sum(-1)

    def padded(v: Any, x: Any) -> Any:
        for _ in range(pads):
            x = x + lax.pad(x[:, ::2], 0.0, [(0, 0, 0), (0, 0, 1)])
        return plain(v, x)

    v = {name: np.ones((5, 8), np.float32) for name in "abc"}
    graphs = [jp.trace(fn, v, X) for fn in (plain, padded)]
    verdicts = [{n: g.inexact is None for n, g in graph.groups.items()} for graph in graphs]
    assert verdicts[0] == verdicts[1] == {"a": False, "b": False, "c": True}


def test_a_size_that_does_not_divide_a_space_factors_nothing() -> None:
    space = ax.fresh(6)
    assert traced_spaces.factored(space, 4) is None
    assert traced_spaces.factored(space, 0) is None


@pytest.mark.parametrize("look", [jp.cost.uncounted, jp.cost.params])
def test_what_is_found_once_is_found_of_a_graph(look: Any) -> None:
    with pytest.raises(jp.errors.JaxpruneError, match="expected a channel graph, got"):
        look("graph")
