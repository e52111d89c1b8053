"""ADMM and learning-compression: the papers' loops in NumPy, projections, and zeros to cut."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import apply, chain
from jaxprune.arguments import paths
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.sparsify import (
    compressed,
    entries,
    largest_in_each,
    largest_of_all,
    learning_compression,
    norm_ball,
)
from sparse_training import Momentum, close, trained

KERNELS = ("layer_0/kernel", "layer_1/kernel")
Kernels = dict[str, np.ndarray]


def columns(w: Kernels) -> dict[str, np.ndarray]:
    return {name: np.linalg.norm(kernel, axis=0) for name, kernel in w.items()}


def half_of_each(w: Kernels) -> Kernels:
    found = {name: kernel.copy() for name, kernel in w.items()}
    for name, norms in columns(w).items():
        found[name][:, np.argsort(norms)[: len(norms) // 2]] = 0
    return found


def half_of_all(w: Kernels) -> Kernels:
    found = {name: kernel.copy() for name, kernel in w.items()}
    every = sorted((n, name, c) for name, norms in columns(w).items() for c, n in enumerate(norms))
    for _, name, channel in every[: len(every) // 2]:
        found[name][:, channel] = 0
    return found


def ball(w: Kernels) -> Kernels:
    """By bisection of the number by which all norms fall."""
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(np.maximum(n - middle, 0).sum() for n in columns(w).values())
        low, high = (middle, high) if total > 6 else (low, middle)
    return {k: w[k] * np.maximum(1 - high / n, 0) for k, n in columns(w).items()}


def half_of_weights(w: Kernels) -> Kernels:
    """Unstructured: of all weights of all kernels."""
    sizes = np.sort(np.concatenate([abs(kernel).ravel() for kernel in w.values()]))
    limit = sizes[-int(np.ceil(0.5 * len(sizes)))]
    return {name: np.where(abs(kernel) >= limit, kernel, 0) for name, kernel in w.items()}


def growing(number: Any) -> Any:
    return 0.3 * 1.5**number


def learned(loop: Momentum, kernels: Any, project: Callable[[Kernels], Kernels]) -> Kernels:
    """LC, figure 2, with its multipliers; returns theta."""
    theta, multiplier = project({k: loop.w[k] for k in kernels}), dict.fromkeys(kernels, 0.0)
    for step in range(20):
        if step in (5, 10, 15):
            mu = growing(step // 5 - 1)
            theta = project({k: loop.w[k] - multiplier[k] / mu for k in kernels})
            multiplier = {k: multiplier[k] - mu * (loop.w[k] - theta[k]) for k in kernels}
        mu = growing(step // 5)
        loop.step(step, {k: mu * (loop.w[k] - theta[k]) - multiplier[k] for k in kernels})
    return theta


@pytest.mark.parametrize(
    ("projection", "project", "single"),
    [
        (largest_in_each(0.5), half_of_each, False),
        (largest_of_all(0.5), half_of_all, False),
        (norm_ball(6.0), ball, False),
        (largest_of_all(0.5), half_of_weights, True),
    ],
)
def test_twenty_steps_of_learning_compression(projection: Any, project: Any, single: bool) -> None:
    graph, variables = chain(4, 6)
    params = variables["params"]
    loop = Momentum(params, 0.03, 0.9, 0.1)
    kernels = (*KERNELS, "layer_2/kernel") if single else KERNELS
    expected = learned(loop, kernels, project)
    over = entries(graph) if single else None
    tx = learning_compression(graph, projection, strength=growing, period=5, over=over)
    got, state, traces = trained(optax.chain(tx, loop.optimizer()), params)
    close(got, loop.w)
    assert traces == 1
    theta = paths.flatten(compressed(got, state[0]))[0]
    for name in kernels:
        np.testing.assert_allclose(theta[name], expected[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(theta[name] == 0, abs(expected[name]) < 1e-9)
    np.testing.assert_array_equal(theta["layer_0/bias"], paths.flatten(got)[0]["layer_0/bias"])


def test_a_constant_strength_is_admm_in_its_scaled_form() -> None:
    graph, variables = chain(4, 6)
    loop = Momentum(variables["params"], 0.03, 0.9, 0.1)
    z, dual = half_of_each({k: loop.w[k] for k in KERNELS}), dict.fromkeys(KERNELS, 0.0)
    for step in range(20):
        if step in (5, 10, 15):
            z = half_of_each({k: loop.w[k] + dual[k] for k in KERNELS})
            dual = {k: dual[k] + loop.w[k] - z[k] for k in KERNELS}
        loop.step(step, {k: 0.7 * (loop.w[k] - z[k] + dual[k]) for k in KERNELS})
    tx = learning_compression(graph, largest_in_each(0.5), strength=0.7, period=5)
    got, state, _ = trained(optax.chain(tx, loop.optimizer()), variables["params"])
    close(got, loop.w)
    for name in KERNELS:
        np.testing.assert_allclose(
            -state[0].multiplier[name] / 0.7, dual[name], rtol=1e-3, atol=1e-4
        )


def test_compressed_filters_are_cut_and_their_biases_absorbed() -> None:
    graph, variables = chain(4, 6)
    state = learning_compression(graph, largest_of_all(0.5), strength=0.1, period=1).init(variables)
    ended = compressed(variables, state)
    keep = jp.select.threshold(graph, jp.scores.l2(graph, ended), threshold=0)
    assert sum(int(mask.sum()) for mask in keep.values()) == 5
    absorbed = jp.recover.absorb_constants(graph, ended, keep)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    expected = apply(ended, x)
    got = jp.narrow(apply, graph, keep)(jp.slice(graph, absorbed.variables, keep), x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_projections_keep_one_and_leave_the_inside_of_a_ball_alone() -> None:
    norms = {"a": jnp.array([[3.0, 2.0], [0.1, 0.2]]), "b": jnp.array([5.0, 4.0, 6.0])}
    assert [n.tolist() for n in largest_of_all(0.0)(norms).values()] == [
        [[3.0, 0.0], [0.0, pytest.approx(0.2)]],
        [0.0, 0.0, 6.0],
    ]
    assert largest_in_each(0.0)(norms)["a"].tolist() == [[3.0, 0.0], [0.0, pytest.approx(0.2)]]
    jax.tree.map(np.testing.assert_array_equal, norm_ball(30.0)(norms), norms)
    assert sum(float(n.sum()) for n in norm_ball(1e-9)(norms).values()) == 0.0  # below rounding


def test_what_no_set_holds_is_not_drawn() -> None:
    """Half of the filters of a kernel belong to a frozen part: a result."""
    v = {"a": np.ones((2, 4), np.float32), "b": np.ones((2, 2), np.float32)}

    def halves(v: Any, x: Any) -> Any:
        x = x @ v["a"]
        return x[:, :2] @ v["b"], x[:, 2:]

    graph = jp.trace(halves, v, np.ones((1, 2), np.float32))
    tx = learning_compression(graph, norm_ball(1.0), strength=1.0, period=1)
    state, moved = tx.init(v), jax.tree.map(lambda w: 2 * w, v)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, v), state, moved)
        assert np.all(updates["a"][:, :2] != 0)
        assert not np.any(updates["a"][:, 2:])


def test_complex_weights_are_drawn_by_their_gradient() -> None:
    v = {"a": jnp.array([[3.0 + 1.0j, 1.0 - 2.0j]]), "b": jnp.ones((2, 1), jnp.complex64)}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((1, 1), jnp.complex64))
    theta = jnp.array([[3.0 + 1.0j, 0.0]])
    tx = learning_compression(graph, largest_in_each(0.5), strength=0.5, period=9)
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, v), tx.init(v), v)
    np.testing.assert_allclose(state.compressed["a"], theta, rtol=1e-6)
    wanted = jax.grad(lambda w: (jnp.abs(w - theta) ** 2).sum() / 4)(v["a"])
    np.testing.assert_allclose(updates["a"], wanted, rtol=1e-6)


def test_errors() -> None:
    graph, variables = chain(4, 6)
    make: Any = learning_compression
    with pytest.raises(JaxpruneError, match="strength must be a number above 0"):
        make(graph, norm_ball(1.0), strength=0.0, period=1)
    with pytest.raises(JaxpruneError, match=r"the projection gives .* for norms of"):
        make(graph, lambda n: {"x": n}, strength=0.1, period=1).init(variables)
    state = make(graph, norm_ball(1.0), strength=0.1, period=1).init(variables)
    with pytest.raises(
        TreeError, match="compressed: the parameters have no 'params/layer_0/kernel'"
    ):
        compressed(variables["params"], state)
    with pytest.raises(TreeError, match=r"learning_compression: .*[\s\S]*no such leaf"):
        make(graph, norm_ball(1.0), strength=0.1, period=1).init({"layer_0": 1.0})
