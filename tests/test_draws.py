"""Random draws: `narrow` draws what the masked network draws, a resized network its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from test_narrow import sign, step

WIDTH = 8
KEY = jax.random.key(3)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 5))
V = {
    "w": RANDOM.normal(size=(5, WIDTH)),
    "b": RANDOM.normal(size=WIDTH),
    "u": RANDOM.normal(size=(WIDTH, 4)),
}
KEEP = {"w": np.array([False, True, True, False, False, True, False, True])}

Layer = Callable[[Any], Any]


def network(layer: Layer) -> Any:
    """Returns `(v, x) -> outputs` with what draws between two layers."""
    return lambda v, x: layer(x @ v["w"] + v["b"][None]) @ v["u"]


def dropout(h: Any, key: Any = KEY, shape: Any = None) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.6, shape or h.shape), h / 0.6, 0.0)


def noise(h: Any, key: Any = KEY) -> Any:
    return h + jax.random.normal(key, h.shape, h.dtype)


def per_key(h: Any, keys: Any) -> Any:
    """Noise for every channel from a key of its own."""
    return h + jax.vmap(lambda key: jax.random.normal(key, (3,), h.dtype), out_axes=1)(keys)


def generated(h: Any) -> Any:
    state = jnp.arange(4, dtype=jnp.uint32)
    state, first = lax.rng_bit_generator(state, h.shape)
    _, second = lax.rng_bit_generator(state, h.shape)
    return h * (first % 3).astype(h.dtype) + (second % 5).astype(h.dtype)


def positive(h: Any) -> Any:
    return 0.5 + jnp.abs(h)


@jax.custom_vjp
def noisy(h: Any, key: Any) -> Any:
    """Draws in the function and in its derivative."""
    return noise(h, key)


noisy.defvjp(
    lambda h, key: (noisy(h, key), key),
    lambda key, g: (dropout(g, key), None),
)


@jax.custom_jvp
def forward_noisy(h: Any) -> Any:
    return noise(h)


@forward_noisy.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return forward_noisy(*primals), dropout(tangents[0])


def repeated(h: Any) -> Any:
    """Draws in a while loop, from a key that moves on."""

    def body(carry: Any) -> Any:
        i, key, h = carry
        key, used = jax.random.split(key)
        return i + 1, key, noise(jnp.tanh(h), used)

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, KEY, h))[2]


EXACT: dict[str, Layer] = {
    "dropout": dropout,
    "dropout of whole channels": lambda h: dropout(h, shape=(1, WIDTH)),
    "dropout of rows": lambda h: dropout(h, shape=(3, 1)),
    "noise": noise,
    "flat": lambda h: h * jax.random.uniform(KEY, (3 * WIDTH,)).reshape(3, WIDTH),
    "flat, channels first": lambda h: h + jax.random.normal(KEY, (WIDTH * 3,)).reshape(WIDTH, 3).T,
    "a raw key": lambda h: noise(h, jax.random.PRNGKey(1)),
    "another generator": lambda h: dropout(h, jax.random.key(1, impl="rbg")),
    "two halves": lambda h: (
        h
        * jnp.concatenate(
            [jax.random.uniform(k, (3, WIDTH // 2)) for k in jax.random.split(KEY)], axis=1
        )
    ),
    "cut from a wider draw": lambda h: h + jax.random.normal(KEY, (3, WIDTH + 3))[:, 3:],
    "reparametrization": lambda h: h + jnp.exp(h / 3) * jax.random.normal(KEY, h.shape),
    "truncated normal": lambda h: h + jax.random.truncated_normal(KEY, -1, 1, h.shape),
    "gumbel noise": lambda h: jax.nn.sigmoid(h + jax.random.gumbel(KEY, h.shape)),
    "random signs": lambda h: h * jax.random.rademacher(KEY, h.shape, h.dtype),
    "integers": lambda h: h + jax.random.randint(KEY, h.shape, 0, 9).astype(h.dtype),
    "complex": lambda h: jnp.abs(h + jax.random.normal(KEY, h.shape, jnp.complex128)),
    "stochastic rounding": lambda h: jnp.floor(h + jax.random.uniform(KEY, h.shape)) + h,
    "gamma": lambda h: jax.random.gamma(KEY, positive(h)),
    "log of gamma": lambda h: jax.random.loggamma(KEY, positive(h)),
    "gamma from flat parameters": lambda h: jax.random.gamma(KEY, positive(h).ravel()).reshape(
        h.shape
    ),
    "gamma for a key per row": lambda h: jax.vmap(jax.random.gamma)(
        jax.random.split(KEY, 3), positive(h)
    ),
    "gamma for a key per channel": lambda h: jax.vmap(jax.random.gamma, (0, 1), 1)(
        jax.random.split(KEY, WIDTH), positive(h)
    ),
    "beta": lambda h: h * jax.random.beta(KEY, positive(h), 2.0),
    "student": lambda h: h + jax.random.t(KEY, positive(h)),
    "dirichlet over the rows": lambda h: jax.random.dirichlet(KEY, positive(h).T).T,
    "keys of the channels": lambda h: per_key(h, jax.random.split(KEY, WIDTH)),
    "keys in a grid": lambda h: per_key(h, jax.random.split(KEY, (2, WIDTH))[1]),
    "keys split twice": lambda h: per_key(
        h, jax.vmap(lambda key: jax.random.split(key)[1])(jax.random.split(KEY, WIDTH))
    ),
    "keys of the channels, folded": lambda h: per_key(
        h, jax.vmap(jax.random.fold_in, (0, None))(jax.random.split(KEY, WIDTH), 7)
    ),
    "keys of the channels, cloned and unwrapped": lambda h: per_key(
        h,
        jax.random.wrap_key_data(
            jax.random.key_data(jax.random.clone(jax.random.split(KEY, WIDTH)))
        ),
    ),
    "raw keys of the channels": lambda h: per_key(
        h, jax.random.split(jax.random.PRNGKey(1), WIDTH)
    ),
    "the bits of a generator": generated,
    "in jit": jax.jit(dropout),
    "in remat": jax.checkpoint(noise),
    "in a scan": lambda h: lax.scan(
        lambda h, key: (noise(jnp.tanh(h), key), None), h, jax.random.split(KEY, 3)
    )[0],
    "in a loop by its counter": lambda h: lax.fori_loop(
        0, 3, lambda i, h: noise(jnp.tanh(h), jax.random.fold_in(KEY, i)), h
    ),
    "in a branch": lambda h: lax.cond(h.sum() < 99, dropout, noise, h),
    "in a custom derivative": lambda h: noisy(h, KEY),
    "in a custom forward derivative": forward_noisy,
    "behind a custom derivative": lambda h: step(dropout(sign(noise(h))) - 0.2),
}


def check(fn: Any, graph: jp.ChannelGraph, v: Any, x: Any, keep: Any) -> None:
    """The masked and the narrowed network have the same outputs and the same gradients."""
    small, masked = jp.slice(graph, v, keep), jp.mask(graph, v, keep)

    def loss(run: Any) -> Any:
        return lambda v: (out := jnp.cos(run(v, x))).sum() + (out[..., 0] ** 2).sum()

    @jax.jit
    def both(masked: Any, small: Any) -> Any:
        narrowed = jp.narrow(fn, graph, keep)
        return jax.value_and_grad(loss(fn))(masked), jax.value_and_grad(loss(narrowed))(small)

    (full, gradient), (value, small_gradient) = both(masked, small)
    np.testing.assert_allclose(value, full, rtol=1e-8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    jax.tree.map(close, small_gradient, jp.slice(graph, gradient, keep))


@pytest.mark.parametrize("name", EXACT)
def test_narrow_draws_what_the_masked_network_draws(name: str) -> None:
    with jax.enable_x64(True):
        fn = network(EXACT[name])
        graph = jp.trace(fn, V, X)
        assert {group.inexact for group in graph.groups.values()} == {None}
        assert sum(group.size for group in graph.groups.values()) == WIDTH
        keep = KEEP if "w" in graph.groups else {"w[1.0]": KEEP["w"][:4], "w[1.1]": KEEP["w"][4:]}
        check(fn, graph, V, X, keep)


def test_rows_that_are_chosen_at_random_are_chosen_by_what_reads_them() -> None:
    with jax.enable_x64(True):
        fn = network(lambda h: jax.random.choice(KEY, h, (WIDTH,), axis=1))
        graph = jp.trace(fn, V, X)
        assert {name: (g.size, g.inexact) for name, g in graph.groups.items()} == {"u": (8, None)}
        check(fn, graph, V, X, {"u": KEEP["w"]})


INEXACT: dict[str, tuple[Layer, str]] = {
    "poisson": (lambda h: jax.random.poisson(KEY, positive(h)).astype(h.dtype), "reduce_or"),
    "binomial": (lambda h: jax.random.binomial(KEY, 20.0, jax.nn.sigmoid(h)), "reduce_or"),
    "gamma at zero": (lambda h: jax.random.gamma(KEY, jax.nn.relu(h)), "no finite derivative"),
    "dirichlet": (lambda h: jax.random.dirichlet(KEY, positive(h)), "reduce_max"),
    "ball": (lambda h: h + jax.random.ball(KEY, WIDTH, shape=(3,)), "sums values"),
    "largest": (lambda h: jnp.max(noise(h), axis=1, keepdims=True) + h, "reduce_max"),
}
"""Layers that mix what is drawn for different channels, and a word of the reason."""


@pytest.mark.parametrize("name", INEXACT)
def test_draws_that_depend_on_each_other_are_inexact(name: str) -> None:
    layer, why = INEXACT[name]
    graph = jp.trace(network(layer), V, X)
    assert why in str(graph.groups["w"].inexact)


FROZEN: dict[str, tuple[Layer, str]] = {
    "permutation": (lambda h: jax.random.permutation(KEY, h, axis=1), "sorted"),
    "independent permutation": (
        lambda h: jax.random.permutation(KEY, h, axis=1, independent=True),
        "sorted",
    ),
    "a permutation as indices": (lambda h: h[:, jax.random.permutation(KEY, 8)], "sorted"),
    "shuffled along the rows too": (
        lambda h: jax.random.permutation(KEY, h.ravel()).reshape(h.shape),
        "sorted",
    ),
    "choice": (lambda h: jax.random.choice(KEY, h, (8,), axis=1), "indexed by gather"),
    "choice without replacement": (
        lambda h: jax.random.choice(KEY, h, (8,), axis=1, replace=False),
        "sorted",
    ),
    "choice by weights": (
        lambda h: h[:, jax.random.choice(KEY, 8, (8,), p=jax.nn.softmax(h[0]))],
        "",  # JAX 0.12 has a primitive of its own
    ),
    "keys of a generator that draws at once": (
        lambda h: per_key(h, jax.random.split(jax.random.key(1, impl="rbg"), WIDTH)),
        "keys of a generator that draws for all of them at once",
    ),
    "keys by a count": (
        lambda h: per_key(h, jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(WIDTH))),
        "counted by iota",
    ),
    "keys from the channels": (
        lambda h: h * jax.random.uniform(jax.random.wrap_key_data(h[0, :2].astype(jnp.uint32))),
        "inside a random key",
    ),
}
"""Layers whose channels cannot be pruned, and the reason."""


@pytest.mark.parametrize("name", FROZEN)
def test_draws_that_place_channels_freeze_them(name: str) -> None:
    layer, why = FROZEN[name]
    graph = jp.trace(network(layer), V, X)
    slots = [slot for group in graph.groups.values() for slot in group.slots]
    assert all(slot.atom.size < WIDTH for slot in slots if slot.path == "w")
    assert any(why in item.reason for item in graph.frozen if item.path == "w")
