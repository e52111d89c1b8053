"""Growing regularization: the paper's loops in NumPy, and what the growths give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.sparsify import everywhere, growing_decay, structured, weak_first, weighted_decay
from sparse_training import Momentum, close, trained

KERNELS = ("layer_0/kernel", "layer_1/kernel")
KEEP = {"layer_0/kernel": np.arange(4) % 2 == 0, "layer_1/kernel": np.arange(6) > 1}


def chosen(norms: Any) -> Any:
    """GReg-1: what is to go grows."""
    return {name: ~KEEP[name] for name in norms}


def weaker(n: np.ndarray) -> np.ndarray:
    return (n.max() - n) / (n.max() - n.min())


@pytest.mark.parametrize(
    ("growth", "share"),
    [
        (chosen, None),
        (everywhere, np.ones_like),
        (weak_first, weaker),
    ],
)
def test_twenty_steps_against_the_loop_of_the_paper(growth: Any, share: Any) -> None:
    graph, variables = chain(4, 6)
    loop = Momentum(variables["params"], 0.05, 0.9, 0.1)
    strengths = {name: np.zeros(len(KEEP[name])) for name in KERNELS}
    for step in range(20):
        for name in KERNELS:
            if step % 3 == 0:
                found = np.linalg.norm(loop.w[name], axis=0)
                more = share(found) if share else ~KEEP[name]
                strengths[name] = np.minimum(strengths[name] + 0.2 * more, 0.9)
        loop.step(step, {name: strengths[name] * loop.w[name] for name in KERNELS})
    tx = growing_decay(graph, growth, delta=0.2, period=3, ceiling=0.9)
    got, state, traces = trained(optax.chain(tx, loop.optimizer()), variables["params"])
    close(got, loop.w)
    assert traces == 1
    for name in KERNELS:
        np.testing.assert_allclose(state[0].strengths[name], strengths[name], rtol=1e-4, atol=1e-6)
    assert max(s.max() for s in strengths.values()) == 0.9


def test_twenty_steps_of_the_weights_of_depgraph() -> None:
    """Channels own the filters that make them and the weights that read them."""
    graph, variables = chain(4, 6)
    loop = Momentum(variables["params"], 0.05, 0.9, 0.0)
    first, second, third = (f"layer_{i}/kernel" for i in range(3))
    for step in range(20):
        added = {name: np.zeros_like(loop.w[name]) for name in (first, second, third)}
        for made, read in ((first, second), (second, third)):
            squares = (loop.w[made] ** 2).sum(0) + (loop.w[read] ** 2).sum(1)
            gamma = 0.3 * 16 ** weaker(np.sqrt(squares))
            added[made] += gamma * loop.w[made]
            added[read] += gamma[:, None] * loop.w[read]
        loop.step(step, added)
    tx = optax.chain(structured(graph, weighted_decay(), strength=0.3), loop.optimizer())
    got, _, traces = trained(tx, variables["params"])
    close(got, loop.w)
    assert traces == 1


def test_complex_weights_decay() -> None:
    """As `jax.grad` of half their squared modulus has it, which is their conjugate."""
    v = {"a": jnp.array([[3.0 + 1.0j, 1.0 - 2.0j]]), "b": jnp.ones((2, 1), jnp.complex64)}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((1, 1), jnp.complex64))
    wanted = jax.grad(lambda w: (jnp.abs(w) ** 2).sum() / 2)(v["a"])
    tx = growing_decay(graph, everywhere, delta=1.0, period=1, ceiling=1.0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, v), tx.init(v), v)
    np.testing.assert_allclose(updates["a"], wanted, rtol=1e-6)


def test_equal_norms_do_not_grow() -> None:
    found = weak_first({"a": jnp.full((2, 3), 2.0).at[1, 0].set(1.0)})["a"]
    assert found.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_errors() -> None:
    graph, variables = chain(4, 6)
    make: Any = growing_decay
    numbers = {"delta": 0.1, "period": 1, "ceiling": 1.0}
    with pytest.raises(JaxpruneError, match=r"growth gives \{'x': None\} for norms of"):
        make(graph, lambda n: {"x": n}, **numbers).init(variables)
    with pytest.raises(JaxpruneError, match=r"delta must be finite and at least 0.*\nFix: "):
        make(graph, everywhere, **numbers | {"delta": lambda _: 0.1})
    with pytest.raises(TreeError, match=r"growing_decay: .*[\s\S]*no such leaf"):
        make(graph, everywhere, **numbers).init({"layer_0": variables["params"]["layer_0"]})
