"""Complex, narrow and integer weights: scores, penalties and recovery by what the numbers are."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.errors import GateError, ScoreError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 4)).astype(np.float32)


def complex_normal(*shape: int) -> np.ndarray:
    return (RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape)).astype(np.complex64)


V = {"a": complex_normal(4, 5), "c": complex_normal(5), "b": complex_normal(5, 2)}


def network(v: Any, x: Any) -> Any:
    y = x.astype(v["a"].dtype) @ v["a"] + v["c"][None]
    return jnp.abs(y * jnp.abs(y) @ v["b"])


GRAPH = jp.trace(network, V, X)


@pytest.mark.parametrize("place", ["host", "device", "jit"])
def test_complex_weights_count_by_their_modulus(place: Any) -> None:
    def score(v: Any) -> Any:
        roles = ("out", "in", "vector")
        return (
            jp.scores.l1(GRAPH, v, roles=roles)["a"],
            jp.scores.l2(GRAPH, v)["a"],
            jp.scores.channel_energy(GRAPH, v)["a"],
        )

    if place == "jit":
        score = jax.jit(score)
    found = score(jax.tree.map(jnp.asarray, V) if place == "device" else V)
    a, b, c = (np.abs(V[name]) for name in "abc")
    expected = a.sum(0) + b.sum(1) + c, np.sqrt((a**2).sum(0)), (a**2).sum(0) + (b**2).sum(1)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_the_taylor_score_of_complex_weights_is_the_derivative_by_the_gate() -> None:
    """By finite differences of the weights that read each channel, and by the gate itself."""
    with jax.enable_x64(True):
        v = {name: leaf.astype(np.complex128) for name, leaf in V.items()}
        graph = jp.trace(network, v, X.astype(np.float64))

        def loss(v: Any) -> Any:
            return jnp.sin(network(v, X.astype(np.float64))).sum()

        found = jp.scores.taylor(graph, v, jax.grad(loss)(v))["a"]
        gated = jp.gated(network, graph)

        def by_gates(gates: Any) -> Any:
            return jnp.sin(gated(v, gates, X.astype(np.float64))).sum()

        slopes = jax.grad(by_gates)({"a": np.ones(5)})["a"]
        steps = []
        for channel in range(5):
            moved = [v["b"].copy() for _ in range(2)]
            moved[0][channel] *= 1 + 1e-6
            moved[1][channel] *= 1 - 1e-6
            up, down = (loss(v | {"b": b}) for b in moved)
            steps.append(float(up - down) / 2e-6)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, np.abs(steps), rtol=1e-5)
        np.testing.assert_allclose(found, np.abs(slopes), rtol=1e-9)


def normed(v: Any, x: Any) -> Any:
    y = (x @ v["w"] - v["m"][None]) * jax.lax.rsqrt(v["v"] + 1e-3)[None]
    y = y * v["g"][None] + v["b"][None]
    return jnp.abs(y * jnp.abs(y) @ v["u"])


NORMED = {
    "w": complex_normal(4, 5),
    "u": complex_normal(5, 2),
    "g": complex_normal(5),
    "b": complex_normal(5),
    "m": complex_normal(5),
    "v": RANDOM.uniform(0.5, 1, 5).astype(np.float32),
}


def test_complex_scales_of_batch_norms() -> None:
    graph = jp.trace(normed, NORMED, X)
    found = jp.scores.bn_scale(graph, NORMED)["w"]
    np.testing.assert_allclose(found, np.abs(NORMED["g"]), rtol=1e-6)

    def loss(v: Any) -> Any:
        return normed(v, X).sum()

    slopes = jax.grad(loss)(NORMED)

    def scaled(phi: Any) -> Any:
        return loss(NORMED | {name: NORMED[name] * phi for name in "gb"})

    expected = np.abs(jax.grad(scaled)(jnp.ones(5)))
    found = jp.scores.taylor_bn(graph, NORMED, slopes)["w"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    decorated = jp.gates.decorate(NORMED, graph=graph, limit=0.5)
    b = decorated.variables["b"]
    far = np.abs(NORMED["b"] / NORMED["g"]) > 0.5
    assert far.any()
    ratio = NORMED["b"] / NORMED["g"]
    expected = np.where(far, 0.5 * ratio / np.abs(ratio), ratio)
    np.testing.assert_allclose(b, expected, rtol=1e-5)
    back = NORMED["g"] * b + next(iter(decorated.lost.values()))
    np.testing.assert_allclose(back, NORMED["b"], rtol=1e-4)


def test_complex_statistics_are_measured() -> None:
    def update(v: Any, x: Any) -> Any:
        y = x @ v["w"]
        mean = y.mean(0)
        var = (jnp.abs(y - mean[None]) ** 2).mean(0)
        return {"m": 0.9 * v["m"] + 0.1 * mean, "v": 0.9 * v["v"] + 0.1 * var}

    graph = jp.trace(normed, NORMED, X)
    found = jp.recover.recalibrate(update, NORMED, [X, X + 1], graph=graph)
    data = np.concatenate([X, X + 1]) @ NORMED["w"]
    np.testing.assert_allclose(found["m"], data.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["v"], data.var(0), rtol=1e-4)


NARROW = "float16 bfloat16 float8_e4m3fn float8_e5m2 int8 uint8 int4 uint4 int32 bool".split()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("place", ["host", "device", "jit"])
def test_narrow_weights_are_summed_wide(dtype: str, place: str) -> None:
    """The sum of 400 entries, the largest of the type or ones, is right to the last bit."""
    dtype = jnp.dtype(dtype)
    low = -7 if jnp.issubdtype(dtype, jnp.signedinteger) else 1
    values = {"int8": -128, "uint8": 255, "int4": -8, "uint4": 15, "bool": 1}.get(dtype.name, low)
    v = {
        "a": np.full((400, 3), values).astype(dtype),
        "b": np.ones((3, 2), np.float32),
    }
    graph = jp.trace(lambda v, x: x @ v["a"].astype(jnp.float32) @ v["b"], v, np.ones((1, 400)))
    if place == "device":
        v = jax.tree.map(jnp.asarray, v)

    def score(v: Any) -> Any:
        return jp.scores.l1(graph, v)["a"], jp.scores.l2(graph, v)["a"]

    one, two = jax.jit(score)(v) if place == "jit" else score(v)
    assert one.dtype == two.dtype == np.float32
    np.testing.assert_array_equal(one, np.full(3, 400.0 * abs(values), np.float32))
    np.testing.assert_allclose(two, 20.0 * abs(values), rtol=1e-5)


def test_double_precision_stays_where_scores_are_compared() -> None:
    """Two channels whose norms are one number in single precision are not a tie."""
    v = {"a": np.array([[1.0, 1.0 + 1e-12, 2.0]]), "b": np.ones((3, 2))}
    with jax.enable_x64(True):
        graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 1)))
    scores = jp.scores.l1(graph, v)
    assert scores["a"].dtype == np.float64
    keep = jp.select.global_ratio(graph, scores, prune_ratio=0.4)
    np.testing.assert_array_equal(keep["a"], [False, True, True])


def test_integer_weights_have_no_taylor_score_and_hold_no_gate() -> None:
    v = {"a": RANDOM.normal(size=(4, 5)).astype(np.float32), "b": np.full((5, 2), 3, np.int8)}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"].astype(jnp.float32), v, X)
    slopes = jax.grad(lambda v: graph.fn(v, X).sum(), allow_int=True)(v)
    with pytest.raises(ScoreError, match=r"\['b'\] are integers, which have no gradient.\nFix: sc"):
        jp.scores.taylor(graph, v, slopes)
    with pytest.raises(GateError, match=r"'a': b is int8, which holds no fractions\nFix: leave"):
        jp.gates.fold(graph, v, {"a": np.full(5, 0.5)})


def test_folded_gates_of_complex_weights() -> None:
    gates = {"a": RANDOM.uniform(0, 1, 5).astype(np.float32)}
    found = network(jp.gates.fold(GRAPH, V, gates), X)
    np.testing.assert_allclose(found, jp.gated(network, GRAPH)(V, gates, X), rtol=1e-4)


def test_an_eight_bit_float_holds_a_gate() -> None:
    v = {"a": np.ones((4, 5), np.float32), "b": np.ones((5, 2), jnp.float8_e4m3fn)}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"].astype(jnp.float32), v, X)
    small = jp.gates.fold(graph, v, {"a": np.full(5, 0.5)})["b"]
    assert small.dtype == jnp.float8_e4m3fn
    np.testing.assert_array_equal(small.astype(np.float32), 0.5)


def added(tx: optax.GradientTransformation, params: Any) -> Any:
    params = jax.tree.map(jnp.asarray, params)
    return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]


@pytest.mark.parametrize("make", [jp.sparsify.l1_bn_scale, jp.sparsify.l1_gates])
def test_the_penalty_of_complex_scales_is_what_grad_gives(make: Any) -> None:
    params, mask = {"g": V["c"], "k": V["a"]}, {"g": True, "k": False}
    found = added(make(0.5, mask), params)
    expected = jax.grad(lambda g: 0.5 * jnp.abs(g).sum())(V["c"])
    np.testing.assert_allclose(found["g"], expected, rtol=1e-5)
    assert not np.any(found["k"])


def test_the_smooth_and_the_proximal_penalty_of_complex_scales() -> None:
    scale, mask = {"g": V["c"]}, {"g": True}
    width = float(np.median(np.abs(V["c"])))

    def smooth(g: Any) -> Any:
        size = jnp.abs(g)
        return jnp.where(size > width, size - width / 2, size**2 / (2 * width)).sum()

    found = added(jp.sparsify.smooth_l1_bn_scale(1.0, mask, width=width), scale)["g"]
    np.testing.assert_allclose(found, jax.grad(smooth)(V["c"]), rtol=1e-4)
    tx = jp.sparsify.proximal_l1_bn_scale(width, mask, learning_rate=1.0)
    after = V["c"] + added(tx, scale)["g"]
    size = np.maximum(np.abs(V["c"]) - width, 0)
    np.testing.assert_allclose(after, size * V["c"] / np.abs(V["c"]), rtol=1e-4, atol=1e-6)


def test_norms_of_complex_channels() -> None:
    found = added(jp.sparsify.oicsr(GRAPH, 0.5), V)

    def penalty(v: Any) -> Any:
        energy = (jnp.abs(v["a"]) ** 2).sum(0) + (jnp.abs(v["b"]) ** 2).sum(1)
        return 0.5 * jnp.sqrt(energy).sum()

    expected = jax.grad(penalty)(V)
    for name in "ab":
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
    tx = jp.sparsify.proximal_structured(
        GRAPH, lambda n, t: jnp.maximum(n - t, 0), learning_rate=1.0, strength=1.0
    )
    after = V["a"] + added(tx, V)["a"]
    norm = np.linalg.norm(V["a"], axis=0)
    np.testing.assert_allclose(after, V["a"] * np.maximum(norm - 1, 0) / norm, rtol=1e-4, atol=1e-6)


def test_penalties_leave_integers_and_take_eight_bit_floats() -> None:
    v = {"a": np.ones((4, 5), jnp.float8_e4m3fn), "b": np.ones((5, 2), np.float32)}
    graph = jp.trace(lambda v, x: x @ v["a"].astype(jnp.float32) @ v["b"], v, X)
    found = added(jp.sparsify.oicsr(graph, math.sqrt(6)), v)
    np.testing.assert_allclose(found["a"].astype(np.float32), 1, rtol=0.1)


def constants(dtype: Any, bias: Any) -> tuple[jp.ChannelGraph, Any]:
    """A channel that a zero scale makes constant, and a layer with a bias behind it."""
    v = {
        "w": np.ones((4, 3), np.float32),
        "g": np.array([1, 0, 1], np.float32),
        "m": np.zeros(3, np.float32),
        "v": np.ones(3, np.float32),
        "b": np.array([1, 2, 3], np.float32),
        "u": (np.arange(6).reshape(3, 2) + 1).astype(dtype),
        "c": np.ones(2, bias),
    }

    def fn(v: Any, x: Any) -> Any:
        y = (x @ v["w"] - v["m"][None]) / jnp.sqrt(v["v"] + 0.0)[None] * v["g"][None]
        y = (y + v["b"][None]).astype(v["u"].dtype)
        return (y @ v["u"] + v["c"][None]).astype(jnp.complex64)

    return jp.trace(fn, v, X), v


@pytest.mark.parametrize(
    ("dtype", "bias", "into"),
    [
        (np.complex64, np.complex64, "c"),
        (np.complex64, np.float32, None),
        (np.int32, np.int32, "c"),
        (np.float32, jnp.bfloat16, "c"),
        (jnp.bfloat16, np.float32, "c"),
    ],
)
def test_constants_go_where_the_type_holds_them(dtype: Any, bias: Any, into: str | None) -> None:
    graph, v = constants(dtype, bias)
    if dtype == np.complex64:
        v["u"] = v["u"] * np.complex64(1 + 1j)
    absorbed = jp.recover.absorb_constants(graph, v, {"w": np.array([True, False, True])})
    (outcome,) = absorbed.outcomes
    assert outcome.into == into, outcome
    change = np.asarray(absorbed.variables["c"]).astype(np.complex64) - 1
    assert absorbed.variables["c"].dtype == np.dtype(bias)
    expected = 2 * v["u"][1].astype(np.complex64) if into else 0
    np.testing.assert_allclose(change, expected, rtol=1e-2)


EMPTY = jp.trace(lambda v, x: x @ v["a"], {"a": V["a"]}, X)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (lambda: jp.scores.l1(EMPTY, V), "no group has a variable in the roles ('out',)"),
        (lambda: jp.scores.l2(EMPTY, V, roles=["in"]), "in the roles ('in',)"),
        (lambda: jp.scores.channel_energy(EMPTY, V), "in the roles ('out', 'in')"),
        (lambda: jp.scores.bn_scale(GRAPH, V), "no BatchNorm with a scale is behind a group"),
        (lambda: jp.scores.taylor(EMPTY, V, V), "no group is read by one weight of its own"),
        (lambda: jp.scores.taylor_bn(GRAPH, V, V), "no BatchNorm with a scale is behind a gro"),
        (lambda: jp.scores.taylor_gate(GRAPH, V, V), "no BatchNorm with a scale is behind a g"),
        (lambda: jp.scores.taylor_activation(EMPTY, {}), "there are no gradients of gates"),
        (lambda: jp.scores.normalized({}), "there are no scores"),
        (lambda: jp.scores.random(EMPTY, jax.random.key(0)), "the graph has no group"),
    ],
)
def test_a_score_that_covers_nothing_is_an_error(score: Any, text: str) -> None:
    with pytest.raises(ScoreError) as caught:
        score()
    said, _, fix = str(caught.value).partition("\nFix: ")
    assert text in said
    assert said.endswith(", so no group has a score.")
    assert fix
