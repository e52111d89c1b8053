"""MorphNet: the penalty against NumPy, and the widening to a budget."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
SHAPES = {"w1": (5, 8), "w2": (8, 6), "w3": (6, 7), "w4": (7, 6), "head": (6, 3)}
X = RANDOM.normal(size=(1, 5)).astype(np.float32)


def network(v: Any, x: Any) -> Any:
    """A BatchNorm, and a residual stream that two layers write."""
    p, norm = v["params"], {**v["params"]["norm"], **v["batch_stats"]["norm"]}
    norm = {name: leaf[None] for name, leaf in norm.items()}
    h = (x @ p["w1"] - norm["mean"]) * jax.lax.rsqrt(norm["var"] + 1e-5)
    h = jax.nn.relu(h * norm["scale"] + norm["bias"]) @ p["w2"]
    return (h + jnp.tanh(h @ p["w3"]) @ p["w4"]) @ p["head"]


def variables() -> Any:
    params: Any = {n: RANDOM.normal(size=s).astype(np.float32) / 4 for n, s in SHAPES.items()}
    params["norm"] = {
        "scale": np.linspace(-0.3, 0.5, 8, dtype=np.float32),
        "bias": np.zeros(8, np.float32),
    }
    stats = {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}
    return {"params": params, "batch_stats": {"norm": stats}}


V = variables()
GRAPH = jp.trace(network, V, X)
A, B, C = ("w1", "w2", "w3")  # 8 channels with a BatchNorm, the stream of 6, 7 hidden ones


def rms(w: Any, axis: int) -> Any:
    return np.sqrt(np.mean(np.square(w), axis=axis))


def penalized(p: Any, threshold: float) -> tuple[dict[str, Any], list[int]]:
    """The subgradient of the paper's regularizer for MACs, by hand, and who is alive."""
    sizes = np.abs(p["scale"]), np.maximum(rms(p["w2"], 0), rms(p["w4"], 0)), rms(p["w3"], 0)
    a, b, c = (int((size > threshold).sum()) for size in sizes)
    by_a, by_b, by_c = 5 + b, a + 2 * c + 3, 2 * b  # 5 a + a b + b c + c b + 3 b
    second = rms(p["w2"], 0) >= rms(p["w4"], 0)
    found = {
        "scale": by_a * np.sign(p["scale"]),
        "w2": by_b * second * p["w2"] / (8 * rms(p["w2"], 0)),
        "w4": by_b * ~second * p["w4"] / (7 * rms(p["w4"], 0)),
        "w3": by_c * p["w3"] / (6 * rms(p["w3"], 0)),
    }
    return found, [a, b, c]


def test_twenty_steps_are_those_of_the_paper() -> None:
    """With weight decay, momentum and a schedule, jitted, against a loop in NumPy."""
    strength = optax.linear_schedule(1e-3, 3e-3, 20)
    tx = optax.chain(
        jp.sparsify.morphnet(GRAPH, strength, threshold=0.15),
        optax.add_decayed_weights(1e-2),
        optax.sgd(0.1, momentum=0.9),
    )
    params = jax.device_put(V["params"])
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        gradients = jax.tree.map(lambda w, start: 0.2 * (w - start), params, V["params"])
        moves, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, moves), state

    p = {n: np.float64(V["params"][n]) for n in SHAPES}
    p["scale"] = np.float64(V["params"]["norm"]["scale"])
    start, speed = p, dict.fromkeys(p, 0.0)
    counts = []
    for i in range(20):
        params, state = step(params, state)
        extra, alive = penalized(p, 0.15)
        counts.append(tuple(alive))
        weight = 1e-3 + 2e-3 * i / 20
        for name, w in p.items():
            slope = 0.2 * (w - start[name]) + weight * extra.get(name, 0.0) + 1e-2 * w
            speed[name] = 0.9 * speed[name] + slope
        p = {name: w - 0.1 * speed[name] for name, w in p.items()}
    assert step._cache_size() == 1
    assert len(set(counts)) > 3  # channels die on the way, and prices follow
    for name in SHAPES:
        np.testing.assert_allclose(params[name], p[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["norm"]["scale"], p["scale"], rtol=1e-4, atol=1e-6)
    sizes = jp.sparsify.channel_sizes(GRAPH, {"params": params, "batch_stats": V["batch_stats"]})
    keep = jp.select.threshold(GRAPH, sizes, threshold=0.15)
    left = [int(keep[name].sum()) for name in (A, B, C)]
    assert left == penalized(p, 0.15)[1]
    assert 0 < sum(left) < 21


def test_groups_that_are_not_penalized_count_as_whole() -> None:
    tx = jp.sparsify.morphnet(GRAPH, 1.0, threshold=0.2, only=C, price=jp.cost.params)
    zero = jax.tree.map(np.zeros_like, V["params"])
    found, _ = jax.jit(tx.update)(zero, tx.init(V["params"]), V["params"])
    w = V["params"]["w3"]
    np.testing.assert_allclose(found["w3"], 2 * 6 * w / (6 * rms(w, 0)), rtol=1e-5)
    assert not any(np.any(leaf) for n, leaf in found.items() if n not in ("w3", "norm"))


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("bound", [jp.Share(1.0), 0.6, jp.Absolute(1000)])
def test_the_largest_factor_is_found(bound: Any, multiple: int) -> None:
    """The next factor at which a width changes is too dear; widths beyond the traced ones too."""
    base, dense = {A: 3, B: 4, C: 2}, jp.cost.macs(GRAPH)
    bounds = {jp.cost.macs: bound, jp.cost.params: jp.Absolute(900)}
    found = jp.plan.expand(GRAPH, base, bounds=bounds, multiple_of=multiple)
    most = {jp.Share(1.0): dense, 0.6: 0.6 * dense, jp.Absolute(1000): 1000}[bound]

    def at(factor: float) -> list[int]:
        return [multiple * max(1, int(factor * w / multiple + 0.5)) for w in base.values()]

    def costs(a: int, b: int, c: int) -> dict[str, int]:
        macs = 5 * a + a * b + 2 * b * c + 3 * b
        return {"macs": macs, "params": macs + 2 * a}  # scale and bias

    def fits(factor: float) -> bool:
        spent = costs(*at(factor))
        return spent["macs"] <= most and spent["params"] <= 900

    changes = sorted({(k + 0.5) * multiple / w for w in base.values() for k in range(1, 60)})
    best = max(factor for factor in [0.0, *changes] if fits(factor + 1e-9))
    assert list(found.widths.values()) == at(best + 1e-9)
    assert found.costs == costs(*found.widths.values())
    assert not fits(min(factor for factor in changes if factor > found.factor + 1e-9) + 1e-9)


def test_a_branch_that_is_gone_leaves_room() -> None:
    bounds = {jp.cost.macs: jp.Share(1.0)}
    found = jp.plan.expand(GRAPH, {A: 4, "+w4": False}, bounds=bounds)
    assert found.widths == {A: (jp.cost.macs(GRAPH) - 3 * 6) // (5 + 6)}
