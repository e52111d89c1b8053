"""First-order Taylor scores: by hand, against the gates themselves, under jit, and errors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from blocks import Activation, Conv, Flatten, Norm, Residual
from chains import chain
from modules import EmbedBlock, HandAttention
from networks import Network, weights

RANDOM = np.random.default_rng(0)
A, B = "layer_0/kernel", "layer_1/kernel"
RELU = Activation(function=nn.relu)
IMAGES = RANDOM.normal(size=(3, 4, 4, 3)).astype(np.float32)
LABELS = np.array([0, 3, 1])
MODULE = Network(
    blocks=(
        Conv(features=4), Norm(), RELU,
        Residual(body=(Conv(features=6), Norm(), RELU, Conv(features=4), Norm())), Flatten(),
    )
)  # fmt: skip
STREAM, MIDDLE = "Conv_0/kernel", "Conv_1/kernel"


def cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def loss(variables: Any) -> Any:
    return cross_entropy(MODULE.apply(variables, IMAGES), LABELS)


@pytest.fixture(scope="module")
def network() -> tuple[jp.ChannelGraph, Any, Any]:
    """Returns a graph, variables, and the gradients of a batch."""
    variables = weights(MODULE, 1)
    graph = jp.trace(MODULE.apply, variables, IMAGES[:1])
    return graph, variables, jax.jit(jax.grad(loss))(variables)


def close(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_taylor_by_hand() -> None:
    graph, variables = chain(2, 3)
    w = variables["params"]
    g = jax.tree.map(lambda leaf: RANDOM.normal(size=leaf.shape).astype(np.float32), variables)
    signed = [(w[name]["kernel"] * g["params"][name]["kernel"]).sum(1) for name in list(w)[1:]]
    close(jp.scores.taylor(graph, variables, g), {A: abs(signed[0]), B: abs(signed[1])})


def test_taylor_is_the_derivative_by_the_gate(network: Any) -> None:
    """Without a gate, from the gradients of a plain step, on host and in the program."""
    graph, variables, gradients = network
    apply = jp.gated(MODULE.apply, graph)

    @jax.jit
    def by_gate(gates: Any, gradients: Any) -> Any:
        slopes = jax.grad(lambda m: cross_entropy(apply(variables, m, IMAGES), LABELS))(gates)
        return slopes, jp.scores.taylor(graph, variables, gradients)

    slopes, inside = by_gate(jp.gates.unit(graph), gradients)
    expected = {name: abs(slopes[name]) for name in graph.groups}
    close(inside, expected)
    close(jp.scores.taylor(graph, variables, {"params": gradients["params"]}), expected)


def test_taylor_gate_is_one_number_in_both_forms(network: Any) -> None:
    """|phi * dL/dphi| = |gamma * dL/dgamma + beta * dL/dbeta|, summed over tied BatchNorms."""
    graph, variables, gradients = network
    decorated = jp.gates.decorate(variables).variables
    slopes = jax.jit(jax.grad(lambda d: loss(jp.gates.melt(d))))(decorated)
    phi, slope = (
        [tree["params"][f"BatchNorm_{i}"]["scale"] for i in range(3)]
        for tree in (decorated, slopes)
    )
    each = [abs(a * b) for a, b in zip(phi, slope, strict=True)]
    expected = {STREAM: each[0] + each[2], MIDDLE: each[1]}
    close(jp.scores.taylor_gate(graph, decorated, slopes), expected)
    close(jp.scores.taylor_bn(graph, variables, gradients), expected)
    close(
        jp.scores.taylor_bn(graph, variables, gradients, reduce=np.max),
        expected | {STREAM: np.maximum(each[0], each[2])},
    )


def test_a_batch_norm_without_bias() -> None:
    norm = nn.BatchNorm(use_running_average=True, use_bias=False)
    variables = norm.init(jax.random.key(0), np.ones((1, 2))) | {"w": np.ones((3, 2))}
    variables["params"]["scale"] = np.array([2.0, -1.0], np.float32)

    def fn(v: Any, x: Any) -> Any:
        h = norm.apply({name: v[name] for name in ("params", "batch_stats")}, x @ v["w"])
        return jnp.tanh(h).sum(1)

    graph = jp.trace(fn, variables, np.ones((1, 3)))
    slopes = jax.tree.map(lambda leaf: np.full(leaf.shape, 3.0, np.float32), variables)
    expected = {"w": np.array([6.0, 3.0])}
    close(jp.scores.taylor_bn(graph, variables, slopes), expected)
    close(jp.scores.taylor_gate(graph, variables, slopes), expected)


def test_activations_of_each_example_by_hand() -> None:
    """|sum over positions of a * dL/da| of every example, added up; then one norm per group."""
    v = {"w": RANDOM.normal(size=(2, 4)), "u": RANDOM.normal(size=(4, 3))}
    v = jax.tree.map(np.float32, v)
    x = RANDOM.normal(size=(5, 6, 2)).astype(np.float32)  # 5 examples, 6 positions

    def fn(v: Any, x: Any) -> Any:
        return (jnp.tanh(x @ v["w"]) @ v["u"]).mean(1)

    graph = jp.trace(fn, v, x[:1])
    apply = jp.gated(fn, graph)
    each = jax.vmap(jax.grad(lambda m, x: jnp.sin(apply(v, m, x[None])).sum()), (None, 0))
    found = jp.scores.taylor_activation(graph, each(jp.gates.unit(graph), x))

    a = np.tanh(x @ v["w"])
    slope = np.cos((a @ v["u"]).mean(1)) @ v["u"].T / 6
    expected = abs((a * slope[:, None]).sum(1)).sum(0)
    close(found, {"w": expected})
    close(
        jp.scores.normalized(found | {"none": np.zeros(3, np.float32)}),
        {"w": expected / np.linalg.norm(expected), "none": np.zeros(3)},
    )


@pytest.mark.parametrize(
    ("module", "x", "scored"),
    [
        (HandAttention(), np.ones((1, 5, 6), np.float32), ["key/kernel[1.0]", "value/kernel[1.1]"]),
        (EmbedBlock(), np.ones((1, 5), int), ["Dense_1/kernel"]),
    ],
)
def test_groups_that_weights_do_not_tell(module: nn.Module, x: Any, scored: list[str]) -> None:
    """Queries meet keys, and a tied embedding makes the channels that it reads."""
    variables = weights(module, 0, x)
    graph = jp.trace(module.apply, variables, x)
    assert list(jp.scores.taylor(graph, variables, variables)) == scored
    assert len(jp.gates.unit(graph)) == len(graph.groups) > len(scored)


def test_trees_that_do_not_mirror_the_graph() -> None:
    graph, variables = chain(4)
    bad = {"params": variables["params"] | {"layer_1": {"kernel": np.ones((5, 3), np.float32)}}}
    with pytest.raises(jp.errors.TreeError) as caught:
        jp.scores.taylor(graph, bad, variables["params"])
    assert str(caught.value) == (
        "the trees do not mirror the graph.\n"
        "params/layer_1/kernel: the graph has shape (4, 3), the variables have (5, 3)\n"
        "params/layer_1/kernel: the graph has shape (4, 3), the gradients have no such leaf\n"
        "Fix: pass the variables that the graph was traced from, and gradients in the same tree "
        "({'params': ...}, not the params alone)."
    )
    with pytest.raises(jp.errors.ScoreError) as caught:
        jp.scores.taylor_activation(graph, {A: np.ones(4), "z": np.ones((2, 3))})
    assert str(caught.value) == (
        "these are not gradients of gates.\n"
        f"group {A!r}: expected gradients of gates [examples, 4], got [4]\n"
        "group 'z': the graph has no such group\n"
        "Fix: jax.vmap(jax.grad(loss), (None, 0)) by the gates, over the examples."
    )
