"""Penalties on positions of a window and on whole branches: loops in NumPy, zeros, and cuts."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.arguments import paths
from jaxprune.errors import JaxpruneError, PatternError, TreeError
from jaxprune.sparsify import depth, group_lasso, proximal_structured, shapes, structured
from networks import FIXED, Network, images, weights
from sparse_training import Block, Momentum, X, block, close, run, trained

INSIDE = ("depthwise", "down", "down_norm", "up", "up_norm")


def of_shapes(w: dict[str, np.ndarray], groups: dict[str, int]) -> dict[str, np.ndarray]:
    """w / |its set| of every kernel, one position, input channel and group at a time."""
    found = {}
    for path, kernel in w.items():
        if not path.endswith("kernel"):
            continue
        found[path] = np.zeros_like(kernel)
        parts = groups.get(path, 1)
        each = kernel.shape[-1] // parts
        for place in itertools.product(*map(range, kernel.shape[:-1])):
            for part in range(parts):
                where = (*place, slice(part * each, (part + 1) * each))
                found[path][where] = kernel[where] / np.linalg.norm(kernel[where])
    return found


def of_branch(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inside = {path: leaf for path, leaf in w.items() if path.split("/")[0] in INSIDE}
    norm = np.sqrt(sum((leaf**2).sum() for leaf in inside.values()))
    return {path: leaf / norm for path, leaf in inside.items()}


@pytest.mark.parametrize("name", ["shapes", "depth"])
def test_twenty_steps_against_a_loop(name: str) -> None:
    """The subgradient of SSL comes before decay and momentum."""
    graph, variables = block()
    params = variables["params"]
    loop = Momentum(params, 0.02, 0.9, 0.1)
    for number in range(20):
        slopes = (
            of_branch(loop.w) if name == "depth" else of_shapes(loop.w, {"depthwise/kernel": 6})
        )
        loop.step(number, {path: 0.3 * slope for path, slope in slopes.items()})
    over = {"shapes": shapes, "depth": depth}[name](graph)
    tx = optax.chain(group_lasso(graph, 0.3, over=over), loop.optimizer())
    got, _, traces = trained(tx, params)
    close(got, loop.w)
    assert traces == 1


def test_the_groups_of_a_convolution_have_their_own_positions() -> None:
    module = Network(FIXED["grouped"])
    variables = weights(module, 0)
    graph = jp.trace(module.apply, variables, images(0))
    params = {"params": variables["params"]}
    tx = structured(graph, jnp.sum, over=shapes(graph), size_norm=True)
    zeros = jax.tree.map(jnp.zeros_like, params)
    found = paths.flatten(tx.update(zeros, tx.init(params), params)[0])[0]
    kernels = paths.flatten(params)[0]
    groups = {"params/Conv_1/kernel": 2}
    expected = of_shapes(kernels, groups)
    for path, slope in expected.items():
        size = kernels[path].shape[-1] // groups.get(path, 1)
        np.testing.assert_allclose(found[path], size**0.5 * slope, rtol=1e-4, err_msg=path)


def lasso(n: Any, t: Any) -> Any:
    return jnp.maximum(n - t, 0)


def test_a_branch_at_zero_is_taken_out_and_nothing_changes() -> None:
    graph, variables = block()
    size = jnp.sqrt(sum((w**2).sum() for k in INSIDE for w in variables["params"][k].values()))
    tx = proximal_structured(graph, lasso, learning_rate=0.5, strength=1.0, over=depth(graph))
    params, state = variables["params"], tx.init(variables["params"])
    update = jax.jit(tx.update)
    norms = []
    for _ in range(40):
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, state = update(zeros, state, params)
        params = optax.apply_updates(params, updates)
        norms.append(float(optax.tree.norm({name: params[name] for name in INSIDE})))
        if norms[-1] == 0:
            break
    np.testing.assert_allclose(
        norms, np.maximum(size - 0.5 * np.arange(1, len(norms) + 1), 0), rtol=1e-3, atol=1e-4
    )
    for name in ("stem", "head"):
        jax.tree.map(np.testing.assert_array_equal, params[name], variables["params"][name])
    ended = variables | {"params": params}
    keep = {"+down/kernel": False}
    got = jp.narrow(Block().apply, graph, keep)(jp.slice(graph, ended, keep), X)
    np.testing.assert_allclose(got, run(ended, X), rtol=1e-5, atol=1e-6)


def test_positions_become_zero_by_their_own_norms() -> None:
    graph, variables = block()
    params = variables["params"]
    over = shapes(graph, only=("up/kernel",))
    tx = proximal_structured(graph, lasso, learning_rate=1.0, strength=1.2, over=over)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    got = optax.apply_updates(params, updates)
    rows = np.linalg.norm(params["up"]["kernel"][0, 0], axis=1)
    found = np.linalg.norm(got["up"]["kernel"][0, 0], axis=1)
    np.testing.assert_allclose(found, np.maximum(rows - 1.2, 0), rtol=1e-5, atol=1e-6)
    assert 0 < (found == 0).sum() < 4
    jax.tree.map(np.testing.assert_array_equal, got | {"up": 0}, params | {"up": 0})


def test_every_step_of_a_scan_is_a_branch() -> None:
    v = {"up": np.ones((3, 4, 8)), "down": np.ones((3, 8, 4)), "head": np.ones((4, 2))}
    factors = {"up": [1, 2, 3], "down": [1, 2, 3], "head": [1] * 4}
    v = {
        name: np.einsum("l...,l->l...", w, factors[name]).astype(np.float32)
        for name, w in v.items()
    }

    def apply(v: Any, x: Any) -> Any:
        def step(x: Any, w: Any) -> Any:
            return x + jax.nn.relu(x @ w[0]) @ w[1], None

        return jax.lax.scan(step, x, (v["up"], v["down"]))[0] @ v["head"]

    graph = jp.trace(apply, v, np.ones((1, 4), np.float32))
    tx = structured(graph, jnp.sum, over=depth(graph))
    got, _ = tx.update(jax.tree.map(jnp.zeros_like, v), tx.init(v), v)
    np.testing.assert_allclose(got["up"], np.full((3, 4, 8), 1 / 8), rtol=1e-6)
    np.testing.assert_allclose(got["down"], np.full((3, 8, 4), 1 / 8), rtol=1e-6)


def test_errors() -> None:
    graph, variables = block()
    with pytest.raises(PatternError, match="only pattern 'nope' matches none of 5 names"):
        shapes(graph, only=["nope"])
    with pytest.raises(PatternError, match="leave no branch"):
        depth(graph, protect="*")
    plain = jp.trace(lambda v, x: x @ v["a"], {"a": np.ones((2, 3))}, np.ones((1, 2)))
    with pytest.raises(PatternError, match="the graph has no branch"):
        depth(plain)
    bad: Any
    for bad in ({"roles": ("out",)}, {"only": ["*"]}, {"protect": ["*"]}):
        with pytest.raises(JaxpruneError, match=r"have no effect beside over.\nFix: "):
            structured(graph, jnp.sum, over=depth(graph), **bad)
    with pytest.raises(TreeError, match="over is of another graph, with params/"):
        structured(plain, jnp.sum, over=depth(graph))
    turned = jp.trace(lambda v, x: x @ v["a"].T, {"a": np.ones((3, 2))}, np.ones((1, 2)))
    with pytest.raises(TreeError, match=r"over is of another graph, with .*a \[3, 2\]"):
        structured(plain, jnp.sum, over=shapes(turned))
    with pytest.raises(JaxpruneError, match=r"holds a Section, no list of sets.\nFix: over="):
        structured(plain, jnp.sum, over={"a": shapes(plain)["a"][0]})
    with pytest.raises(TreeError, match=r"(?s)proximal_structured: .*params/up/kernel.*Fix: "):
        proximal_structured(graph, lasso, learning_rate=0.1, over=depth(graph)).init(
            {"up": variables["params"]["up"] | {"kernel": np.ones(3)}}
        )


@pytest.mark.parametrize("layers", [(), (2,)])
def test_functions_of_norms_keep_their_shapes(layers: Any) -> None:
    """Of stacked layers what a penalty gives would be summed, and a lone norm would spread."""
    v = {"a": np.ones((*layers, 3, 4), np.float32), "b": np.ones((*layers, 4, 3), np.float32)}

    def apply(v: Any, x: Any) -> Any:
        def step(x: Any, w: Any) -> Any:
            return jnp.tanh(x @ w["a"]) @ w["b"], None

        return jax.lax.scan(step, x, v)[0] if layers else step(x, v)[0]

    graph = jp.trace(apply, v, np.ones((1, 3), np.float32))
    (name,) = (name for name, group in graph.groups.items() if group.size == 4)
    tx = structured(graph, lambda norms: norms, only=[name])
    with pytest.raises(JaxpruneError, match=r"penalty gives f\[4\] for norms f\[4\], not a number"):
        tx.update(v, tx.init(v), v)
    tx = proximal_structured(graph, lambda n, t: n.max() - t, learning_rate=1.0, only=[name])
    with pytest.raises(JaxpruneError, match=r"prox gives norms of shape .*4\].\nFix: lambda"):
        tx.update(v, tx.init(v), v)
