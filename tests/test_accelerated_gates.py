"""Sparse structure selection: APG in NumPy, gates that shut, and blocks that go."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.errors import GateError, JaxpruneError
from jaxprune.sparsify import accelerated_l1_gates
from sparse_training import Block, X, block, noise, run

BRANCH, STREAM, INNER = "+down/kernel", "down/kernel", "depthwise/kernel"


def equations(slopes: list[float], nonnegative: bool) -> float:
    """One gate by equations 8 to 10, with a rate and a strength that change."""
    gate, v = 1.0, 0.0
    for step, slope in enumerate(slopes):
        rate, strength = (0.2 if step < 10 else 0.1), 0.2 + 0.8 * step / 20
        z = gate - rate * slope
        z = np.sign(z) * max(abs(z) - rate * strength, 0)
        v = z - gate + 0.8 * v
        gate = z + 0.8 * v
        gate = max(gate, 0) if nonnegative else gate
    return gate


@pytest.mark.parametrize("nonnegative", [True, False])
def test_twenty_steps_against_the_equations_of_the_paper(nonnegative: bool) -> None:
    gates = {"a": jnp.ones(5), BRANCH: jnp.ones(())}
    tx = accelerated_l1_gates(
        optax.linear_schedule(0.2, 1.0, 20),
        learning_rate=optax.piecewise_constant_schedule(0.2, {10: 0.5}),
        momentum=0.8,
        nonnegative=nonnegative,
    )
    found, state, update, slopes = gates, tx.init(gates), jax.jit(tx.update), []
    for step in range(20):
        slopes.append(noise(gates, step))
        updates, state = update(slopes[-1], state, found)
        found = optax.apply_updates(found, updates)
    ended = []
    for name, gate in gates.items():
        for place in np.ndindex(gate.shape):
            ended.append(equations([float(s[name][place]) for s in slopes], nonnegative))
            np.testing.assert_allclose(found[name][place], ended[-1], rtol=1e-4, atol=1e-5)
            if nonnegative:  # to the bit
                assert (found[name][place] == 0) == (ended[-1] == 0)
    assert update._cache_size() == 1
    assert 0 in ended or not nonnegative


def test_gates_shut_and_what_they_gate_goes() -> None:
    """A whole block, channels of the stream, and the rest folded: equal to the gated network."""
    graph, variables = block()
    gates = {STREAM: jnp.ones(4), INNER: jnp.ones(6), BRANCH: jnp.ones(())}
    slopes = {STREAM: np.array([-1, -1, 0.5, -1.0]), INNER: np.arange(6.0) - 3, BRANCH: np.ones(())}
    tx = accelerated_l1_gates(0.1, learning_rate=0.1)
    state, update = tx.init(gates), jax.jit(tx.update)
    for _ in range(30):
        updates, state = update(slopes, state, gates)
        gates = optax.apply_updates(gates, updates)
    keep = {name: gate != 0 for name, gate in gates.items()}
    assert [keep[name].tolist() for name in (STREAM, BRANCH)] == [[True, True, False, True], False]
    expected = jp.gated(Block().apply, graph)(variables, gates, X)
    small = jp.slice(graph, jp.gates.fold(graph, variables, gates), keep)
    assert set(small["params"]) == {"stem", "stem_norm", "head"}
    got = jp.narrow(Block().apply, graph, keep)(small, X)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_gate_of_a_branch_goes_into_its_last_weights() -> None:
    graph, variables = block()
    folded = jp.gates.fold(graph, variables, {BRANCH: 0.25})
    expected = jp.gated(Block().apply, graph)(variables, {BRANCH: 0.25}, X)
    np.testing.assert_allclose(run(folded, X), expected, rtol=1e-5)
    before, after = variables["params"], folded["params"]
    for name in ("scale", "bias"):
        np.testing.assert_array_equal(after["down_norm"][name], 0.25 * before["down_norm"][name])
    jax.tree.map(np.testing.assert_array_equal, after | {"down_norm": 0}, before | {"down_norm": 0})


def summed(last: Any) -> Any:
    """A stream, and a branch that `last` ends."""
    v = {"a": np.ones((2, 3)), "b": np.ones((3, 2)), "bias": np.ones(2), "c": np.ones((2, 2))}

    def apply(v: Any, x: Any) -> Any:
        return (x + last(v, jnp.tanh(x @ v["a"]))) @ v["c"]

    return jp.trace(apply, v, np.ones((1, 2))), v


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (lambda v, h: jnp.tanh(h @ v["b"]), "tanh comes between it and its last weights"),
        (lambda v, h: h @ v["b"] + 1.0, "a number of the code is added to it"),
        (lambda v, h: h @ v["b"] + v["bias"][None] + h[:, :1] * v["bias"][None], "elsewhere too"),
    ],
)
def test_gates_that_no_weights_can_take_are_refused(last: Any, why: str) -> None:
    graph, v = summed(last)
    (name,) = jp.branches(graph)
    with pytest.raises(GateError, match=rf"branch .*: .*{why}[\s\S]*\nFix: leave them out"):
        jp.gates.fold(graph, v, {name: 0.5})


def test_biases_scale_with_the_branch_and_steps_have_their_own_gates() -> None:
    graph, v = summed(lambda v, h: (h @ v["b"]).astype(jnp.float32) * 2 - v["bias"][None])
    folded = jp.gates.fold(graph, v, {"+b": 0.5})
    assert folded["b"].tolist() == [[0.5, 0.5]] * 3
    assert folded["bias"].tolist() == [0.5, 0.5]
    v = {"up": np.ones((3, 4, 8)), "down": np.ones((3, 8, 4))}

    def apply(v: Any, x: Any) -> Any:
        def step(x: Any, w: Any) -> Any:
            return x + jax.nn.relu(x @ w[0]) @ w[1], None

        return jax.lax.scan(step, x, (v["up"], v["down"]))[0] @ jnp.ones((4, 2))

    graph = jp.trace(apply, v, np.ones((1, 4)))
    folded = jp.gates.fold(graph, v, {"+down": np.array([1.0, 0.5, 0.0])})
    assert folded["down"][:, 0, 0].tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_array_equal(folded["up"], v["up"])


@pytest.mark.parametrize(
    ("last", "again", "why"),
    [
        (lambda down, shared: down * shared[None], False, ""),
        (lambda down, shared: down * shared[None], True, "read elsewhere too"),
        (
            lambda down, shared: jnp.exp(down) * shared[None],
            False,
            "exp comes|no variable of its own",
        ),
    ],
)
def test_what_the_steps_of_a_scan_share_takes_no_gate(last: Any, again: bool, why: str) -> None:
    v = {"up": np.ones((3, 3, 8)), "down": np.ones((3, 8, 3)), "c": np.ones((3, 2))}
    v["shared"] = np.ones(3)

    def apply(v: Any, x: Any) -> Any:
        def step(x: Any, w: Any) -> Any:
            return x + jax.nn.relu(x @ w[0]) @ last(w[1], v["shared"]), None

        x = jax.lax.scan(step, x, (v["up"], v["down"]))[0]
        return (x + v["down"].sum() if again else x) @ v["c"]

    graph = jp.trace(apply, v, np.ones((1, 3)))
    (name,) = jp.branches(graph)
    if why:
        with pytest.raises(GateError, match=why):
            jp.gates.fold(graph, v, {name: np.ones(3)})
    else:
        folded = jp.gates.fold(graph, v, {name: np.array([1.0, 0.5, 0.0])})
        assert folded["down"][:, 0, 0].tolist() == [1.0, 0.5, 0.0]
        np.testing.assert_array_equal(folded["shared"], v["shared"])


def test_wrapped_by_optax() -> None:
    gates = {"a": jnp.ones(3), "b": jnp.ones(2)}
    make = optax.inject_hyperparams(accelerated_l1_gates, static_args=("nonnegative",))
    inside = make(0.5, learning_rate=0.5, momentum=0.5)
    labels = {"a": "gates", "b": "none"}
    tx = optax.partition({"gates": inside, "none": optax.set_to_zero()}, labels)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, gates), tx.init(gates), gates)
    np.testing.assert_allclose(updates["a"], -0.375)
    assert not np.any(updates["b"])
    with pytest.raises(JaxpruneError, match=r"momentum must be in \[0, 1\), got 1.5"):
        accelerated_l1_gates(0.1, learning_rate=0.1, momentum=1.5)


@pytest.mark.parametrize("gate", [np.ones(2, np.int32), np.ones(2, bool), np.ones(2) * 1j, 1])
def test_what_could_not_move_is_refused(gate: Any) -> None:
    with pytest.raises(JaxpruneError, match=r"a tree of real floats, got \{'a': .*\nFix: "):
        accelerated_l1_gates(0.1, learning_rate=0.1).init({"a": gate, "b": np.ones(2)})
