"""A graph of a symbolic batch is that of batch 1, and says so."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import BudgetError, TraceError
from zoo import attention, branches, mobile, plain, residual, sequences

B, T = jax.export.symbolic_shape("b, t")
FAMILIES = (attention, branches, mobile, plain, residual, sequences)
NETWORKS = [*itertools.chain.from_iterable(family.NETWORKS for family in FAMILIES)]


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def symbolic_inputs(network):
    """The inputs with `b` for every size that is the batch."""

    def widened(two, three):
        both = zip(two.shape, three.shape, strict=True)
        sizes = [size if size == other else B for size, other in both]
        return jax.ShapeDtypeStruct(sizes, two.dtype)

    return jax.tree.map(widened, network.inputs(2), network.inputs(3))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_symbolic_batch_gives_the_graph_of_batch_1(network):
    apply = network.applied(False)
    fn = lambda v, *inputs: apply(v, inputs)  # noqa: E731
    with jax.enable_x64(True):
        one = jp.trace(fn, network.variables(), *network.inputs(1))
        graph = jp.trace(fn, network.variables(), *symbolic_inputs(network))
    assert graph.groups.keys() == one.groups.keys()
    for name, group in graph.groups.items():
        assert (group.shape, group.inexact) == (one.groups[name].shape, one.groups[name].inexact)
    for price in (jp.cost.macs, jp.cost.params, jp.cost.weights, jp.cost.activation_bytes):
        assert price(graph) == price(one)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3))(x)))
        return nn.Dense(5)(nn.relu(nn.Dense(8)(x.mean((1, 2)))))


MODEL = Net()
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
FN = lambda v, x: MODEL.apply(v, x)  # noqa: E731
GRAPH = jp.trace(FN, VARIABLES, shape(B, 8, 8, 3))
ONE = jp.trace(FN, VARIABLES, shape(1, 8, 8, 3))
SCORES = jp.scores.l2(GRAPH, VARIABLES)
KEEP = {name: np.arange(group.size) % 2 == 0 for name, group in GRAPH.groups.items()}


def test_the_tables_say_what_they_count():
    assert f"{jp.cost.macs(ONE):,} MACs at b = 1, " in str(GRAPH)
    assert str(GRAPH).replace(" at b = 1", "") == str(ONE)
    assert jp.explain(GRAPH).replace(" at b = 1", "") == jp.explain(ONE)
    note = "\nMACs and activation bytes are those at b = 1."
    assert str(jp.compare(GRAPH, KEEP)) == str(jp.compare(ONE, KEEP)) + note
    assert jp.draw(GRAPH) == jp.draw(ONE)


@pytest.mark.parametrize(
    "bound",
    [
        {"keep_macs": 0.5},
        {"keep_macs": 60_000},
        {"keep_params": 0.5},
        {"keep_bytes": 0.7},
        {"keep_weights": 0.5, "keep_macs": 0.8},
    ],
    ids=str,
)
def test_a_budget_is_that_of_one_example(bound):
    keep = jp.select.budget(GRAPH, SCORES, **bound)
    for name, kept in jp.select.budget(ONE, SCORES, **bound).items():
        np.testing.assert_array_equal(keep[name], kept)


def test_a_quota_is_that_of_one_example():
    keep, expected = (
        jp.select.global_ratio(graph, SCORES, prune_ratio=0.4, quota=jp.cost.macs)
        for graph in (GRAPH, ONE)
    )
    for name, kept in expected.items():
        np.testing.assert_array_equal(keep[name], kept)


def test_the_graph_cuts_and_runs_at_every_batch():
    small = jp.slice(GRAPH, VARIABLES, KEEP)
    expected = MODEL.apply(jp.mask(GRAPH, VARIABLES, KEEP), IMAGES)
    narrow = jp.narrow(FN, GRAPH, KEEP)
    np.testing.assert_allclose(narrow(small, IMAGES), expected, atol=1e-5)
    resized = jp.linen.resize(MODEL, GRAPH, KEEP)
    np.testing.assert_allclose(resized.apply(small, IMAGES), expected, atol=1e-5)
    assert jp.verify(GRAPH, FN, KEEP, VARIABLES, IMAGES).ok
    assert jax.tree.map(jnp.shape, jp.unslice(GRAPH, small, KEEP)) == jax.tree.map(
        jnp.shape, VARIABLES
    )
    gates = {name: jnp.ones(group.shape) for name, group in GRAPH.groups.items()}
    np.testing.assert_allclose(jp.gated(FN, GRAPH)(VARIABLES, gates, IMAGES), FN(VARIABLES, IMAGES))
    assert jp.recover.absorb_constants(GRAPH, VARIABLES, KEEP).outcomes


def attend(v, x):
    q, k, values = (x @ v[name] for name in ("q", "k", "v"))
    return jax.nn.softmax(q @ k.mT) @ values @ v["o"]


ATTENTION = {name: np.ones((4, 6), np.float32) for name in ("q", "k", "v")}
ATTENTION["o"] = np.ones((6, 4), np.float32)


@pytest.mark.parametrize(
    ("sizes", "symbols", "macs"),
    [
        ((B, 7, 4), {"b": True}, 4 * 7 * 24 + 2 * 49 * 6),
        ((B, T, 4), {"b": True, "t": False}, 4 * 24 + 2 * 6),
        ((T, B, 4), {"t": True, "b": False}, 4 * 24 + 2 * 6),
        ((2 * B, 7, 4), {"b": False}, 2 * (4 * 7 * 24 + 2 * 49 * 6)),
        ((B, 2 * T + 1, 4), {"b": True, "t": False}, 4 * 3 * 24 + 2 * 9 * 6),
        ((B, (T + 5) // 3, 4), {"b": True, "t": False}, 4 * 2 * 24 + 2 * 4 * 6),
        ((B, T**2 + (T + 1) % 3, 4), {"b": True, "t": False}, 4 * 3 * 24 + 2 * 9 * 6),
    ],
    ids=str,
)
def test_expressions_count_with_1_for_each_name(sizes, symbols, macs):
    graph = jp.trace(attend, ATTENTION, shape(*sizes))
    assert dict(graph.symbols) == symbols
    assert jp.cost.macs(graph) == macs
    assert ", ".join(f"{name} = 1" for name in symbols) in str(graph)


def test_what_depends_on_more_than_a_batch_has_no_budget():
    graph = jp.trace(attend, ATTENTION, shape(B, T, 4))
    scores = {name: np.arange(float(group.size)) for name, group in graph.groups.items()}
    for bound in ({"keep_macs": 0.5}, {"keep_macs": 50}, {"keep_bytes": 0.9, "keep_params": 0.5}):
        with pytest.raises(BudgetError, match=r"depends on t: a symbolic size.*\nFix: trace with"):
            jp.select.budget(graph, scores, **bound)
    with pytest.raises(BudgetError, match="depends on t"):
        jp.select.global_ratio(graph, scores, prune_ratio=0.5, quota=jp.cost.macs)
    assert jp.select.budget(graph, scores, keep_params=0.5, keep_weights=0.7)
    assert jp.select.global_ratio(graph, scores, prune_ratio=0.5, quota=jp.cost.params)


def test_symbolic_variables_and_sizes_that_vanish_are_refused():
    with pytest.raises(TraceError, match=r"variables \['w'\] have symbolic sizes.*\nFix: give"):
        jp.trace(lambda v, x: x @ v["w"], {"w": shape(4, B)}, X4)
    for size in (T // 2, T - 1, 4 // (T - 1)):
        with pytest.raises(TraceError, match=r"an input has the shape .*\nFix: trace with numbers"):
            jp.trace(attend, ATTENTION, shape(1, size, 4))


X4 = np.ones((1, 4), np.float32)
