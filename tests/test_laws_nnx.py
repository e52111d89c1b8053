"""The same random networks in NNX: the same groups, the same costs, the same small networks."""

import jax
import pytest

import jaxprune as jp
import laws
import networks
import nnx_twin
import random_networks
from blocks import Blocks
from narrowed import narrowed

COVERED = {block.__name__ for block in nnx_twin.RULES} | {"Identity", "Projected"}
NETWORKS = [
    spec for spec in map(random_networks.network, range(60)) if networks.blocks(spec) <= COVERED
]


def check_twin(spec: Blocks) -> None:
    """Checks the NNX network of `spec` in train mode against the Linen one, whole and pruned."""
    linen = laws.traced(spec, train=True)
    model = nnx_twin.Twin(spec, linen.variables, linen.x)
    graph = jp.nnx.trace(model, linen.x)
    assert laws.sizes(graph) == laws.sizes(linen.graph)
    assert laws.inexact(graph) == laws.inexact(linen.graph)
    keep = laws.even_keep(graph, seed=2)
    for kept in ({}, keep):
        assert jp.cost.macs(graph, kept) == jp.cost.macs(linen.graph, kept)
        assert jp.cost.weights(graph, kept) == jp.cost.weights(linen.graph, kept)
    cut = jp.slice(linen.graph, linen.variables, keep)
    written = narrowed(spec, cut, laws.entries(linen.graph, keep))
    assert written.spec is not None
    small = jp.nnx.resize(model, graph, keep)
    apply = laws.applied(networks.Network(written.spec), train=True)
    compare = {"whole": (model, linen.fn, linen.variables), "small": (small, apply, cut)}
    functions = {name: (jp.nnx.function(ours), fn) for name, (ours, fn, _) in compare.items()}
    found = jax.jit(
        lambda v, x: {
            name: (ours(v[name][0], x), fn(v[name][1], x)) for name, (ours, fn) in functions.items()
        },
        compiler_options=laws.fast(spec),
    )({name: (jp.nnx.variables(ours), v) for name, (ours, _, v) in compare.items()}, linen.x)
    for name, ((logits, updates), (expected, statistics)) in found.items():
        laws.assert_close({"logits": logits}, {"logits": expected}, what=name)
        updates = {layer: updates[layer] for layer in statistics.get("batch_stats", {})}
        laws.assert_close(updates, statistics.get("batch_stats", {}), what=name)


@pytest.mark.parametrize("spec", NETWORKS[:12], ids=range(12))
def test_twin_in_nnx(spec):
    with jax.enable_x64(True):
        check_twin(spec)
