"""GDP: gates by one global order of saliency, whose channels may come back, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from sparse_training import block, loss

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(16, 5)).astype(np.float32)
T = RANDOM.normal(size=(16, 2)).astype(np.float32)
V = {
    name: RANDOM.normal(size=shape).astype(np.float32) / 2
    for name, shape in {"a": (5, 8), "b": (8, 6), "c": (6, 2)}.items()
}


def network(v: Any, x: Any) -> Any:
    return jnp.tanh(jnp.tanh(x @ v["a"]) @ v["b"]) @ v["c"]


GRAPH = jp.trace(network, V, X)


def slopes(v: Any) -> dict[str, Any]:
    """The gradients of half the mean square, by hand."""
    h = np.tanh(X @ v["a"])
    g = np.tanh(h @ v["b"])
    out = (g @ v["c"] - T) / T.size
    at_g = out @ v["c"].T * (1 - g**2)
    at_h = at_g @ v["b"].T * (1 - h**2)
    return {"a": X.T @ at_h, "b": h.T @ at_g, "c": g.T @ out}


def test_twenty_steps_are_those_of_the_paper() -> None:
    """With momentum and decay: what is closed goes on to train, and some of it opens again."""
    ratio = optax.linear_schedule(0.0, 0.5, 10)
    tx = optax.chain(
        jp.sparsify.gdp(GRAPH, prune_ratio=ratio, period=2),
        optax.add_decayed_weights(1e-3),
        optax.sgd(0.3, momentum=0.9),
    )

    def loss(v: Any, keep: Any) -> Any:
        return jnp.square(network(jp.sparsify.soft_mask(GRAPH, v, keep), X) - T).mean() / 2

    @jax.jit
    def step(v: Any, state: Any) -> Any:
        gradients = jax.grad(loss)(v, optax.tree.get(state, "keep"))
        moves, state = tx.update(gradients, state, v)
        return optax.apply_updates(v, moves), state

    v = jax.device_put(V)
    state = tx.init(v)
    w = {name: np.float64(value) for name, value in V.items()}
    speed: dict[str, Any] = dict.fromkeys(w, 0.0)
    masks, history = {"a": np.ones(8, bool), "b": np.ones(6, bool)}, []
    for i in range(20):
        v, state = step(v, state)
        closed = w | {name: w[name] * mask for name, mask in masks.items()}
        found = slopes(closed)
        if i % 2 == 0:
            size = np.abs(np.concatenate([(w[n] * found[n]).sum(0) for n in masks]))
            count = int(np.round((1 - min(i, 10) / 20) * 14))
            chosen = np.isin(np.arange(14), np.argsort(-size, kind="stable")[:count])
            masks = {"a": chosen[:8], "b": chosen[8:]}
            for name, own in (("a", size[:8]), ("b", size[8:])):
                masks[name] = masks[name] | (np.arange(len(own)) == own.argmax())
            history.append(chosen)
        speed = {n: 0.9 * speed[n] + found[n] + 1e-3 * w[n] for n in w}
        w = {n: w[n] - 0.3 * speed[n] for n in w}
        for name, mask in optax.tree.get(state, "keep").items():
            np.testing.assert_array_equal(mask, masks[name])
    assert step._cache_size() == 1
    for name in w:
        np.testing.assert_allclose(v[name], w[name], rtol=1e-3, atol=1e-5)
    seen = np.stack(history)
    assert (~seen[:-1] & seen[1:]).any()  # a channel came back
    keep = jp.gates.kept(GRAPH, optax.tree.get(state, "keep"))
    assert sum(mask.sum() for mask in keep.values()) in (7, 8)
    gated = jp.sparsify.soft_mask(GRAPH, v, keep)
    small = jp.slice(GRAPH, gated, keep)
    np.testing.assert_allclose(network(small, X), network(gated, X), rtol=1e-5, atol=1e-6)


def test_every_group_keeps_its_best_channel() -> None:
    tx = jp.sparsify.gdp(GRAPH, prune_ratio=1.0)
    _, state = tx.update(V, tx.init(V), V)
    assert [int(mask.sum()) for mask in state.keep.values()] == [1, 1]
    best = [np.square(V[name]).sum(0).argmax() for name in "ab"]
    assert [int(np.argmax(mask)) for mask in state.keep.values()] == best


def test_a_ratio_may_be_injected() -> None:
    make = optax.inject_hyperparams(lambda ratio: jp.sparsify.gdp(GRAPH, prune_ratio=ratio))
    tx = make(ratio=0.5)
    _, state = jax.jit(tx.update)(V, tx.init(V), V)
    assert sum(int(mask.sum()) for mask in optax.tree.get(state, "keep").values()) == 7


def test_only_what_makes_channels_closes_and_counts() -> None:
    """A depthwise kernel behind a filter of zeros would leave neither a gradient."""
    graph, variables = block()
    params = variables["params"]
    norms = {n: params[n] | {"bias": np.ones_like(params[n]["bias"])} for n in ("up_norm",)}
    params = params | norms
    variables = variables | {"params": params}
    tx = jp.sparsify.gdp(graph, prune_ratio=0.5)
    _, state = tx.update(params, tx.init(params), params)
    size = np.square(params["up"]["kernel"]).sum((0, 1, 2))
    closed = ~np.asarray(state.keep["depthwise/kernel"])
    assert closed.any()
    assert size[closed].max() < size[~closed].min()
    gates = state.keep

    def masked(v: Any) -> Any:
        return loss(jp.sparsify.soft_mask(graph, v, gates))

    slopes = jax.grad(masked)(variables)["params"]["up"]["kernel"]
    assert np.all(np.any(slopes[..., closed], axis=(0, 1, 2)))


def test_a_cut_of_stacked_layers_fills_up_with_zeros() -> None:
    """Each layer has as many channels open as it likes; the cut is what was trained."""

    def stack(v: Any, x: Any) -> Any:
        def step(h: Any, w: Any) -> Any:
            return h + jnp.tanh(h @ w["up"]) @ w["down"], None

        return jax.lax.scan(step, x, v)[0]

    v = {
        name: RANDOM.normal(size=shape).astype(np.float32)
        for name, shape in {"up": (2, 5, 4), "down": (2, 4, 5)}.items()
    }
    graph = jp.trace(stack, v, X)
    (name,) = graph.groups
    gates = {name: np.array([[True, False, False, False], [True, False, True, True]])}
    masked = jp.sparsify.soft_mask(graph, v, gates)
    small = jp.slice(graph, masked, jp.gates.kept(graph, gates))
    assert small["up"].shape == (2, 5, 3)
    by_hand = v | {"up": v["up"] * gates[name][:, None]}
    np.testing.assert_allclose(stack(small, X), stack(by_hand, X), rtol=1e-5, atol=1e-6)
