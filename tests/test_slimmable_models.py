"""Slimmable training of every kind of model: NNX, plain functions, stacks, without BatchNorm."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune import slimmable
from jaxprune.errors import KeepError, TreeError
from modules import ScanBlock
from nnx_networks import Residual as NnxResidual
from nnx_networks import model_of
from slimmable_networks import Normed, close, loss, setup, widths_of


class Plain(nn.Module):
    """No BatchNorm; a LayerNorm of the inputs."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))


@pytest.mark.parametrize("model", [Plain(), ScanBlock()])
def test_networks_without_batch_norm(model):
    with jax.enable_x64(True):
        net = setup(model, dtype=jnp.float64)
        x, graph = net.x, net.graph

        def network(keep):
            small = jp.linen.resize(model, graph, keep)
            return lambda v, x: (small.apply(v, x), {})

        widths = widths_of(graph)
        params, rest = slimmable.split(graph, net.variables, widths)
        assert (params.private, rest.private) == ({}, {})
        step = slimmable.gradients(network, graph, lambda y, t: ((y - t) ** 2).mean())
        got = step(params, rest, widths, x, 1.0)
        masked = jax.jit(lambda drawn: step(params, rest, {1.0: {}, **drawn}, x, 1.0))
        close(got, masked({0.5: widths[0.5]}))
        assert got.losses[0] != got.losses[1]
        with pytest.raises(TreeError, match=r"no BatchNorm among the variables(.|\n)*Fix:"):
            slimmable.calibrate(network, graph, params, rest, widths, [x])


def test_what_is_inexact_is_sliced_and_not_masked():
    net = setup(Normed())

    def network(keep):
        small = jp.linen.resize(net.model, net.graph, keep)
        return lambda v, x: (small.apply(v, x), {})

    widths = widths_of(net.graph)
    params, rest = slimmable.split(net.graph, net.variables, widths)
    step = slimmable.gradients(network, net.graph, loss)
    got = step(params, rest, widths, net.x, net.labels)

    small = jp.slice(net.graph, net.variables, widths[0.5])
    expected = loss(Normed(6, 4).apply(small, net.x), net.labels)
    np.testing.assert_allclose(got.losses[1], expected, rtol=1e-5)
    with pytest.raises(KeepError, match=r"(.|\n)*Fix: concrete keeps"):
        jax.jit(lambda drawn: step(params, rest, {1.0: {}, **drawn}, net.x, net.labels))(
            {0.5: widths[0.5]}
        )


class Hidden(nn.Module):
    """What its second BatchNorm normalizes has moments that depend on the width."""

    @nn.compact
    def __call__(self, x, train=False):
        for _ in range(2):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(16)(x))
            x = nn.relu(x)
        return nn.Dense(3)(x)


def test_shared_batch_norms_fail_where_those_of_each_width_do_not():
    net = setup(Hidden())
    widths = widths_of(net.graph, (1.0, 0.5, 0.25))
    labels = jnp.argmax(net.x @ jnp.asarray([[1.0, -1.0, 0.5], [0.3, 0.6, -1.0]]), axis=-1)
    gradients = slimmable.gradients(net.train, net.graph, loss)

    @jax.jit
    def step(params, rest):
        got = gradients(params, rest, widths, net.x, labels)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, got.params), got.rest, got.losses

    def served(private):
        params, rest = slimmable.split(net.graph, net.variables, widths, private=private)
        for _ in range(400):
            params, rest, losses = step(params, rest)
        small = (
            (keep, slimmable.variables(net.graph, params, rest, w, keep))
            for w, keep in widths.items()
        )
        return losses, jnp.stack([loss(net.serve(keep)(v, net.x), labels) for keep, v in small])

    trained, own = served(None)
    np.testing.assert_allclose(own, trained, atol=0.05)
    trained, shared = served(())
    assert (trained < 0.3).all()
    assert shared.max() > 10 * trained.max()


def test_nnx_models_and_plain_functions():
    model = model_of(NnxResidual)
    model.train()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 2, 3)), jnp.float32)
    graph = jp.nnx.trace(model, x)
    widths = widths_of(graph)
    params, rest = slimmable.split(graph, jp.nnx.variables(model), widths)
    steps = [
        slimmable.gradients(network, graph, lambda y, t: ((y - t) ** 2).mean())
        for network in (
            lambda keep: jp.nnx.function(jp.nnx.resize(model, graph, keep)),
            lambda keep: jp.narrow(graph.fn, graph, keep),
        )
    ]
    first, second = (step(params, rest, widths, x, 1.0) for step in steps)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), first, second)
    assert set(first.params.private) == {1.0, 0.5}

    outputs, _ = jp.nnx.function(model)(jp.nnx.variables(model), x)
    np.testing.assert_allclose(first.losses[0], ((outputs - 1) ** 2).mean(), rtol=1e-5)


def test_nnx_models_are_calibrated_and_served():
    model = model_of(NnxResidual)
    model.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 2, 3)), jnp.float32)
    graph, served = jp.nnx.trace(model, x), nnx.clone(model)
    model.train()
    widths = widths_of(graph)
    params, rest = slimmable.split(graph, jp.nnx.variables(model), widths)

    def trains(keep):
        return jp.nnx.function(jp.nnx.resize(model, graph, keep))

    def serves(keep):
        run = jp.nnx.function(jp.nnx.resize(served, graph, keep))
        return lambda v, x: run(v, x)[0]

    rest = slimmable.calibrate(trains, graph, params, rest, widths, [x])
    net = slimmable.switch(serves, graph, params, rest, widths)
    for width, keep in widths.items():
        small = slimmable.variables(graph, params, rest, width, keep)
        batch = trains(keep)(small, x)[0]  # normalizes with the moments of the same batch
        np.testing.assert_allclose(net.at(width)(x), batch, rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return x + nn.Dense(x.shape[-1])(nn.relu(y)), None


class Stacked(nn.Module):
    """Three layers with BatchNorm as one scan over stacked variables."""

    @nn.compact
    def __call__(self, x, train=False):
        axes = {"params": 0, "batch_stats": 0}
        scan = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, in_axes=nn.broadcast,
                       length=3)  # fmt: skip
        x, _ = scan()(nn.Dense(6)(x), train)
        return nn.Dense(3)(x)


def test_stacked_layers_have_norms_of_each_width():
    with jax.enable_x64(True):
        net = setup(Stacked(), dtype=jnp.float64)
        widths = widths_of(net.graph)
        params, rest = slimmable.split(net.graph, net.variables, widths)
        got = slimmable.gradients(net.train, net.graph, loss)(
            params, rest, widths, net.x, net.labels
        )
        for width, keep in widths.items():
            small = jp.slice(net.graph, net.variables, keep)
            logits, new = net.train(keep)(small, net.x)
            np.testing.assert_allclose(
                got.losses[list(widths).index(width)], loss(logits, net.labels)
            )
            mine = slimmable.variables(net.graph, params, got.rest, width, keep)
            close(mine["batch_stats"], new["batch_stats"])
        assert got.rest.private[0.5]["batch_stats"]["ScanBlock_0"]["BatchNorm_0"]["mean"].shape == (
            3,
            4,
        )
