"""Gates where channels are consumed, taps of the activations there, and decorated BatchNorms."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from blocks import Activation, Concatenate, Conv, Depthwise, Flatten, Grouped, Norm, Residual
from jaxprune.arguments.paths import flatten
from modules import AttentionBlock, RematScanBlock
from networks import Network, weights

RANDOM = np.random.default_rng(0)
RELU, TANH = Activation(function=nn.relu), Activation(function=nn.tanh)
IMAGES, TOKENS = (3, 4, 4, 3), (3, 5, 6)


@jax.custom_vjp
def sign(x: Any) -> Any:
    """A sign whose derivative is that of the identity."""
    return jnp.sign(x)


sign.defvjp(lambda x: (sign(x), None), lambda _, g: (g,))


def control(v: Any, x: Any) -> Any:
    """A jit, a custom derivative, a cond, and a loop that uses a kernel several times."""
    h = jax.jit(lambda x: sign(x @ v["a"]))(x)
    h = lax.cond(h.sum() < 99, lambda h: h @ v["b"], lambda h: jnp.tanh(h) @ v["b"], h)
    h = lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ v["c"] + h), h)
    return h @ v["d"]


MATRICES = {
    name: RANDOM.normal(size=shape)
    for name, shape in {"a": (6, 8), "b": (8, 4), "c": (4, 4), "d": (4, 2)}.items()
}


class Case(NamedTuple):
    """A function, its variables and inputs, and {gated group: its number of in slots}."""

    fn: Any
    variables: Any
    x: Any
    gated: dict[str, int]


def case(module: nn.Module, shape: tuple[int, ...], gated: dict[str, int]) -> Case:
    x = RANDOM.normal(size=shape)
    return Case(module.apply, weights(module, 1, np.float32(x)), x, gated)


def images(*blocks: Any, gated: dict[str, int]) -> Case:
    return case(Network(blocks=blocks), IMAGES, gated)


CASES = {
    "residual": images(
        Conv(features=4), Norm(), RELU,
        Residual(body=(Conv(features=6), Norm(), RELU, Conv(features=5)), project=5), Flatten(),
        gated={"Conv_0/kernel": 2, "Conv_1/kernel": 1, "Conv_2/kernel": 1},
    ),
    "concatenation": images(
        Conv(features=4), Concatenate(body=(Conv(features=3), TANH)), RELU, Flatten(),
        gated={"Conv_0/kernel": 2, "Conv_1/kernel": 1},
    ),
    "depthwise and grouped": images(
        Conv(features=4), RELU, Depthwise(multiplier=2), TANH, Grouped(features=6), Flatten(),
        gated={"Conv_0/kernel[3.0]": 1, "Conv_0/kernel[3.1]": 1, "Conv_1/kernel[3.2]": 1,
               "Conv_2/kernel[3.1]": 1},
    ),
    "attention": case(
        AttentionBlock(heads=2), TOKENS,
        {"attend/out/kernel": 1, "attend/key/kernel[1]": 1, "attend/key/kernel[2]": 0,
         "attend/value/kernel[2]": 1},
    ),
    "remat in a scan": case(
        RematScanBlock(), TOKENS, {"Dense_0/kernel": 2, "ScanCheckpointMlp_0/Dense_1/kernel": 1}
    ),
    "control": Case(control, MATRICES, RANDOM.normal(size=(3, 6)), {"a": 1, "b": 2}),
}  # fmt: skip


def read_weights(group: jp.Group, variables: Any, gradients: Any) -> Any:
    """Returns f64[*layers, n]: the sum of w * dL/dw over the weights that read each channel."""
    found, w, dw = np.zeros(group.shape), flatten(variables)[0], flatten(gradients)[0]
    for slot in group.slots:
        if slot.role == "in":
            front = [axis for axis in (slot.layer, slot.axis) if axis is not None]
            along = np.moveaxis(w[slot.path] * np.asarray(dw[slot.path]), front, range(len(front)))
            sums = along.sum(axis=tuple(range(len(front), along.ndim)))
            found += sums[..., slot.positions].sum(axis=-1)
    return found


@pytest.mark.parametrize("name", CASES)
def test_gates(name: str) -> None:
    """Traced at one example, run at three: values to the bit, derivatives, masks."""
    fn, variables, x, gated = CASES[name]
    jit = jax.jit
    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, variables)
        graph = jp.trace(fn, variables, x[:1])
        apply = jp.gated(fn, graph)
        ones = {k: np.float64(gate) for k, gate in jp.gates.unit(graph).items()}
        counts = {k: sum(s.role == "in" for s in graph.groups[k].slots) for k in ones}
        assert counts == gated

        plain, with_gates = jit(fn), jit(apply)  # apart, and no constants: XLA fuses differently
        out = plain(variables, x)
        np.testing.assert_array_equal(with_gates(variables, ones, x), out)

        weight = np.cos(np.arange(out.size)).reshape(out.shape)
        slopes, (again, by_gate) = jit(
            lambda v, gates: (
                jax.grad(lambda v: jnp.vdot(weight, fn(v, x)))(v),
                jax.grad(lambda v, gates: jnp.vdot(weight, apply(v, gates, x)), (0, 1))(v, gates),
            )
        )(variables, ones)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), again, slopes)
        for group in (graph.groups[k] for k, count in counts.items() if count):
            expected = read_weights(group, variables, slopes)
            np.testing.assert_allclose(by_gate[group.name], expected, rtol=1e-9, atol=1e-12)

        step = {k: RANDOM.normal(size=gate.shape) for k, gate in ones.items()}
        ahead, behind = (
            with_gates(variables, {k: ones[k] + size * step[k] for k in ones}, x)
            for size in (1e-6, -1e-6)
        )
        slope = sum(np.vdot(step[k], by_gate[k]) for k in ones)
        np.testing.assert_allclose(np.vdot(weight, ahead - behind) / 2e-6, slope, rtol=1e-6)

        other = {k: ones[k] + step[k] for k in jp.scores.taylor(graph, variables, slopes)}
        folded = plain(jp.gates.fold(graph, variables, other), x)
        np.testing.assert_allclose(folded, with_gates(variables, ones | other, x), rtol=1e-9)

        summed = {"attend/out/kernel"} if name == "attention" else set()  # by a norm, ungated
        exact = [k for k in ones if graph.groups[k].inexact is None and k not in summed]
        keep = {
            k: np.broadcast_to(np.arange(ones[k].shape[-1]) % 3 != 1, ones[k].shape) for k in exact
        }
        assert exact
        silent = with_gates(variables, ones | {k: kept * 1.0 for k, kept in keep.items()}, x)
        masked = plain(jp.mask(graph, variables, keep), x)
        np.testing.assert_allclose(silent, masked, rtol=1e-9, atol=1e-12)


V = {name: np.float32(value) for name, value in MATRICES.items()}
X = RANDOM.normal(size=(3, 6)).astype(np.float32)


def half(v: Any, x: Any) -> Any:
    a, b, x = (jnp.asarray(value, jnp.bfloat16) for value in (v["a"], v["b"], x))
    layout = ("NWC", "WIO", "NWC")
    h = jnp.tanh(x @ a)[:, None]
    return lax.conv_general_dilated(h, b[None], (1,), "SAME", dimension_numbers=layout)


def test_half_precision_stays_half_precision() -> None:
    apply = jp.gated(half, jp.trace(half, V, X))
    gate = {"a": np.ones(8, np.float32)}
    out = half(V, X)
    assert apply(V, gate, X).dtype == out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(apply(V, gate, X), out)
    by_gate = jax.grad(lambda gates: apply(V, gates, X).astype(jnp.float32).sum())(gate)
    assert by_gate["a"].dtype == jnp.float32


def test_gates_inside_of_a_while() -> None:
    def fn(v: Any, x: Any) -> Any:
        def step(carry: Any) -> Any:
            return carry[0] + 1, jnp.tanh(carry[1] @ v["c"])

        return lax.while_loop(lambda carry: carry[0] < 2, step, (0, x @ v["b"]))[1] @ v["d"]

    x = RANDOM.normal(size=(3, 8)).astype(np.float32)
    graph = jp.trace(fn, V, x)
    gate = RANDOM.normal(size=4).astype(np.float32)
    h = x @ V["b"]
    for _ in range(2):
        h = np.tanh(h * gate @ V["c"])
    found = jp.gated(fn, graph)(V, {"b": gate}, x)
    np.testing.assert_allclose(found, h * gate @ V["d"], rtol=1e-4, atol=1e-6)
    assert jp.tap(fn, graph)(V, x)[1] == {}
    with pytest.raises(jp.errors.GateError) as caught:
        jp.tap(fn, graph, ["b", "c"])(V, x)
    assert str(caught.value).startswith(
        "these groups cannot have a tap:\ngroup 'c': the graph has no such group; it has ['b']..."
    )
    with pytest.raises(
        jp.errors.GateError,
        match=r"group 'b': its channels are summed inside of a while at .*test_gates.py.*, whose "
        r"number of steps is not known\nFix: leave them out; without groups= jp.tap hands out",
    ):
        jp.tap(fn, graph, ["b"])(V, x)


def test_the_gate_of_a_channel_follows_its_custom_derivative() -> None:
    """The sign keeps its derivative of one, so that what is behind it reaches what is before."""

    def fn(v: Any, x: Any) -> Any:
        return sign(jnp.tanh(x @ v["a"]) @ v["b"]) @ v["d"]

    apply = jp.gated(fn, jp.trace(fn, V, X))
    slope = jax.grad(lambda gates: apply(V, gates, X).sum())(jp.gates.unit(jp.trace(fn, V, X)))
    h = np.tanh(X @ V["a"])
    np.testing.assert_allclose(slope["a"], (h * (V["b"] @ V["d"].sum(1))).sum(0), rtol=1e-4)
    np.testing.assert_allclose(slope["b"], (np.sign(h @ V["b"]) * V["d"].sum(1)).sum(0), rtol=1e-4)


def test_each_set_of_shapes_is_traced_once_and_mapped() -> None:
    calls = []

    def fn(v: Any, x: Any) -> Any:
        calls.append(x.shape)
        return jnp.tanh(x @ v["a"]) @ v["b"]

    graph = jp.trace(fn, V, X)
    gates = RANDOM.normal(size=(3, 8)).astype(np.float32)
    apply = jp.gated(fn, graph)
    found = jax.vmap(lambda gate, x: apply(V, {"a": gate}, x[None])[0])(gates, X)
    np.testing.assert_allclose(found, np.tanh(X @ V["a"]) * gates @ V["b"], rtol=1e-4, atol=1e-5)
    for rows in (X[:1], X, X, X[:1]):
        apply(V, {}, rows)
    assert calls == [(3, 6), (1, 6), (3, 6)]


def pixels(v: Any, x: Any) -> Any:
    """Two channels on three pixels, flattened; the kernel is the first operand."""
    h = jnp.stack([jnp.tanh(x[:, i : i + 4] @ v["w"]) for i in range(3)], axis=1)
    return (v["head"].T @ h.reshape(len(x), -1).T).T


def test_taps_are_what_contractions_read() -> None:
    v = {
        "w": RANDOM.normal(size=(4, 2)).astype(np.float32),
        "head": RANDOM.normal(size=(6, 5)).astype(np.float32),
    }
    tapped = jax.jit(jp.tap(pixels, jp.trace(pixels, v, X[:1])))
    out, taps = tapped(v, X)
    np.testing.assert_allclose(out, pixels(v, X), rtol=1e-4, atol=1e-6)
    (found,) = taps["w"]
    expected = np.stack([np.tanh(X[:, i : i + 4] @ v["w"]) for i in range(3)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # [3, m=3, n=2]


def test_taps_of_a_scan_are_stacked_in_program_order() -> None:
    graph = jp.trace(control, V, X)
    out, taps = jp.tap(control, graph)(V, X)
    np.testing.assert_array_equal(out, control(V, X))
    h = [np.sign(X @ V["a"]) @ V["b"]]
    for _ in range(2):
        h.append(np.tanh(h[-1] @ V["c"] + h[-1]))
    assert list(taps) == ["b"]  # those of `a` are read in a cond
    loop, last = taps["b"]
    np.testing.assert_allclose(loop, h[:2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, h[2], rtol=1e-4, atol=1e-5)


def test_gates_that_cannot_be() -> None:
    layer = jax.custom_vjp(jnp.matmul)
    layer.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(jax.P(), jax.P()), out_specs=jax.P())

    def fn(v: Any, x: Any) -> Any:
        whole = jnp.round(x @ v["e"]).astype(jnp.int32) @ jnp.round(v["f"]).astype(jnp.int32)
        return (
            (x @ v["a"]).sum(-1, keepdims=True) + mapped(layer(x @ v["b"], v["c"]), v["d"]) + whole
        )

    shapes = {"a": (6, 3), "b": (6, 4), "c": (4, 5), "d": (5, 1), "e": (6, 2), "f": (2, 1)}
    v = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    graph = jp.trace(fn, v, X)
    assert jp.gates.unit(graph) == {}
    with pytest.raises(jp.errors.GateError) as caught:
        jp.gated(fn, graph)(v, {name: np.ones(g.size) for name, g in graph.groups.items()}, X)
    first, *lines, fix = [line.split(" at ")[0] for line in str(caught.value).splitlines()]
    assert first == "these groups cannot have a gate:"
    assert lines == [
        "group 'a': no contraction sums over its channels",
        "group 'b': its channels are summed inside of a custom_vjp_call",
        "group 'c': its channels are summed inside of a shard_map",
        "group 'e': its channels are int32 in dot_general([3, 2], [2, 1]) -> [3, 1]",
    ]
    assert fix == (
        "Fix: leave them out; jp.gates.unit(graph) has all groups that can carry a gate."
    )
    with pytest.raises(jp.errors.GateError) as caught:
        jp.gated(fn, graph)(v, {"a": np.ones(2), "z": np.ones(2)}, X)
    assert str(caught.value).splitlines()[1:3] == [
        "group 'a': its gate must be numbers of shape (3,), got float64[2]",
        "group 'z': the graph has no such group; it has ['a', 'b', 'c', 'e']...",
    ]
    with pytest.raises(jp.errors.TreeError, match=r"variables \['f'\] are missing.\nFix: pass all"):
        jp.gated(fn, graph)({name: w for name, w in v.items() if name != "f"}, {}, X)


NORMS = {
    "params": {
        "norm": {
            "scale": np.array([2.0, -0.5, 0.01, 0.0, 0.0], np.float32),
            "bias": np.array([3.0, 0.25, 1.0, 0.0, -2.0], np.float32),
        },
        "bare": {"scale": np.array([0.5, 3.0], np.float32)},
        "fixed": {"bias": np.array([4.0], np.float32)},
    },
    "batch_stats": {
        name: {"mean": np.zeros(n, np.float32), "var": np.ones(n, np.float32)}
        for name, n in (("norm", 5), ("bare", 2), ("fixed", 1))
    },
}


def test_decorated_halves_stay_halves() -> None:
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), NORMS)
    found = jp.gates.decorate(halves)
    assert {leaf.dtype for leaf in jax.tree.leaves(found[:2])} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("to", [lambda v: v, jnp.asarray], ids=["host", "device"])
def test_decorate_by_hand(to: Any) -> None:
    variables = jax.tree.map(to, NORMS)
    found = jp.gates.decorate(variables)
    assert jax.tree.structure(found.variables) == jax.tree.structure(variables)
    decorated, params = found.variables["params"], NORMS["params"]
    np.testing.assert_array_equal(decorated["norm"]["bias"], [1.5, -0.5, 10.0, 0.0, -10.0])
    np.testing.assert_array_equal(decorated["norm"]["scale"], params["norm"]["scale"])
    np.testing.assert_array_equal(decorated["fixed"]["bias"], [4.0])
    assert list(found.lost) == list(found.closed) == ["bare", "norm"]
    np.testing.assert_allclose(found.lost["norm"], [0.0, 0.0, 0.9, 0.0, -2.0], rtol=1e-6)
    np.testing.assert_array_equal(found.closed["norm"], [0, 0, 0, 1, 1])
    assert str(found) == ("norm: 2 of 5 channels lose bias to the clip (at most 2), 2 have scale 0")
    melted = jp.gates.melt(found.variables)["params"]
    lost = params["norm"]["bias"] - melted["norm"]["bias"]
    np.testing.assert_array_equal(lost, found.lost["norm"])
    np.testing.assert_array_equal(melted["bare"]["scale"], params["bare"]["scale"])
    with pytest.raises(jp.errors.GateError, match=r"limit must be .*, got inf.\nFix: limit=10.0."):
        jp.gates.decorate(variables, limit=np.inf)


def test_melt_is_the_network_of_phi_times_x_plus_b() -> None:
    """Also in the gradients: the inner gamma is one, and the Taylor score follows."""
    module = Network(blocks=(Conv(features=4), Norm(), RELU))
    variables = weights(module, 2, np.float32(CASES["residual"].x))
    decorated = jp.gates.decorate(variables).variables
    again = jp.gates.melt(decorated)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2**-23), again, variables)
    x, norm = RANDOM.normal(size=(7, 4)).astype(np.float32), nn.BatchNorm(use_running_average=False)
    tree = {"params": decorated["params"]["BatchNorm_0"]}

    def loss(params: Any) -> Any:
        gates = {"params": {"n": params}, "batch_stats": {"n": {"mean": 0.0, "var": 0.0}}}
        inside = jp.gates.melt(gates)["params"]["n"]
        stats = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
        out, _ = norm.apply({"params": inside, "batch_stats": stats}, x, mutable=["batch_stats"])
        return jnp.sin(out).sum()

    slopes = jax.jit(jax.grad(loss))(tree["params"])
    phi, b = tree["params"]["scale"], tree["params"]["bias"]
    hat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    back = np.cos(phi * (hat + b))
    np.testing.assert_allclose(slopes["scale"], (back * (hat + b)).sum(0), rtol=1e-3)
    np.testing.assert_allclose(slopes["bias"], (back * phi).sum(0), rtol=1e-3)


def test_nothing_to_decorate() -> None:
    for call in (jp.gates.decorate, jp.gates.melt):
        with pytest.raises(jp.errors.TreeError) as caught:
            call({"params": NORMS["params"]})
        assert str(caught.value) == (
            "no BatchNorm with a scale among the variables, so there is nothing to decorate.\n"
            "Fix: pass the whole variables, {'params': ..., 'batch_stats': ...}, and graph= where "
            "its names are not Flax's; for a network without BatchNorm use gates at the "
            "contractions, jp.gated(fn, graph)."
        )
