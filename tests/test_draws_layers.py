"""Random draws inside of stacked layers, each of which keeps channels of its own."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from test_draws import KEY, check, dropout, noise, noisy
from test_stacks import HIDDEN, LAYERS, WIDTH, random_keep, variables

ROWS = 2
X = np.random.default_rng(1).normal(size=(ROWS, 5))
Hidden = Callable[[Any, Any], Any]


def doubled(v: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), v)


def block(y: Any, w: Any, key: Any, hidden: Hidden) -> Any:
    return y + hidden(jnp.tanh(y @ w["up"] + w["bias"][None]), key) @ w["down"]


def scanned(hidden: Hidden = dropout, keys: Any = None, **options: Any) -> Any:
    """Returns a network whose layers draw from a key of their own, stepped over by a scan."""

    def fn(v: Any, x: Any) -> Any:
        own = jax.random.split(KEY, LAYERS) if keys is None else keys()
        y, _ = lax.scan(
            lambda y, layer: (block(y, *layer, hidden), None),
            x @ v["embed"],
            (v["blocks"], own),
            **options,
        )
        return y @ v["head"]

    return fn


def by_carried_key(v: Any, x: Any) -> Any:
    """The key moves on with the stream."""

    def step(carry: Any, w: Any) -> Any:
        y, key = carry
        key, own = jax.random.split(key)
        return (block(y, w, own, dropout), key), None

    return lax.scan(step, (x @ v["embed"], KEY), v["blocks"])[0][0] @ v["head"]


def repeated(v: Any, x: Any) -> Any:
    """A scan inside of every layer."""

    def hidden(h: Any, key: Any) -> Any:
        keys = jax.random.split(key, 2)
        return lax.scan(lambda h, key: (noise(jnp.sin(h), key), None), h, keys)[0]

    return scanned(hidden)(v, x)


def again(v: Any, x: Any) -> Any:
    """The whole stack, stepped over by a scan from outside."""

    def layers(y: Any, key: Any) -> Any:
        keys = jax.random.split(key, LAYERS)
        return lax.scan(lambda y, layer: (block(y, *layer, noise), None), y, (v["blocks"], keys))

    keys = jax.random.split(KEY, 2)
    y, _ = lax.scan(lambda y, key: (layers(y, key)[0], None), x @ v["embed"], keys)
    return y @ v["head"]


def in_a_loop(h: Any, key: Any) -> Any:
    return lax.fori_loop(0, 2, lambda i, h: noise(jnp.sin(h), jax.random.fold_in(key, i)), h)


@jax.custom_vjp
def stepped(y: Any, blocks: Any, keys: Any) -> Any:
    """All layers as one function with its own derivative, which draws once more."""
    return lax.scan(lambda y, layer: (block(y, *layer, dropout), None), y, (blocks, keys))[0]


def _stepped_backward(kept: Any, g: Any) -> Any:
    y, blocks, keys = kept

    def fn(y: Any, blocks: Any) -> Any:
        layers = (blocks, keys)
        return lax.scan(lambda y, layer: (block(y, *layer, noise), None), y, layers)[0]

    return *jax.vjp(fn, y, blocks)[1](g), None


stepped.defvjp(lambda *args: (stepped(*args), args), _stepped_backward)


def by_own_derivative(v: Any, x: Any) -> Any:
    return stepped(x @ v["embed"], v["blocks"], jax.random.split(KEY, LAYERS)) @ v["head"]


def drawn_before(v: Any, x: Any) -> Any:
    """The numbers of all layers, drawn in front of the scan."""
    noises = jax.random.normal(KEY, (LAYERS, ROWS, HIDDEN))

    def step(y: Any, layer: Any) -> Any:
        w, own = layer
        return block(y, w, None, lambda h, _: h * own), None

    return lax.scan(step, x @ v["embed"], (v["blocks"], noises))[0] @ v["head"]


def gammas(h: Any, key: Any) -> Any:
    return jax.random.gamma(key, 0.5 + jnp.abs(h))


def by_channel(h: Any, key: Any) -> Any:
    keys = jax.random.split(key, HIDDEN)
    return h + jax.vmap(lambda key: jax.random.normal(key, (ROWS,)), out_axes=1)(keys)


SCANS = {
    "dropout": scanned(),
    "noise": scanned(noise),
    "reversed": scanned(noise, reverse=True),
    "unrolled": scanned(dropout, unroll=LAYERS),
    "keys by a count": scanned(
        keys=lambda: jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(LAYERS))
    ),
    "a key that is carried": by_carried_key,
    "flat": scanned(
        lambda h, key: h * jax.random.uniform(key, (ROWS * HIDDEN,)).reshape(ROWS, HIDDEN)
    ),
    "keys of the channels": scanned(by_channel),
    "gamma": scanned(gammas),
    "remat": scanned(jax.checkpoint(dropout)),
    "jit": scanned(jax.jit(dropout)),
    "a branch": scanned(lambda h, key: lax.cond(h.sum() < 9, dropout, noise, h, key)),
    "a loop": scanned(in_a_loop),
    "a custom derivative": scanned(noisy),
    "a scan inside": repeated,
    "a scan around": again,
    "a derivative of all layers": by_own_derivative,
    "drawn before": drawn_before,
}


@pytest.mark.parametrize("name", SCANS)
def test_each_layer_of_a_scan_draws_for_its_own_channels(name: str) -> None:
    with jax.enable_x64(True):
        v = doubled(variables())
        graph = jp.trace(SCANS[name], v, X)
        found = {name: (g.shape, g.inexact) for name, g in graph.groups.items()}
        assert found["blocks/up"] == ((LAYERS, HIDDEN), None)
        keep = random_keep(graph)
        assert len({tuple(row) for row in keep["blocks/up"]}) > 1
        check(SCANS[name], graph, v, X, keep)


def mapped(v: Any, x: Any) -> Any:
    """Layers side by side, each with a key of its own."""
    keys = jax.random.split(KEY, LAYERS)
    layer = lambda w, key: block(x @ v["embed"], w, key, noise)  # noqa: E731
    return jax.vmap(layer)(v["blocks"], keys).sum(0) @ v["head"]


def mapped_behind(v: Any, x: Any) -> Any:
    """Layers side by side, drawn from one key with the layers behind the channels."""
    noises = jax.random.normal(KEY, (ROWS, HIDDEN, LAYERS))
    layer = lambda w, own: block(x @ v["embed"], w, None, lambda h, _: h * own)  # noqa: E731
    return jax.vmap(layer, (0, 2))(v["blocks"], noises).sum(0) @ v["head"]


def mapped_gamma(v: Any, x: Any) -> Any:
    keys = jax.random.split(KEY, LAYERS)
    layer = lambda w, key: block(x @ v["embed"], w, key, gammas)  # noqa: E731
    return jax.vmap(layer)(v["blocks"], keys).sum(0) @ v["head"]


def mapped_from_one_key(v: Any, x: Any) -> Any:
    """Layers side by side, which all draw the same numbers: one group for all of them."""
    layer = lambda w: block(x @ v["embed"], w, KEY, dropout)  # noqa: E731
    return jax.vmap(layer)(v["blocks"]).sum(0) @ v["head"]


@pytest.mark.parametrize("fn", [mapped, mapped_behind, mapped_gamma, mapped_from_one_key])
def test_layers_side_by_side_draw_for_their_own_channels(fn: Any) -> None:
    with jax.enable_x64(True):
        v = doubled(variables())
        graph = jp.trace(fn, v, X, layers={"blocks/*": 0})
        shape = (HIDDEN,) if fn is mapped_from_one_key else (LAYERS, HIDDEN)
        assert graph.groups["blocks/up"].shape == shape
        assert graph.groups["blocks/up"].inexact is None
        check(fn, graph, v, X, random_keep(graph))


def test_layers_that_only_another_mode_ties_are_refused() -> None:
    v = variables()
    x = X.astype(np.float32)

    def fn(v: Any, x: Any, train: bool = False) -> Any:
        mask = jax.random.uniform(KEY, (ROWS, HIDDEN)) if train else 1.0
        hidden = lambda h, _: h * mask  # noqa: E731
        step = lambda y, w: (block(y, w, None, hidden), None)  # noqa: E731
        return lax.scan(step, x @ v["embed"], v["blocks"])[0] @ v["head"]

    graph = jp.trace(fn, v, x)
    keep = random_keep(graph)
    narrowed = jp.narrow(lambda v, x: fn(v, x, train=True), graph, keep)
    with pytest.raises(jp.errors.ResizeError, match=r"of its own of \['blocks/up'\].*\nFix: "):
        narrowed(jp.slice(graph, v, keep), x)
    one = {"blocks/up": keep["blocks/up"][0]}
    narrowed = jp.narrow(lambda v, x: fn(v, x, train=True), graph, one)
    masked = fn(jp.mask(graph, v, one), x, train=True)
    np.testing.assert_allclose(narrowed(jp.slice(graph, v, one), x), masked, rtol=1e-4, atol=1e-5)


class Layer(nn.Module):
    """A layer with dropout, in Flax."""

    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        h = nn.Dropout(0.4, deterministic=False)(nn.tanh(nn.Dense(HIDDEN)(x)))
        return x + nn.Dense(x.shape[-1])(h), None


class Stack(nn.Module):
    """Layers under `nn.scan`, with dropout of their own."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        layers = nn.scan(
            nn.remat(Layer, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=LAYERS,
        )
        return nn.Dense(3)(layers()(nn.Dense(WIDTH)(x), None)[0])


def test_dropout_in_stacked_modules_of_flax() -> None:
    with jax.enable_x64(True):
        model = Stack()
        keys = {"params": jax.random.key(0), "dropout": KEY}
        v = doubled(model.init(keys, X))
        fn = lambda v, x: model.apply(v, x, rngs={"dropout": KEY})  # noqa: E731
        graph = jp.trace(fn, v, X)
        assert (LAYERS, HIDDEN) in {group.shape for group in graph.groups.values()}
        check(fn, graph, v, X, random_keep(graph))
