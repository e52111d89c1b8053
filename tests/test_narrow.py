"""Any function at the kept sizes: values, derivatives, other inputs, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.running import evaluator
from test_zoo_attention import check_narrow, drawn
from zoo import attention_positions

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 5)).astype(np.float32)
V = {
    "w": RANDOM.normal(size=(5, 8)).astype(np.float32),
    "b": RANDOM.normal(size=8).astype(np.float32),
    "u": RANDOM.normal(size=(8, 4)).astype(np.float32),
}
KEEP = {"w": np.array([False, True, True, False, False, True, False, True])}


@jax.custom_jvp
def step(x: Any) -> Any:
    """A step whose derivative is that of the identity, times three: no true derivative."""
    return (x > 0).astype(x.dtype)


step.defjvp(lambda primals, tangents: (step(*primals), 3 * tangents[0]))


@jax.custom_vjp
def sign(x: Any) -> Any:
    """A sign whose derivative is one inside (-1, 1), as binary networks have it."""
    return jnp.sign(x)


sign.defvjp(lambda x: (sign(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0.0),))


@jax.custom_vjp
def scaled(x: Any, factor: Any, _count: Any) -> Any:
    """A custom derivative with a residual, a scalar, and an integer operand."""
    return x * factor


scaled.defvjp(
    lambda x, factor, count: (scaled(x, factor, count), (x, count)),
    lambda kept, g: (5 * g, jnp.vdot(kept[0], g) + kept[1], None),
)


@jax.custom_vjp
def centered(x: Any) -> Any:
    """Elementwise, but its derivative mixes the channels."""
    return x


centered.defvjp(lambda x: (x, None), lambda _, g: (g - g[:, ::-1],))


def network(activation: Any) -> Any:
    return lambda v, x: activation(x @ v["w"] + v["b"][None]) @ v["u"]


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "logsumexp": lambda h: jnp.logaddexp(h, 0.5 * h),
    "softmax over the batch": lambda h: jax.nn.softmax(h, 0),
    "step": step,
    "sign": sign,
    "scaled": lambda h: scaled(h, 2.0 + 0 * h.sum(), 3),
    "step of sign": lambda h: step(sign(h) - 0.5),
    "step in remat": jax.checkpoint(step),
    "sign in jit": jax.jit(sign),
    "step in a scan": lambda h: jax.lax.scan(lambda c, _: (step(c) - 0.3, None), h, length=2)[0],
    "sign in a branch": lambda h: jax.lax.cond(h.sum() < 99, sign, jnp.tanh, h),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_the_masked_function(name: str) -> None:
    fn = network(ACTIVATIONS[name])
    graph = jp.trace(fn, V, X)
    narrowed = jp.narrow(fn, graph, KEEP)

    def loss(apply: Any, v: Any) -> Any:
        out = apply(v, X)
        return jnp.vdot(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape), out)

    @jax.jit
    def both(masked: Any, small: Any) -> Any:
        return jax.value_and_grad(lambda v: loss(fn, v))(masked), jax.value_and_grad(
            lambda v: loss(narrowed, v)
        )(small)

    (full, gradient), (value, small) = both(jp.mask(graph, V, KEEP), jp.slice(graph, V, KEEP))
    np.testing.assert_allclose(value, full, rtol=1e-4, atol=1e-5)
    expected = jp.slice(graph, gradient, KEEP)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), small, expected
    )
    assert np.abs(expected["w"]).sum() > 0


def test_straight_through_is_not_the_true_derivative() -> None:
    """Without its own rule the step would have no gradient at all."""
    fn = network(step)
    graph = jp.trace(fn, V, X)
    narrowed = jp.narrow(fn, graph, KEEP)
    gradient = jax.grad(lambda v: narrowed(v, X).sum())(jp.slice(graph, V, KEEP))
    expected = 3 * X.T @ np.ones((3, 4)) @ V["u"][KEEP["w"]].T
    np.testing.assert_allclose(gradient["w"], expected, rtol=1e-4)


def test_forward_derivatives_too() -> None:
    fn = network(step)
    graph = jp.trace(fn, V, X)
    small = jp.slice(graph, V, KEEP)
    masked = jp.mask(graph, V, KEEP)
    tangent = jax.tree.map(jnp.ones_like, small)
    full = jp.unslice(graph, tangent, KEEP)
    found = jax.jvp(lambda v: jp.narrow(fn, graph, KEEP)(v, X), (small,), (tangent,))
    expected = jax.jvp(lambda v: fn(v, X), (masked,), (full,))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_derivative_that_mixes_channels_is_refused() -> None:
    fn = network(centered)
    graph = jp.trace(fn, V, X)
    narrowed = jp.narrow(fn, graph, KEEP)
    small = jp.slice(graph, V, KEEP)
    np.testing.assert_allclose(
        narrowed(small, X), fn(jp.mask(graph, V, KEEP), X), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(jp.errors.ResizeError, match=r"test_narrow.*itself.*of \['w'\]\.\nFix: "):
        jax.grad(lambda v: narrowed(v, X).sum())(small)


def test_a_plain_mean_keeps_the_constant_of_the_full_network() -> None:
    def fn(v: Any, x: Any) -> Any:
        return (x @ v["w"]).mean(-1)

    graph = jp.trace(fn, {"w": V["w"]}, X)
    found = jp.narrow(fn, graph, KEEP)(jp.slice(graph, {"w": V["w"]}, KEEP), X)
    np.testing.assert_allclose(found, (X @ V["w"])[:, KEEP["w"]].sum(-1) / 8, rtol=1e-5)


def test_hard_coded_sizes_do_not_matter() -> None:
    """Heads are cut, and the reshape says 4 heads of 2."""

    def fn(v: Any, x: Any) -> Any:
        return jnp.tanh((x @ v["w"]).reshape(-1, 4, 2)).reshape(-1, 8) @ v["u"]

    read = {name: V[name] for name in ("w", "u")}
    graph = jp.trace(fn, read, X)
    assert {name: group.size for name, group in graph.groups.items()} == {"w[1.0]": 4, "w[1.1]": 2}
    keep = {"w[1.0]": np.array([True, False, True, True]), "w[1.1]": np.array([False, True])}
    found = jp.narrow(fn, graph, keep)(jp.slice(graph, read, keep), X)
    np.testing.assert_allclose(found, fn(jp.mask(graph, read, keep), X), rtol=1e-5)


def test_other_batch_sizes_and_other_functions_of_the_variables() -> None:
    graph = jp.trace(network(jax.nn.relu), V, X)
    small, masked = jp.slice(graph, V, KEEP), jp.mask(graph, V, KEEP)
    for fn in (network(jax.nn.relu), network(jnp.tanh)):
        narrowed = jax.jit(jp.narrow(fn, graph, KEEP))
        for rows in (X, X[:1], np.concatenate([X, X])):
            np.testing.assert_allclose(
                narrowed(small, rows), fn(masked, rows), rtol=1e-4, atol=1e-5
            )


def test_each_set_of_shapes_is_traced_once() -> None:
    calls = []

    def fn(v: Any, x: Any) -> Any:
        calls.append(x.shape)
        return network(jax.nn.relu)(v, x)

    graph = jp.trace(fn, V, X)
    narrowed = jp.narrow(fn, graph, KEEP)
    small = jp.slice(graph, V, KEEP)
    for rows in (X, X, X[:1], X):
        narrowed(small, rows)
    assert calls == [(3, 5), (3, 5), (1, 5)]


def test_the_graphs_of_the_last_shapes_are_kept() -> None:
    calls = []

    def fn(v: Any, x: Any) -> Any:
        calls.append(len(x))
        return network(jax.nn.relu)(v, x)

    graph = jp.trace(fn, V, X)
    narrowed, small = jp.narrow(fn, graph, KEEP), jp.slice(graph, V, KEEP)
    sizes = range(1, evaluator.GRAPHS + 3)
    calls.clear()
    for size in [*sizes, *reversed(sizes)]:
        jax.eval_shape(lambda x: narrowed(small, x), jax.ShapeDtypeStruct((size, 5), X.dtype))
    assert calls == [*sizes, 2, 1]


def test_a_graph_of_other_settings_is_traced_anew() -> None:
    fn = lambda v, x: jnp.cumsum(x @ v["w"], axis=0) @ v["u"] * jnp.ones((), float)  # noqa: E731
    read = {path: V[path] for path in ("w", "u")}
    graph = jp.trace(fn, read, X)
    narrowed, small = jp.narrow(fn, graph, KEEP), jp.slice(graph, read, KEEP)
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            assert narrowed(small, X).dtype == fn(read, X).dtype == (float if wide else np.float32)


def test_the_output_keeps_its_tree() -> None:
    def fn(v: Any, x: Any) -> Any:
        return {"y": network(jnp.tanh)(v, x), "rest": (x, None, [v["w"][:, 0] * 0])}

    graph = jp.trace(network(jnp.tanh), V, X)
    found = jp.narrow(fn, jp.trace(fn, V, X), {})(V, X)
    assert jax.tree.structure(found) == jax.tree.structure(fn(V, X))
    assert graph.groups


def test_variables_that_were_not_sliced_are_refused() -> None:
    fn = network(jax.nn.relu)
    graph = jp.trace(fn, V, X)
    narrowed = jp.narrow(fn, graph, KEEP)
    with pytest.raises(
        jp.errors.TreeError, match=r"'w' has shape \(5, 8\), the graph has \(5, 4\)"
    ):
        narrowed(V, X)
    small = jp.slice(graph, V, KEEP)
    with pytest.raises(jp.errors.TreeError, match=r"variables \['b'\] are missing"):
        narrowed({key: value for key, value in small.items() if key != "b"}, X)


def test_a_keep_that_does_not_fit_is_refused_at_once() -> None:
    graph = jp.trace(network(jax.nn.relu), V, X)
    with pytest.raises(jp.errors.KeepError, match="has 8 channels"):
        jp.narrow(network(jax.nn.relu), graph, {"w": np.ones(7, bool)})


def test_a_function_that_ties_other_channels_is_refused() -> None:
    graph = jp.trace(network(jax.nn.relu), V, X)
    other = jp.narrow(lambda v, x: jnp.sort(x @ v["w"]) @ v["u"], graph, KEEP)
    with pytest.raises(jp.errors.ResizeError) as caught:
        other(jp.slice(graph, V, KEEP), X)
    assert str(caught.value) == (
        "the function does not tie the same channels at these inputs:\n"
        "group 'w' has slots [('b', 0), ('u', 0), ('w', 1)], now []\n"
        "Fix: trace the graph with the function and the input ranks that you run."
    )


# Constants that are cut with the channels they meet.


TOKENS = RANDOM.normal(size=(2, 5, 6))
COUNTED = {
    "rotation": (attention_positions.Rotary(attention_positions.halves, "computed"), TOKENS, 5),
    "table": (attention_positions.Rotary(attention_positions.pairs, "constant"), TOKENS, 5),
    "slopes": (attention_positions.Biased("computed"), TOKENS, 4),
    "sines": (attention_positions.Positions(False), attention_positions.ids(5, 2)[0], 4),
}
"""Networks, inputs, and the size of what a count or a constant array freezes."""


@pytest.mark.parametrize(("module", "x", "size"), COUNTED.values(), ids=COUNTED)
def test_constants_are_cut_with_the_channels_they_meet(module: Any, x: Any, size: int) -> None:
    with jax.enable_x64(True):
        variables = drawn(module, x)
        frozen = jp.trace(module.apply, variables, x)
        graph = jp.trace(module.apply, variables, x, free_constants=True)
        freed = {name: g.size for name, g in graph.groups.items() if name not in frozen.groups}
        assert size in freed.values()
        reasons = {item.reason for item in graph.frozen}
        assert not reasons & {"counted by iota", "constant of the function"}
        keep = {name: np.arange(g.size) % 3 != 0 for name, g in graph.groups.items()}
        check_narrow(graph, variables, keep, x)
        alone = {name: keep[name] for name, n in freed.items() if n == size}
        with pytest.raises(
            jp.errors.ResizeError, match=r"(?s)(counts along channels|does not run).*jp.narrow"
        ):
            jp.linen.resize(module, graph, alone)


def test_a_count_inside_of_a_scan_makes_one_group_of_all_layers() -> None:
    def fn(v: Any, x: Any) -> Any:
        def step(y: Any, w: Any) -> Any:
            return y + jnp.tanh(y @ w[0] + jnp.sin(jnp.arange(8.0))[None, None]) @ w[1], None

        return jax.lax.scan(step, x, (v["up"], v["down"]))[0]

    shapes = {"up": (3, 6, 8), "down": (3, 8, 6)}
    with jax.enable_x64(True):
        v = {name: RANDOM.normal(size=shape) for name, shape in shapes.items()}
        graph = jp.trace(fn, v, TOKENS, free_constants=True)
        assert {name: group.shape for name, group in graph.groups.items()} == {"up": (8,)}
        check_narrow(graph, v, {"up": np.arange(8) % 3 == 1}, TOKENS)


def test_constants_of_a_model_of_nnx() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.last = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.last(jnp.tanh(self.first(x) + jnp.arange(8.0)[None]))

    model = Net(nnx.Rngs(0))
    assert not jp.nnx.trace(model, X).groups
    graph, variables = jp.nnx.trace(model, X, free_constants=True), jp.nnx.variables(model)
    keep = {"first/kernel": KEEP["w"]}
    found, _ = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), X)
    masked, _ = graph.fn(jp.mask(graph, variables, keep), X)
    np.testing.assert_allclose(found, masked, rtol=1e-4, atol=1e-5)
    with pytest.raises(jp.errors.ResizeError, match=r"does not run(.|\n)*jp.narrow"):
        jp.nnx.resize(model, graph, keep)
