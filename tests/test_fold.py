"""Gates of a network without BatchNorm: scored, trained, masked, folded into weights and cut."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from blocks import Activation, Conv, Flatten, Residual
from chains import chain
from jaxprune import schedule
from jaxprune.errors import GateError, TreeError
from modules import HandAttention
from networks import Network, images, weights

RELU, TANH = Activation(function=nn.relu), Activation(function=nn.tanh)
BODY = (Conv(features=5), TANH, Conv(features=6))
MODULE = Network(blocks=(Conv(features=6), RELU, Residual(body=BODY), Flatten()))


def test_ticks_without_batch_norm() -> None:
    """Masked, folded and sliced are one network, and one program serves all Ticks."""
    variables, x = weights(MODULE, 0), images(0)
    graph = jp.trace(MODULE.apply, variables, x[:1])
    apply, traced = jp.gated(MODULE.apply, graph), []
    tx = schedule.masked_updates(
        optax.chain(jp.sparsify.l1_gates(1e-2), optax.sgd(0.1, 0.9)), graph
    )

    @jax.jit
    def step(gates: Any, state: Any, tally: Any, keep: Any) -> Any:
        traced.append(None)
        slopes = jax.grad(lambda gates: jnp.sin(apply(variables, gates, x)).sum())(gates)
        tally = tally.add({name: abs(gates[name] * slopes[name]) for name in gates})
        updates, state = tx.update(slopes, state, gates, keep=keep)
        return optax.apply_updates(gates, updates), state, tally

    gates: Any = jp.gates.unit(graph)
    progress, state = schedule.begin(graph, keep_macs=0.4), tx.init(gates)
    plan = schedule.tick_only(keep_macs=0.4, prune_ratio=0.3, finetune=())
    done, ticks = None, 0
    while (done := plan(done, progress.left())) and done.prune:
        ticks, tally = ticks + 1, schedule.tally(graph)
        for _ in range(2):
            gates, state, tally = step(gates, state, tally, progress.keep)
        progress = progress.prune(done.prune, tally.scores())
        gates = {name: gate * progress.keep[name] for name, gate in gates.items()}
    assert progress.left() <= 0.4
    assert ticks > len(traced) == 1

    expected = apply(variables, gates, x)
    folded = jp.gates.fold(graph, variables, gates)
    small = jp.linen.resize(MODULE, graph, progress.keep)
    got: Any = small.apply(jp.slice(graph, folded, progress.keep), x)
    for found in (MODULE.apply(folded, x), got):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_and_unit_gates() -> None:
    graph, variables = chain(4, 5)
    halves = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables)
    found = jax.jit(lambda gates: jp.gates.fold(graph, halves, gates))(jp.gates.unit(graph))
    jax.tree.map(np.testing.assert_array_equal, found, halves)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


def test_gates_that_no_weights_can_take() -> None:
    module, x = HandAttention(), np.ones((1, 5, 6), np.float32)
    variables = weights(module, 0, x)
    graph = jp.trace(module.apply, variables, x)
    with pytest.raises(GateError) as caught:
        jp.gates.fold(graph, variables, jp.gates.unit(graph))
    first, *lines, fix = str(caught.value).splitlines()
    assert first == "these groups cannot have a folded gate:"
    assert lines
    assert all(
        line.endswith(": no single weight reads its channels at every contraction")
        for line in lines
    )
    assert fix == "Fix: leave them out; jp.gated goes on to apply the gates of these."
    graph, variables = chain(4)
    with pytest.raises(
        GateError, match=r"its gate must be numbers of shape \(4,\), got float64\[3\]\nFix"
    ):
        jp.gates.fold(graph, variables, {"layer_0/kernel": np.ones(3)})
    with pytest.raises(TreeError, match=r"fold: the parameters do not mirror[\s\S]*\nFix: pass"):
        jp.gates.fold(graph, {"params": {}}, {"layer_0/kernel": np.ones(4)})
