"""Learned gates: their laws, what they are expected to cost, their multipliers, and the cut."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
SHAPES = {
    **{"embed": (4, 6), "q": (6, 3, 2), "k": (6, 3, 2), "v": (6, 3, 2), "o": (3, 2, 6)},
    **{"up": (6, 8), "mid": (8, 8), "back": (8, 8), "down": (8, 6), "head": (6, 3)},
}
V = {name: RANDOM.normal(size=s).astype(np.float32) / 2 for name, s in SHAPES.items()}
X = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)


def network(v: Any, x: Any) -> Any:
    """Attention, and a branch with a branch inside."""
    h = x @ v["embed"]
    q, k, value = (jnp.einsum("btd,dhe->bthe", h, v[name]) for name in "qkv")
    h = h + jnp.einsum("bthe,hed->btd", jax.nn.dot_product_attention(q, k, value), v["o"])
    inner = h @ v["up"]
    inner = inner + jnp.tanh(inner @ v["mid"]) @ v["back"]
    return (h + jnp.tanh(inner) @ v["down"]) @ v["head"]


GRAPH = jp.trace(network, V, X[:1])
GATED = jax.jit(jp.gated(network, GRAPH))
GATES = jp.gates.learned(GRAPH, jp.gates.hard_concrete(), branches="*")
BRANCHES = tuple(jp.branches(GRAPH))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_the_hard_concrete_law_is_that_of_the_paper() -> None:
    law, key = jp.gates.hard_concrete(temperature=0.5, low=-0.2, high=1.3), jax.random.key(1)
    log_alpha = np.linspace(-4, 4, 9, dtype=np.float32)
    noise = np.float64(jax.random.logistic(key, (9,)))  # log u - log(1 - u)
    s = sigmoid((noise + log_alpha) / 0.5) * 1.5 - 0.2
    np.testing.assert_allclose(law.sample(key, log_alpha), np.clip(s, 0, 1), rtol=1e-5, atol=1e-6)
    fixed = np.clip(sigmoid(log_alpha) * 1.5 - 0.2, 0, 1)
    np.testing.assert_allclose(law.fixed(log_alpha), fixed, rtol=1e-5, atol=1e-6)
    assert (np.asarray(law.fixed(log_alpha)) == fixed)[[0, 1, -1]].all()  # zeros and ones exactly
    drawn = law.sample(key, jnp.broadcast_to(log_alpha, (40_000, 9)))
    np.testing.assert_allclose(law.open(log_alpha), (drawn > 0).mean(0), atol=0.01)
    open_ = sigmoid(log_alpha - 0.5 * np.log(0.2 / 1.3))
    np.testing.assert_allclose(law.open(log_alpha), open_, rtol=1e-5)
    np.testing.assert_allclose(law.complexity(log_alpha), open_, rtol=1e-5)


def test_the_gaussian_law_is_that_of_the_paper() -> None:
    law, key = jp.gates.gaussian(threshold=1.0), jax.random.key(1)
    mean = np.array([1.0, 0.5, -0.5, 0.01, 0.0], np.float32)
    params = {"mean": mean, "log_variance": np.float32([-3, -1, -0.2, -2, -9])}
    variance = np.exp(np.float64(params["log_variance"]))
    noise = np.float64(jax.random.normal(key, (5,)))
    drawn = mean + np.sqrt(variance) * noise
    np.testing.assert_allclose(law.sample(key, params), drawn, rtol=1e-5, atol=1e-6)
    with np.errstate(divide="ignore"):
        log_alpha = np.log(variance / mean.astype(np.float64) ** 2)
    assert np.array_equal(law.fixed(params), np.where(log_alpha < 1, mean, 0))
    assert (log_alpha < 1).tolist() == [True, True, False, False, False]
    bits = np.log1p(mean.astype(np.float64) ** 2 / variance) / 2
    np.testing.assert_allclose(law.complexity(params), bits, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(law.open(params), sigmoid(1 - log_alpha), rtol=1e-4, atol=1e-7)
    slopes = jax.grad(lambda p: law.complexity(p).sum() + law.open(p).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_expected_costs_are_expectations() -> None:
    """Over all sets of branches that stay, those inside of others too, and over widths."""
    assert len(BRANCHES) == 3
    odds = dict(zip(BRANCHES, (0.5, 0.25, 0.875), strict=True))
    for cost in (jp.cost.macs, jp.cost.params, jp.cost.activation_bytes, jp.cost.weights):
        total = 0.0
        for stay in itertools.product((True, False), repeat=3):
            each = zip(stay, odds.values(), strict=True)
            weight = np.prod([odd if kept else 1 - odd for kept, odd in each])
            total += weight * cost(GRAPH, dict(zip(BRANCHES, stay, strict=True)))
        np.testing.assert_allclose(jp.cost.expected(GRAPH, cost, odds), total, rtol=1e-6)
        saved = {name: cost(GRAPH) - cost(GRAPH, {name: False}) for name in BRANCHES}
        assert jp.cost.branch_cost(GRAPH, cost) == saved  # products of activations among them
        widths = {name: max(1, group.size - 2) for name, group in GRAPH.groups.items()}
        assert float(jp.cost.expected(GRAPH, cost, widths)) == cost(GRAPH, widths)
    by_width = jax.grad(lambda w: jp.cost.expected(GRAPH, jp.cost.macs, w))({"mid": 8.0})
    assert float(by_width["mid"]) == jp.cost.channel_cost(GRAPH)["mid"]
    heads = next(n for n, kind in jp.kinds(GRAPH).items() if kind is jp.Kind.HEADS)
    open_ = GATES.open(GATES.init()) | {heads: jnp.array([1.0, 0.5, 0.25])}
    assert float(jp.gates.expected_widths(GRAPH, open_)[heads]) == 1.75


def test_the_cut_at_the_zeros_of_fixed_gates_is_the_gated_network() -> None:
    params = {
        name: jnp.asarray(RANDOM.normal(size=np.shape(value)) * 3, jnp.float32)
        for name, value in GATES.init().items()
    }
    params |= {
        BRANCHES[0]: jnp.float32(0.3),
        BRANCHES[1]: jnp.float32(-9),
        BRANCHES[2]: jnp.float32(0.7),
    }
    fixed = GATES.fixed(params)
    whole = {name for name, gate in fixed.items() if np.all(np.asarray(gate) != 0)}
    between = [name for name, gate in fixed.items() if np.any((gate > 0) & (gate < 1))]
    assert len(whole - set(BRANCHES)) < 2
    assert len(between) > 2
    keep = jp.gates.kept(GRAPH, fixed)
    assert [bool(keep[name]) for name in BRANCHES] == [True, False, True]
    small = jp.slice(GRAPH, jp.gates.fold(GRAPH, V, fixed), keep)
    found = jp.narrow(network, GRAPH, keep)(small, X)
    np.testing.assert_allclose(found, GATED(V, fixed, X), rtol=1e-5, atol=1e-6)


def test_a_group_whose_gates_are_all_zero_keeps_a_channel_that_weighs_nothing() -> None:
    name = next(iter(GATES.init()))
    zero = {name: np.zeros(GRAPH.groups[name].size, np.float32)}
    keep = jp.gates.kept(GRAPH, zero)
    assert keep[name].sum() == 1
    small = jp.slice(GRAPH, jp.gates.fold(GRAPH, V, zero), keep)
    found = jp.narrow(network, GRAPH, keep)(small, X)
    np.testing.assert_allclose(found, jp.gated(network, GRAPH)(V, zero, X), atol=1e-6)


def stacked(v: Any, x: Any) -> Any:
    """Two layers under a scan, each with its own hidden channels."""

    def step(h: Any, w: Any) -> Any:
        return h + jnp.tanh(h @ w["up"]) @ w["down"], None

    return jax.lax.scan(step, x, v["layers"])[0] @ v["head"]


def test_stacked_layers_keep_as_many_channels_each() -> None:
    v = {
        "layers": {"up": np.ones((2, 3, 4), np.float32), "down": np.ones((2, 4, 3), np.float32)},
        "head": np.ones((3, 2), np.float32),
    }
    x = np.ones((1, 3), np.float32) / 9
    graph = jp.trace(stacked, v, x)
    name = next(n for n, group in graph.groups.items() if group.layers == 2)
    gates = {name: np.float32([[0, 0.5, 0, 1], [0, 0, 0.25, 0]])}
    keep = jp.gates.kept(graph, gates)
    assert keep[name].tolist() == [[False, True, False, True], [True, False, True, False]]
    small = jp.slice(graph, jp.gates.fold(graph, v, gates), keep)
    found = jp.narrow(stacked, graph, keep)(small, x)
    np.testing.assert_allclose(found, jp.gated(stacked, graph)(v, gates, x), rtol=1e-6)
    assert float(jp.gates.expected_widths(graph, {name: jnp.asarray(gates[name])})[name]) == 1.5
    odds = {"+layers/down": np.float32([0.5, 1.0])}
    halves = (jp.cost.macs(graph, {"+layers/down": [False, True]}) + jp.cost.macs(graph)) / 2
    assert float(jp.cost.expected(graph, jp.cost.macs, odds)) == halves


def test_groups_without_learned_gates_are_named() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = x @ v["a"]
        return (h / (1 + jnp.square(h).sum(-1, keepdims=True))) @ v["b"]

    v = {"a": np.ones((2, 4), np.float32), "b": np.ones((4, 3), np.float32)}
    graph = jp.trace(fn, v, np.ones((1, 2), np.float32))
    assert graph.groups["a"].inexact is None
    assert "a" in jp.gates.unit(graph)
    why = jp.gates.unlearnable(graph)["a"]
    assert why.startswith("reduce_sum([1, 4]) -> [1] at ")
    assert why.endswith("without a gate")
    with pytest.raises(jp.errors.GateError, match=r"no group and no branch .*\ngroup 'a': reduce"):
        jp.gates.learned(graph, jp.gates.hard_concrete())
    with pytest.raises(jp.errors.GateError, match="cannot be learned:\ngroup 'a': reduce_sum"):
        jp.gates.learned(graph, jp.gates.hard_concrete(), only="a")
    dims = [n for n, kind in jp.kinds(GRAPH).items() if kind is jp.Kind.QUERY_KEY]
    assert list(GATES.refused) == dims  # no weight reads what a query and a key sum over
    assert set(GATES.init()) == set(GRAPH.groups) - set(dims) | set(BRANCHES)


def test_gaps_are_shares_of_dense() -> None:
    gated = [name for name in GATES.init() if name in GRAPH.groups]
    held = jp.gates.lagrangian(
        GRAPH,
        widths=dict.fromkeys(gated, 2) | {"m*": 4},
        depth=1,
        bounds={jp.cost.macs: 235},
    )
    assert held.targets["mid"] == 4 / 8
    open_ = GATES.open(GATES.init()) | {name: jnp.float32(0.5) for name in BRANCHES[:2]}
    open_.pop(BRANCHES[2])  # has no gate, and stays
    gaps = held.gaps(open_)
    each = float(open_["mid"][0])
    macs = jp.cost.expected(GRAPH, jp.cost.macs, jp.gates.expected_widths(GRAPH, open_)) / 2350
    wanted = {n: each - held.targets[n] for n in gated}
    wanted |= {"macs": float(macs) - 0.1, "depth": 2 / 3 - 1 / 3}
    assert set(gaps) == set(wanted)
    for name, gap in wanted.items():
        np.testing.assert_allclose(gaps[name], gap, rtol=1e-5)


def test_what_has_no_gate_is_not_held() -> None:
    (dims,) = GATES.refused
    held = jp.gates.lagrangian(GRAPH, widths={dims: 1})
    with pytest.raises(jp.errors.BudgetError, match=r"the width of group 'k.*but it has no gates"):
        held.gaps(GATES.open(GATES.init()))
    channels = {n: p for n, p in GATES.open(GATES.init()).items() if n in GRAPH.groups}
    with pytest.raises(jp.errors.BudgetError, match="the depth is held, but no branch has a gate"):
        jp.gates.lagrangian(GRAPH, depth=1).gaps(channels)
    v = {"macs": np.ones((2, 4), np.float32), "b": np.ones((4, 1), np.float32)}
    graph = jp.trace(lambda v, x: x @ v["macs"] @ v["b"], v, np.ones((1, 2), np.float32))
    with pytest.raises(jp.errors.BudgetError, match=r"\['macs', 'macs'\] have one name"):
        jp.gates.lagrangian(graph, bounds={jp.cost.macs: 0.5}, widths={"macs": 2})


def test_kernels_that_are_joined_before_they_read_fold_no_gate() -> None:
    def fn(v: Any, x: Any) -> Any:
        return (x @ v["a"]) @ jnp.concatenate([v["b"], v["c"]], axis=1)

    v = {"a": np.ones((2, 4), np.float32), "b": np.ones((4, 3), np.float32)}
    v["c"] = 2 * v["b"]
    graph = jp.trace(fn, v, np.ones((1, 2), np.float32))
    with pytest.raises(jp.errors.GateError, match="no single weight reads its channels"):
        jp.gates.fold(graph, v, {"a": np.zeros(4, np.float32)})
    assert list(jp.gates.unlearnable(graph)) == ["a"]


def test_twenty_steps_of_gates_and_multipliers() -> None:
    """Descent of the gates and ascent of the multipliers by one optimizer, against NumPy."""
    name = next(n for n, group in GRAPH.groups.items() if group.size == 8)
    gates = jp.gates.learned(GRAPH, jp.gates.hard_concrete(start=1.0), only=[name])
    held = jp.gates.lagrangian(GRAPH, widths={name: 3}, warmup=10)
    worth = np.linspace(-0.1, 0.1, 8)
    ascent = optax.chain(optax.scale(-1.0), optax.sgd(2.0, momentum=0.5))
    labels = {"gates": "down", "multipliers": "up"}
    optimizer = optax.partition({"down": optax.sgd(5.0, momentum=0.9), "up": ascent}, labels)
    trained = {"gates": gates.init(), "multipliers": held.init()}
    state = optimizer.init(trained)

    def loss(trained: Any, step: Any) -> Any:
        open_ = gates.open(trained["gates"])
        return open_[name] @ -worth + held.penalty(open_, trained["multipliers"], step)

    @jax.jit
    def update(trained: Any, state: Any, step: Any) -> Any:
        moves, state = optimizer.update(jax.grad(loss)(trained, step), state, trained)
        return optax.apply_updates(trained, moves), state

    a, speed = np.ones(8), np.zeros(8)
    pair, push = np.zeros(2), np.zeros(2)
    for step in range(20):
        trained, state = update(trained, state, jnp.int32(step))
        o = sigmoid(a - 2 / 3 * np.log(0.1 / 1.1))
        target = 1 - (1 - 3 / 8) * min(step / 10, 1)
        gap = o.mean() - target
        by_open = -worth + (pair[0] + 2 * pair[1] * gap) / 8
        speed = 0.9 * speed + by_open * o * (1 - o)
        push = 0.5 * push + np.array([gap, gap**2])
        a, pair = a - 5.0 * speed, pair + 2.0 * push
    assert update._cache_size() == 1
    np.testing.assert_allclose(trained["gates"][name], a, rtol=1e-4)
    found = trained["multipliers"][name]
    np.testing.assert_allclose([found["linear"], found["quadratic"]], pair, rtol=1e-4)


def test_the_target_of_a_cost_is_met() -> None:
    """A small regression: half of the MACs, expected and once cut, within 2 percent."""
    draw = np.random.default_rng(0).normal
    rows = draw(size=(64, 16)).astype(np.float32)
    v = {
        "first": draw(size=(16, 64)).astype(np.float32) / 4,
        "second": draw(size=(64, 64)).astype(np.float32) / 8,
        "last": draw(size=(64, 4)).astype(np.float32) / 8,
    }

    def fn(v: Any, x: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ v["first"]) @ v["second"]) @ v["last"]

    graph, wanted = jp.trace(fn, v, rows[:1]), fn(v, rows)
    apply = jp.gated(fn, graph)
    gates = jp.gates.learned(graph, jp.gates.hard_concrete())
    held = jp.gates.lagrangian(graph, bounds={jp.cost.macs: 0.5}, warmup=100)
    ascent = optax.chain(optax.scale(-1.0), optax.adam(0.05))
    labels = {"variables": "slow", "gates": "down", "multipliers": "up"}
    optimizer = optax.partition(
        {"slow": optax.adam(1e-3), "down": optax.adam(0.1), "up": ascent}, labels
    )

    def loss(trained: Any, key: Any, step: Any) -> Any:
        out = apply(trained["variables"], gates.sample(trained["gates"], key), rows)
        held_to = held.penalty(gates.open(trained["gates"]), trained["multipliers"], step)
        return jnp.square(out - wanted).mean() + held_to

    def step(carry: Any, i: Any) -> Any:
        trained, state = carry
        slopes = jax.grad(loss)(trained, jax.random.fold_in(jax.random.key(2), i), i)
        moves, state = optimizer.update(slopes, state, trained)
        return (optax.apply_updates(trained, moves), state), None

    trained = {"variables": v, "gates": gates.init(), "multipliers": held.init()}
    carry = trained, optimizer.init(trained)
    (trained, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(800)))(carry)
    open_ = gates.open(trained["gates"])
    assert abs(float(held.gaps(open_)["macs"])) < 0.002
    zeros = jp.gates.kept(graph, gates.fixed(trained["gates"]))
    chosen = jp.select.budget(graph, open_, keep_macs=0.5)
    left, exact = (jp.cost.macs(graph, keep) / jp.cost.macs(graph) for keep in (zeros, chosen))
    assert 0.98 * 0.5 < exact <= 0.5
    assert abs(left - 0.5) < 0.1 * 0.5  # some gates have not decided
