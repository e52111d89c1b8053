"""What data say of experts, against loops over tokens in NumPy."""

from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from expert_networks import DISPATCHES, EXPERTS, network, variables
from test_experts import experts

ALL, PLACES = tuple(range(EXPERTS)), 3
"""The capacity of an expert in `expert_networks.capacity`."""


class Sent(NamedTuple):
    """One token that reaches an expert with a weight, and what that gives."""

    token: int
    expert: int
    weight: float
    output: np.ndarray


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def routed(
    v: Any, x: np.ndarray, routing: str, dispatch: str, among: tuple[int, ...] = ALL
) -> list[Sent]:
    """Tokens one by one, to the experts `among` which the router chooses."""
    stream = x @ v["stem"]
    logits = np.full((len(x), EXPERTS), -np.inf)
    logits[:, among] = (stream @ v["router"])[:, among]
    k = 1 if routing == "switch" else 2
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    chances = softmax(logits)
    sent, used = [], [0] * EXPERTS
    for choice in range(k):
        for token, row in enumerate(stream):
            expert = int(chosen[token, choice])
            weight = chances[token, expert]
            if routing != "switch":
                weight /= chances[token, chosen[token]].sum()
            used[expert] += 1
            if dispatch == "capacity" and used[expert] > PLACES:
                continue
            output = np.maximum(row @ v["up"][expert], 0) @ v["down"][expert]
            sent.append(Sent(token, expert, float(weight), output))
    return sent


def mixture(sent: list[Sent], tokens: int) -> np.ndarray:
    total = np.zeros((tokens, len(sent[0].output)))
    for item in sent:
        total[item.token] += item.weight * item.output
    return total


CASES = [
    ("mixtral", "one_hot"),
    ("mixtral", "take"),
    ("softmax first", "scatter"),
    ("mixtral", "sort"),
    ("softmax first", "count"),
    ("switch", "capacity"),
    ("mixtral", "capacity"),
    ("mixtral", "segments"),
]


@pytest.mark.parametrize(("routing", "dispatch"), CASES)
def test_scores_are_those_of_a_loop_over_tokens(routing: str, dispatch: str) -> None:
    fn, (v, x) = network(routing, dispatch), variables()
    batches = [x, x[::-1] * 0.5]
    graph = jp.trace(fn, v, x)
    name = experts(graph).name
    sent = [item for batch in batches for item in routed(v, batch, routing, dispatch)]
    count, gates, added = np.zeros(EXPERTS), np.zeros(EXPERTS), np.zeros(EXPERTS)
    for item in sent:
        count[item.expert] += 1
        gates[item.expert] += item.weight
        added[item.expert] += item.weight * np.sqrt((item.output**2).sum())
    use = jp.stats.expert_use(graph, v, batches)
    assert list(use) == [name]
    np.testing.assert_array_equal(use[name].sent, count)
    np.testing.assert_allclose(use[name].gates, gates, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(use[name].added, added, rtol=1e-4, atol=1e-6)
    frequency = jp.scores.expert_frequency(graph, use)[name]
    np.testing.assert_allclose(frequency, count / count.sum(), rtol=1e-6)
    soft = jp.scores.expert_gates(graph, use)[name]
    np.testing.assert_allclose(soft, gates / gates.sum(), rtol=1e-4, atol=1e-6)
    mean = [added[e] / count[e] if count[e] else 0 for e in range(EXPERTS)]
    np.testing.assert_allclose(jp.scores.reap(graph, use)[name], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("routing", "dispatch"), [("mixtral", "sort"), ("switch", "one_hot")])
def test_the_nearest_subset_is_that_of_all_tried_by_hand(routing: str, dispatch: str) -> None:
    fn, (v, x) = network(routing, dispatch), variables(2)
    graph = jp.trace(fn, v, x)
    name = experts(graph).name
    dense = mixture(routed(v, x, routing, dispatch), len(x))

    def error(among: tuple[int, ...]) -> float:
        return float(((mixture(routed(v, x, routing, dispatch, among), len(x)) - dense) ** 2).sum())

    best = min(combinations(range(EXPERTS), 3), key=error)
    keep = jp.select.experts(graph, v, [x], keep_count=3)
    assert np.nonzero(keep[name])[0].tolist() == [*best]
    left = ALL
    while len(left) > 3:
        left = min(combinations(left, len(left) - 1), key=error)
    greedy = jp.select.experts(graph, v, [x[:3], x[3:]], keep_count=3, exhaustive=0)
    assert np.nonzero(greedy[name])[0].tolist() == [*left]


def test_an_expert_that_no_token_reaches_goes_first() -> None:
    fn, (v, x) = network("mixtral", "count"), variables()
    x = abs(x)
    v = v | {"stem": abs(v["stem"]), "router": v["router"].copy()}
    v["router"][:, 4] = -100
    graph = jp.trace(fn, v, x)
    name = experts(graph).name
    use = jp.stats.expert_use(graph, v, [x])
    assert use[name].sent[4] == use[name].gates[4] == use[name].added[4] == 0
    for score in (jp.scores.expert_frequency, jp.scores.expert_gates, jp.scores.reap):
        scores = score(graph, use)
        assert np.isfinite(scores[name]).all()
        assert scores[name][4] == scores[name].min() == 0


def gated(v: Any, x: Any) -> Any:
    """Two layers with biases and gated units, each behind a norm; a scale for every expert."""
    for layer in ("a", "b"):
        p = v[layer]
        h = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        logits = jax.nn.sigmoid(h @ p["router"])
        values, chosen = lax.top_k(logits, 2)
        values = values * p["scale"][chosen]
        flat = chosen.reshape(-1)
        order = jnp.argsort(flat)
        sizes = jnp.bincount(flat, length=p["router"].shape[-1])
        rows = h[order // 2]
        unit = jax.nn.silu(lax.ragged_dot(rows, p["gate"], sizes)) * lax.ragged_dot(
            rows, p["up"], sizes
        )
        out = lax.ragged_dot(unit, p["down"], sizes) + p["bias"][flat[order]]
        out = out * values.reshape(-1)[order][:, None]
        x = x + jnp.zeros_like(x).at[order // 2].add(out)
    return x @ v["head"]


def gated_variables() -> tuple[dict[str, Any], np.ndarray]:
    random = np.random.default_rng(0)
    e, d, h = 5, 4, 6
    shapes = {"router": (d, e), "gate": (e, d, h), "up": (e, d, h), "down": (e, h, d)}
    shapes |= {"bias": (e, d), "scale": (e,)}
    layers: dict[str, Any] = {
        layer: {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        for layer in "ab"
    }
    layers["head"] = random.normal(size=(d, 2)).astype(np.float32)
    return layers, random.normal(size=(8, d)).astype(np.float32)


def test_two_layers_with_biases_gated_units_and_scales() -> None:
    v, x = gated_variables()
    graph = jp.trace(gated, v, x)
    use = jp.stats.expert_use(graph, v, [x])
    assert len(use) == 2
    stream = x.astype(float)
    for layer in "ab":
        p = v[layer]
        h = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-6)
        chances = 1 / (1 + np.exp(-(h @ p["router"])))
        total, count = np.zeros_like(stream), np.zeros(5)
        gates, added = np.zeros(5), np.zeros(5)
        for t, row in enumerate(h):
            for e in np.argsort(-chances[t], kind="stable")[:2]:
                gate = row @ p["gate"][e]
                unit = gate / (1 + np.exp(-gate)) * (row @ p["up"][e])
                weight = chances[t, e] * p["scale"][e]
                out = weight * (unit @ p["down"][e] + p["bias"][e])
                total[t] += out
                count[e] += 1
                gates[e] += weight
                added[e] += np.sqrt((out**2).sum())
        stream = stream + total
        (found,) = (item for name, item in use.items() if name.startswith(layer))
        np.testing.assert_array_equal(found.sent, count)
        np.testing.assert_allclose(found.gates, gates, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.added, added, rtol=1e-3, atol=1e-5)


def weighed_before(v: Any, x: Any) -> Any:
    """A router that weighs what goes into the experts, as that of Llama 4."""
    weights, chosen = lax.top_k(jax.nn.sigmoid(x @ v["router"]), 1)
    rows = (x * weights)[:, None]
    h = jax.nn.relu(jnp.einsum("tkd,tkdh->tkh", rows, v["up"][chosen]))
    return x + jnp.einsum("tkh,tkhd->td", h, v["down"][chosen])


def test_weights_of_inputs_are_no_weights_of_outputs() -> None:
    v, x = gated_variables()
    v = {name: v["a"][name] for name in ("router", "up", "down")}
    graph = jp.trace(weighed_before, v, x)
    use = jp.stats.expert_use(graph, v, [x])
    assert use["router"].gates is None
    chosen = (x @ v["router"]).argmax(-1)
    np.testing.assert_array_equal(use["router"].sent, np.bincount(chosen, minlength=5))
    assert (jp.scores.reap(graph, use)["router"] > 0).any()
    with pytest.raises(jp.errors.ScoreError, match="weighs what goes into the experts"):
        jp.scores.expert_gates(graph, use)


def read_twice(v: Any, x: Any) -> Any:
    """What experts give goes two ways before it is summed."""
    weights, chosen = lax.top_k(jax.nn.softmax(x @ v["router"]), 2)
    h = jax.nn.relu(jnp.einsum("td,tkdh->tkh", x, v["up"][chosen]))
    y = jnp.einsum("tkh,tkhd->tkd", h, v["down"][chosen])
    return (y * weights[..., None]).sum(1) + jnp.tanh(y).sum(1)


def rectified(v: Any, x: Any) -> Any:
    """The largest of what experts give, and no sum."""
    _, chosen = lax.top_k(x @ v["router"], 2)
    h = jax.nn.relu(jnp.einsum("td,tkdh->tkh", x, v["up"][chosen]))
    return jnp.einsum("tkh,tkhd->tkd", h, v["down"][chosen]).max(1)


def test_mixtures_that_cannot_be_read_are_refused_in_words() -> None:
    v, x = gated_variables()
    v = {name: v["a"][name] for name in ("router", "up", "down")}
    graph = jp.trace(read_twice, v, x)
    with pytest.raises(jp.errors.GateError, match=r"not mixed in one place: it is read by mul at"):
        jp.stats.expert_use(graph, v, [x])
    with pytest.raises(jp.errors.GateError, match="'up': nothing chooses from it"):
        jp.stats.expert_use(graph, v, [x], groups=["up"])
    plain = jp.trace(lambda v, x: x @ v["up"][0], v, x)
    with pytest.raises(jp.errors.GateError, match="no group has any"):
        jp.stats.expert_use(plain, v, [x])
    shared = gated_variables()[0]["a"]
    twice = jp.trace(lambda v, x: gated({"a": v, "b": v, "head": v["gate"][0]}, x), shared, x)
    with pytest.raises(jp.errors.GateError, match="cannot be read"):
        jp.stats.expert_use(twice, shared, [x])


def test_features_must_lie_along_the_last_axis() -> None:
    def turned(v: Any, x: Any) -> Any:
        weights, chosen = lax.top_k(jax.nn.softmax(x.T @ v["router"]), 2)
        h = jax.nn.relu(jnp.einsum("dt,tkdh->tkh", x, v["up"][chosen]))
        return jnp.einsum("tk,tkh,tkhd->dt", weights, h, v["down"][chosen])

    v, x = gated_variables()
    v = {name: v["a"][name] for name in ("router", "up", "down")}
    graph = jp.trace(turned, v, x.T)
    with pytest.raises(jp.errors.GateError, match="have no one weight"):
        jp.stats.expert_use(graph, v, [x.T], inputs=lambda x: (x,))


def test_stacked_layers_have_their_own_experts() -> None:
    random = np.random.default_rng(0)
    shapes = {"router": (2, 4, 5), "up": (2, 5, 4, 6), "down": (2, 5, 6, 4)}
    v = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x = random.normal(size=(8, 4)).astype(np.float32)

    def layer(x: Any, p: Any) -> Any:
        sent = DISPATCHES["sort"]
        values, chosen = lax.top_k(x @ p["router"], 2)
        return x + sent(p, x, jax.nn.softmax(values), chosen), None

    def stacked(v: Any, x: Any) -> Any:
        return lax.scan(layer, x, v)[0]

    def apart(v: Any, x: Any) -> Any:
        return layer(layer(x, v["0"])[0], v["1"])[0]

    each = {str(i): {name: value[i] for name, value in v.items()} for i in range(2)}
    graph, twin = jp.trace(stacked, v, x), jp.trace(apart, each, x)
    (found,) = jp.stats.expert_use(graph, v, [x]).values()
    wanted = list(jp.stats.expert_use(twin, each, [x]).values())
    for i, item in enumerate(wanted):
        for a, b in zip(found, item, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5)
    for options in ({}, {"exhaustive": 0}):
        (keep,) = jp.select.experts(graph, v, [x], keep_count=3, **options).values()
        both = list(jp.select.experts(twin, each, [x], keep_count=3, **options).values())
        np.testing.assert_array_equal(keep, both)


def test_bad_numbers_and_counts_are_refused() -> None:
    fn, (v, x) = network("mixtral", "take"), variables()
    graph = jp.trace(fn, v, x)
    with pytest.raises(jp.errors.JaxpruneError, match="not finite"):
        jp.stats.expert_use(graph, v, [x * np.inf])
    with pytest.raises(jp.errors.JaxpruneError, match="no batches"):
        jp.stats.expert_use(graph, v, [])
    for count in (1, EXPERTS + 1):
        with pytest.raises(jp.errors.BudgetError, match="has 6 experts, of which at least 2 stay"):
            jp.select.experts(graph, v, [x], keep_count=count)
