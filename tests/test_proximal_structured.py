"""The proximal step of a penalty on norms of channels: by hand, by loops, in layers and halves."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.arguments import paths
from jaxprune.errors import JaxpruneError, PatternError, TreeError
from jaxprune.sparsify import growl_prox, growl_weights, proximal_structured
from modules import ScanBlock
from networks import FIXED, Network, images, weights


def lasso(n: Any, t: Any) -> Any:
    return jnp.maximum(n - t, 0)


def growl(n: Any, t: Any) -> Any:
    return growl_prox(n, t * growl_weights(n.size, base=1.0, step=0.2))


def stepped(tx: Any, params: Any, updates: Any = None) -> Any:
    """The parameters after one step from these updates, zero by default."""
    updates = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
    found, _ = jax.jit(tx.update)(updates, tx.init(params), params)
    return optax.apply_updates(params, found)


def close(got: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def two() -> tuple[jp.ChannelGraph, Any]:
    """The filters of the first kernel have the norms 5 and 0.5, those of the second 2 and 10."""
    params = {
        "a": jnp.array([[3.0, 0.3], [4.0, 0.4]]),
        "b": jnp.array([[2.0, 6.0], [0.0, 8.0]]),
        "c": jnp.ones((2, 1)),
    }
    return jp.trace(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, np.ones((1, 2))), params


def test_the_group_lasso_by_hand() -> None:
    graph, params = two()
    tx = proximal_structured(graph, lasso, learning_rate=0.5, strength=2.0)
    expected = {"a": [[2.4, 0], [3.2, 0]], "b": [[1.0, 5.4], [0, 7.2]], "c": np.ones((2, 1))}
    got = stepped(tx, params)
    close(got, {name: np.asarray(kernel) for name, kernel in expected.items()})
    assert not np.any(got["a"][:, 1]), "to the bit"
    updates = jax.tree.map(lambda leaf: leaf * 0.5, params)  # it sees what the step has made
    close(stepped(tx, params, updates)["a"], np.array([[3.9, 0], [5.2, 0]]))
    readers = proximal_structured(graph, lasso, learning_rate=1.0, roles=("in",), only=("b",))
    close(stepped(readers, params), params | {"c": np.zeros((2, 1))})


def test_growl_by_hand() -> None:
    """Weights 1.2 and 1: 5 and 0.5 become 3.8 and 0, 2 and 10 become 1 and 8.8."""
    graph, params = two()
    got = stepped(proximal_structured(graph, growl, learning_rate=1.0), params)
    close(got["a"], params["a"] * np.array([[3.8 / 5, 0]]))
    close(got["b"], params["b"] * np.array([[1 / 2, 8.8 / 10]]))


def loops(graph: jp.ChannelGraph, params: Any, roles: Collection[str]) -> dict[str, np.ndarray]:
    """One channel and one slot at a time."""
    before = {path: np.asarray(leaf) for path, leaf in paths.flatten(params)[0].items()}
    after = {path: leaf.copy() for path, leaf in before.items()}
    for group in graph.groups.values():
        places = []
        for channel in range(group.size):
            own: list[Any] = []
            for slot in group.slots:
                if slot.role in roles:
                    where: list[Any] = [np.s_[:]] * before[slot.path].ndim
                    where[slot.axis] = slot.positions[channel]
                    own.append((slot.path, tuple(where)))
            places.append(own)
        vectors = [np.concatenate([before[p][w].ravel() for p, w in own]) for own in places]
        norms = np.array([np.linalg.norm(v) for v in vectors], np.float32)
        for own, norm, less in zip(places, norms, np.asarray(growl(norms, 0.3)), strict=True):
            for path, where in own:
                after[path][where] *= less / norm
    return after


@pytest.mark.parametrize(
    ("name", "roles"),
    [("grouped", ("out",)), ("attention", ("out",)), ("identity-residual", ("out", "in"))],
)
def test_every_layout_against_loops_over_channels(name: str, roles: Any) -> None:
    module = Network(FIXED[name])
    variables = weights(module, 0)
    graph = jp.trace(module.apply, variables, images(0))
    tx = proximal_structured(graph, growl, learning_rate=0.1, strength=3.0, roles=roles)
    params = {"params": variables["params"]}
    close(paths.flatten(stepped(tx, params))[0], loops(graph, params, roles))


def test_every_layer_of_a_stack_by_itself() -> None:
    module, x = ScanBlock(), np.ones((1, 6), np.float32)
    variables = weights(module, 0, x)
    graph = jp.trace(module.apply, variables, x)
    (name,) = (name for name, group in graph.groups.items() if group.layers)
    tx = proximal_structured(graph, growl, learning_rate=0.5, only=(name,))
    before, after = (jp.scores.l2(graph, v)[name] for v in (variables, stepped(tx, variables)))
    close(after, np.stack([growl(norms, 0.5) for norms in before]))


def test_schedules_momentum_and_halves() -> None:
    graph, variables = chain(4, 5)
    rate = optax.piecewise_constant_schedule(0.5, {1: 0.0})
    tx = proximal_structured(graph, lasso, learning_rate=rate, strength=lambda _: 0.2)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables)
    trail, state = [params], tx.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, state = tx.update(zeros, state, trail[-1])
        trail.append(optax.apply_updates(trail[-1], updates))
    assert {leaf.dtype for leaf in jax.tree.leaves(trail)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(np.testing.assert_array_equal, trail[1], trail[2])
    first, second = (jp.scores.l2(graph, params) for params in trail[:2])
    for name, norms in first.items():
        np.testing.assert_allclose(second[name], lasso(norms, 0.1), rtol=2**-6)
    after = optax.chain(optax.sgd(0.1, momentum=0.9), tx)
    buffer = jax.tree.leaves(after.update(zeros, after.init(params), params)[1])
    assert not any(np.any(leaf) for leaf in buffer[:-1]), "the penalty is in no momentum"


def test_errors() -> None:
    graph, params = two()
    bad: Any
    for bad in ({"strength": -1.0}, {"learning_rate": float("nan")}):
        (name,) = bad
        with pytest.raises(JaxpruneError, match=rf"proximal_structured: {name} must be .*\nFix: "):
            proximal_structured(graph, lasso, **({"learning_rate": 0.1} | bad))
    with pytest.raises(JaxpruneError, match=r"roles must be a collection .*\nFix: roles="):
        proximal_structured(graph, lasso, learning_rate=0.1, roles=("vector",))
    with pytest.raises(PatternError, match=r"only pattern 'conv\*' matches none of 2 .*\nFix: "):
        proximal_structured(graph, lasso, learning_rate=0.1, only=("conv*",))
    tx = proximal_structured(graph, lasso, learning_rate=0.1)
    with pytest.raises(TreeError, match=r"(?s)proximal_structured: .*b: .* no such leaf.*\nFix: "):
        tx.init({"a": params["a"]})
    with pytest.raises(JaxpruneError, match=r"update needs the parameters.*\nFix: tx.update\("):
        tx.update(params, tx.init(params))
