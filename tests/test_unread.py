"""Variables that the traced call does not read are named, and told of where they would go too."""

import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp

X = jnp.ones((1, 8, 8, 3))
KEEP = {"first/kernel": np.arange(8) < 5}


class Net(nn.Module):
    """A network with an auxiliary head that only training reads."""

    width: int = 5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), name="first")(x))
        y = x.mean((1, 2))
        if not train:
            y = y if not self.is_initializing() else y + 0 * self.aux(x)[:, :1]
            return nn.Dense(3, name="last")(y)
        return nn.Dense(3, name="last")(y), self.aux(x)

    @nn.nowrap
    def aux(self, x):
        return nn.Dense(self.width, name="aux")(x.reshape(x.shape[0], -1))


MODULE = Net()
VARIABLES = jax.jit(MODULE.init)(jax.random.key(0), X)
AUX = ("params/aux/bias", "params/aux/kernel")


def run(v: Any, x: Any) -> Any:
    return MODULE.apply(v, x)


SPELLINGS: dict[str, Callable[..., Any]] = {
    "plain": run,
    "jit": jax.jit(run),
    "nested jit": jax.jit(lambda v, x: jax.jit(run)(v, x)),
    "remat": jax.checkpoint(run),
    "scan": lambda v, x: jax.lax.scan(lambda c, _: (c, run(v, c)), x, length=2)[1],
    "carry": lambda v, x: jax.lax.scan(lambda c, _: (c, run(c, x)), v, length=2)[1],
    "while": lambda v, x: jax.lax.while_loop(
        lambda c: c[0] < 1, lambda c: (c[0] + 1, run(v, x)), (0, jnp.zeros((1, 3)))
    )[1],
    "cond": lambda v, x: jax.lax.cond(x.sum() > 0, run, lambda v, x: 0 * run(v, x), v, x),
    "handed through": lambda v, x: (run(v, x), {"params": {"aux": v["params"]["aux"]}}),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_variables_that_no_spelling_reads_are_named(name):
    graph = jp.trace(SPELLINGS[name], VARIABLES, X)
    assert graph.unread == AUX
    assert {f.path for f in graph.frozen if f.reason == "not used by the function"} == {*AUX}
    assert f"not read by the traced call: {', '.join(AUX)}; trace the call" in str(graph)
    assert "train=True" in str(graph)


def zeros() -> Any:
    return jax.tree.map(jnp.zeros_like, VARIABLES)


@jax.custom_vjp
def scaled_backward(y: Any, _aux: Any) -> Any:
    """Reads the head in the derivative alone."""
    return y


scaled_backward.defvjp(
    lambda y, aux: (y, aux),
    lambda aux, g: (g * aux["bias"].sum(), jax.tree.map(jnp.zeros_like, aux)),
)

READING: dict[str, Callable[..., Any]] = {
    "training": lambda v, x: MODULE.apply(v, x, train=True),
    "dropped": lambda v, x: MODULE.apply(v, x, train=True)[0],
    "returned": lambda v, x: (run(v, x), v["params"]["aux"]["kernel"], v["params"]["aux"]["bias"]),
    "in a branch": lambda v, x: jax.lax.cond(
        x.sum() > 0, lambda: run(v, x), lambda: run(v, x) + MODULE.apply(v, x, train=True)[1].sum()
    ),
    "handed on": lambda v, x: MODULE.apply(jax.jit(lambda v: v)(v), x, train=True),
    "swapped": lambda v, x: MODULE.apply(
        jax.lax.scan(lambda c, _: (c[::-1], None), (v, zeros()), length=2)[0][0], x, train=True
    ),
    "in a derivative": lambda v, x: scaled_backward(run(v, x), v["params"]["aux"]),
}


@pytest.mark.parametrize("name", READING)
def test_what_is_read_written_or_returned_is_not_named(name):
    graph = jp.trace(READING[name], VARIABLES, X)
    assert graph.unread == ()
    assert "not read" not in str(graph)


def test_what_is_written_alone_is_not_unread():
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "mean": jnp.ones(8)}

    def train(v, x):
        h = x @ v["a"]
        return h @ v["b"], {"mean": h.mean(0)}

    assert jp.trace(train, v, jnp.ones((4, 3))).unread == ()
    assert jp.trace(lambda v, x: train(v, x)[0], v, jnp.ones((4, 3))).unread == ("mean",)


def test_slice_and_resize_tell_it_once():
    graph = jp.linen.trace(MODULE, VARIABLES, X)
    text = r"{}: the traced call does not read params/aux/kernel\. (.|\n)*train=True"
    with pytest.warns(jp.errors.UnreadWarning, match=text.format("jp.slice")) as found:
        small = jp.slice(graph, VARIABLES, KEEP)
    assert found[0].filename == __file__
    with pytest.warns(jp.errors.UnreadWarning, match=text.format("jp.linen.resize")) as found:
        model = jp.linen.resize(MODULE, graph, KEEP)
    assert found[0].filename == __file__
    jp.slice(graph, VARIABLES, KEEP)
    jp.linen.resize(MODULE, graph, KEEP)
    gradients = jax.grad(lambda v: run(v, X).sum())(VARIABLES)
    jp.slice(graph, gradients, KEEP)
    assert model.apply(small, X).shape == (1, 3)
    with pytest.raises(Exception, match="shape"):
        model.apply(small, X, train=True)


def test_the_training_call_ties_what_it_reads():
    graph = jp.linen.trace(MODULE, VARIABLES, X, train=True)
    small = jp.slice(graph, VARIABLES, KEEP)
    model = jp.linen.resize(MODULE, graph, KEEP)
    assert small["params"]["aux"]["kernel"].shape == (5 * 64, 5)
    assert model.apply(small, X, train=True)[1].shape == (1, 5)


def silent() -> jp.ChannelGraph:
    return jp.trace(run, VARIABLES, X)


QUIET: dict[str, Callable[[jp.ChannelGraph], Any]] = {
    "nothing pruned": lambda graph: jp.slice(graph, VARIABLES, {}),
    "all kept": lambda graph: jp.slice(graph, VARIABLES, {"first/kernel": np.ones(8, bool)}),
    "resize to nothing": lambda graph: jp.linen.resize(MODULE, graph, {}),
    "a part without it": lambda graph: jp.slice(
        graph, {"params": {"first": VARIABLES["params"]["first"]}}, KEEP
    ),
    "mask": lambda graph: jp.mask(graph, VARIABLES, KEEP),
    "optimizer state": lambda graph: jp.slice_opt_state(
        graph,
        optax.adam(1.0).init(VARIABLES["params"]),
        KEEP,
        tx=optax.adam(1.0),
        params=VARIABLES["params"],
    ),
    "verify": lambda graph: jp.verify(graph, run, KEEP, VARIABLES, X),
    "narrow": lambda graph: jp.narrow(run, graph, KEEP),
    "compare": lambda graph: jp.compare(graph, KEEP),
}


@pytest.mark.parametrize("name", QUIET)
def test_where_nothing_is_to_be_told(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QUIET[name](silent())


def test_a_variable_that_cannot_go_with_what_is_pruned():
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "odd": jnp.ones((5, 3)), "s": jnp.ones(())}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((1, 3)))
    assert graph.unread == ("odd", "s")
    jp.slice(graph, v, {"a": np.arange(8) < 3})
    jp.resize(graph.fn, graph, {"a": np.arange(8) < 3})


def test_plain_functions_and_shapes():
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "aux": jnp.ones((16, 3))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((1, 3)))
    keep = {"a": np.arange(8) < 3}
    with pytest.warns(jp.errors.UnreadWarning, match=r"jp.resize: .* does not read aux\. "):
        jp.resize(graph.fn, graph, keep)
    with pytest.warns(jp.errors.UnreadWarning, match="jp.slice"):
        jp.slice(graph, jax.eval_shape(lambda: v), keep)


class Model(nnx.Module):
    """The same in NNX."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.last, self.aux = nnx.Linear(8, 2, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x, train=False):
        x = nnx.relu(self.first(x))
        return (self.last(x), self.aux(x)) if train else self.last(x)


def test_nnx_models():
    model, x = Model(), jnp.ones((1, 3))
    graph = jp.nnx.trace(model, x)
    assert graph.unread == ("aux/bias", "aux/kernel")
    with pytest.warns(
        jp.errors.UnreadWarning, match=r"jp.nnx.resize: .* does not read aux/kernel"
    ) as found:
        jp.nnx.resize(model, graph, KEEP)
    assert (len(found), found[0].filename) == (1, __file__)
    train = jp.nnx.trace(model, x, train=True)
    assert jp.nnx.resize(model, train, KEEP).aux.in_features == 5
