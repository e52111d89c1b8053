"""ISTA: scales at zero by what their channels cost, rescaling, and dead channels absorbed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.arguments import paths
from jaxprune.errors import GateError, JaxpruneError, PatternError, TreeError
from jaxprune.sparsify import ista, rescale_scales
from sparse_training import Block, Momentum, X, block, close, run, trained

STREAM, INNER = "down/kernel", "depthwise/kernel"
SCALES = {"stem_norm/scale": STREAM, "down_norm/scale": STREAM, "up_norm/scale": INNER}
COSTS = {STREAM: 9.0, INNER: 1.0}
MEAN = (8 * 9.0 + 6 * 1.0) / 14


def test_twenty_steps_against_the_equation_of_the_paper() -> None:
    """Scales by soft thresholding without momentum, all else by SGD with it and with decay."""
    graph, variables = block()
    params = variables["params"]
    rate = optax.piecewise_constant_schedule(0.1, {10: 0.5})
    loop = Momentum(params, 0.05, 0.9, 0.1)
    scales = {path: loop.w.pop(path) for path in SCALES}
    for number in range(20):
        slopes = loop.slopes(number)
        loop.step(number)
        eta = 0.1 if number < 10 else 0.05
        for path, group in SCALES.items():
            z = scales[path] - eta * slopes[path]
            limit = eta * 0.8 * COSTS[group] / MEAN
            scales[path] = np.sign(z) * np.maximum(np.abs(z) - limit, 0)
    masks = jp.scale_mask(variables, graph)
    others = jax.tree.map(lambda scale: not scale, masks)
    tx = optax.chain(
        optax.masked(loop.optimizer(), others), ista(graph, COSTS, 0.8, learning_rate=rate)
    )
    got, _, traces = trained(tx, params)
    close(got, loop.w | scales)
    assert traces == 1
    assert any((scales[path] == 0).sum() > 0 for path in SCALES)


def test_dead_channels_are_absorbed_and_the_cut_changes_nothing() -> None:
    graph, variables = block()
    sizes = np.array([2.0, -1.5, 0.2, 1.0], np.float32)
    scales = {
        name: variables["params"][name] | {"scale": sizes} for name in ("stem_norm", "down_norm")
    }
    params = variables["params"] | scales
    tx = ista(graph, {STREAM: 1.0, INNER: 0.0}, 0.1, learning_rate=1.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(2):
        updates, state = update(zeros, state, params)
        params = optax.apply_updates(params, updates)
    ended = variables | {"params": params}
    keep = jp.select.threshold(graph, jp.scores.bn_scale(graph, ended), threshold=0)
    assert keep[STREAM].tolist() == [True, True, False, True]
    assert keep[INNER].all()
    absorbed = jp.recover.absorb_constants(graph, ended, keep)
    assert all(outcome.exact for outcome in absorbed.outcomes)
    got = jp.narrow(Block().apply, graph, keep)(jp.slice(graph, absorbed.variables, keep), X)
    expected = run(ended, X)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    plain = jp.narrow(Block().apply, graph, keep)(jp.slice(graph, ended, keep), X)
    assert np.abs(plain - expected).max() > 1e-2


def test_the_rescaled_network_is_the_same_with_smaller_scales() -> None:
    graph, variables = block()
    after = rescale_scales(graph, variables, 0.125, X)
    np.testing.assert_allclose(run(after, X), run(variables, X), rtol=1e-4)
    before, small = (paths.flatten(tree["params"])[0] for tree in (variables, after))
    for path in (*SCALES, *(path.replace("scale", "bias") for path in SCALES)):
        np.testing.assert_allclose(small[path], 0.125 * before[path], rtol=1e-6)
    for path in ("up/kernel", "down/kernel", "head/kernel"):
        np.testing.assert_allclose(small[path], 8 * before[path], rtol=1e-6)
    for path in ("stem/kernel", "depthwise/kernel", "up/bias", "head/bias"):
        np.testing.assert_array_equal(small[path], before[path])


def test_what_is_not_homogeneous_is_refused() -> None:
    v = {name: np.ones((2, 2), np.float32) for name in "abc"}
    v |= {f"{kind}{i}": np.ones(2, np.float32) for kind in ("scale", "mean", "var") for i in (0, 1)}

    def norm(v: Any, i: int, x: Any) -> Any:
        x = (x - v[f"mean{i}"][None]) * jax.lax.rsqrt(v[f"var{i}"] + 1e-5)[None]
        return x * v[f"scale{i}"][None]

    def apply(v: Any, x: Any) -> Any:
        x = jax.nn.relu(norm(v, 0, x @ v["a"]))
        return jnp.tanh(norm(v, 1, x @ v["b"])) @ v["c"]

    x = np.array([[2.0, 1.0]], np.float32)
    graph = jp.trace(apply, v, x)
    with pytest.raises(GateError, match=r"the outputs change by b: .*\nFix: protect=\['b'\]"):
        rescale_scales(graph, v, 0.5, x)
    after = rescale_scales(graph, v, 0.5, x, protect=["b"])
    np.testing.assert_allclose(apply(after, x), apply(v, x), rtol=1e-5)
    assert [float(after[f"scale{i}"][0]) for i in (0, 1)] == [0.5, 1.0]


def test_a_small_change_beside_large_outputs_is_seen() -> None:
    """What the channels add is a thousandth of the outputs, and it is their change that counts."""
    v = {"a": (3, 2), "scale": 2, "mean": 2, "var": 2, "b": (2, 1), "skip": (3, 1)}
    v = {name: np.ones(shape, np.float32) for name, shape in v.items()}
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)

    def network(activation: Any) -> Any:
        def apply(v: Any, x: Any) -> Any:
            z = (x @ v["a"] - v["mean"][None]) * jax.lax.rsqrt(v["var"] + 1e-5)[None]
            return activation(z * v["scale"][None]) @ v["b"] * 1e-3 + x @ v["skip"]

        return jp.trace(apply, v, x)

    with pytest.raises(GateError, match="the outputs change by a: not all"):
        rescale_scales(network(jax.nn.gelu), v, 0.1, x)
    assert rescale_scales(network(jax.nn.relu), v, 0.1, x)["scale"][0] == np.float32(0.1)


def test_errors() -> None:
    graph, variables = block()
    with pytest.raises(JaxpruneError, match=r"at least 0: 'down/kernel' has 'none'.\nFix: costs="):
        ista(graph, {INNER: 1.0}, 0.1, learning_rate=0.1)
    with pytest.raises(JaxpruneError, match="all costs are 0"):
        ista(graph, dict.fromkeys(COSTS, 0), 0.1, learning_rate=0.1)
    with pytest.raises(TreeError, match=r"(?s)ista: .*up_norm/scale.*no such leaf"):
        ista(graph, COSTS, 0.1, learning_rate=0.1).init({"up": variables["params"]["up"]})
    plain = jp.trace(
        lambda v, x: x @ v["a"] @ v["b"],
        {"a": np.ones((1, 2)), "b": np.ones((2, 1))},
        np.ones((1, 1)),
    )
    with pytest.raises(PatternError, match="ista: no group has a BatchNorm scale"):
        ista(plain, {"a": 1.0}, 0.1, learning_rate=0.1)
    with pytest.raises(PatternError, match="rescale_scales: no group has a BatchNorm scale"):
        rescale_scales(plain, {"a": np.ones((1, 2)), "b": np.ones((2, 1))}, 0.5, np.ones((1, 1)))
