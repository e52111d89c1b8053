"""Penalties on the norms of channels: by hand, by loops over entries, and under every layout."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from blocks import Conv, GlobalPool, Norm, Residual
from chains import chain
from jaxprune.arguments import paths
from jaxprune.errors import JaxpruneError, PatternError, ScoreError, TreeError
from jaxprune.groups.interior import interior
from jaxprune.sparsify import (
    fold_batch_norm,
    group_lasso,
    growl,
    growl_prox,
    growl_weights,
    oicsr,
    structured,
)
from networks import FIXED, Network, images, weights

A, B = "layer_0/kernel", "layer_1/kernel"


def added(tx: Any, params: Any, **extra: Any) -> Any:
    """What a transform adds to gradients of zero."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(
        lambda zeros, params, extra: tx.update(zeros, tx.init(params), params, **extra)
    )
    return update(zeros, params, extra)[0]


def close(got: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), got, expected)


def kernels(*given: list[list[float]]) -> tuple[jp.ChannelGraph, dict[str, jax.Array]]:
    """A chain of matrix products without biases, and its graph."""
    params = {f"w{i}": jnp.array(kernel) for i, kernel in enumerate(given)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for kernel in params.values():
            x = x @ kernel
        return x

    x = jax.ShapeDtypeStruct((1, len(given[0])), jnp.float32)
    return jp.trace(apply, params, x), params


TWO_GROUPS = kernels([[3.0, 0.0]], [[4.0, 0.0], [0.0, 5.0]], [[3.0], [12.0]])
"""v_0 = (3, 4, 0) and v_1 = (0, 0, 5) between w0 and w1; (4, 0, 3) and (0, 5, 12) behind w1."""


def test_overlapping_groups_by_hand() -> None:
    graph, params = TWO_GROUPS
    got = added(oicsr(graph, 2.0), params)
    close(got["w0"], 2 * np.array([[3 / 5, 0]]))
    close(got["w1"], 2 * np.array([[4 / 5 + 4 / 5, 0], [0, 5 / 5 + 5 / 13]]))
    close(got["w2"], 2 * np.array([[3 / 5], [12 / 13]]))


def test_separated_forms_by_hand() -> None:
    graph, params = TWO_GROUPS
    filters = added(group_lasso(graph, 2.0), params)
    close(filters["w0"], [[2.0, 0]])
    close(filters["w1"], [[2.0, 0], [0, 2.0]])
    assert not np.any(filters["w2"])
    readers = added(group_lasso(graph, 1.0, roles=("in",)), params)
    close(readers, {"w0": np.zeros((1, 2)), "w1": np.eye(2), "w2": np.ones((2, 1))})


def test_patterns_choose_groups() -> None:
    graph, params = TWO_GROUPS
    first = added(oicsr(graph, 1.0, only=("w0",)), params)
    close(first["w1"], [[4 / 5, 0], [0, 1]])
    close(first, added(oicsr(graph, 1.0, protect=("w1",)), params))


def loops(
    graph: jp.ChannelGraph, variables: Any, roles: Collection[str], size_norm: bool
) -> tuple[float, dict[str, np.ndarray]]:
    """The penalty and its gradient, one channel and one slot at a time."""
    params = {
        path: np.asarray(leaf, np.float64) for path, leaf in paths.flatten(variables)[0].items()
    }
    gradient = {path: np.zeros_like(leaf) for path, leaf in params.items()}
    penalty = 0.0
    for group in graph.groups.values():
        slots = [slot for slot in group.slots if slot.role in roles]
        for channel in range(group.size):
            places = []
            for slot in slots:
                where: list[Any] = [np.s_[:]] * params[slot.path].ndim
                where[slot.axis] = slot.positions[channel]
                places.append((slot.path, tuple(where)))
            v = np.concatenate([params[path][where].ravel() for path, where in places])
            factor = v.size**0.5 if size_norm else 1.0
            penalty += factor * np.linalg.norm(v)
            for path, where in places:
                gradient[path][where] += factor * params[path][where] / np.linalg.norm(v)
    return penalty, gradient


@pytest.mark.parametrize(
    ("name", "size_norm"),
    [("grouped", True), ("depthwise", False), ("attention", True), ("identity-residual", False)],
)
def test_every_layout_against_loops_over_channels(name: str, size_norm: bool) -> None:
    module = Network(FIXED[name])
    variables = weights(module, 0)
    graph = jp.trace(module.apply, variables, images(0))
    got = added(oicsr(graph, 0.1, size_norm=size_norm), variables["params"])
    _, expected = loops(graph, variables, ("out", "in"), size_norm)
    named = paths.flatten({"params": got})[0]
    close(named, {path: 0.1 * expected[path] for path in named})
    assert all(not np.any(leaf) for path, leaf in named.items() if path.endswith("bias"))


def flat(params: Any, x: jax.Array) -> jax.Array:
    """A convolution of 2 x 2 pixels, flattened, and a matrix product."""
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).reshape(len(x), -1) @ params["dense"]


def flattened(dtype: Any = np.float32) -> tuple[jp.ChannelGraph, dict[str, jax.Array]]:
    random = np.random.default_rng(1)
    shapes = {"conv": (1, 1, 2, 3), "dense": (12, 2)}
    params = {name: jnp.asarray(random.normal(size=s), dtype) for name, s in shapes.items()}
    return jp.trace(flat, params, jax.ShapeDtypeStruct((1, 2, 2, 2), dtype)), params


def explicit(params: Any) -> jax.Array:
    """OICSR of `flat`, written out: channel c is read by the rows c, 3 + c, 6 + c and 9 + c."""
    conv, dense = params["conv"].reshape(2, 3), params["dense"].reshape(4, 3, 2)
    return jnp.sqrt((conv**2).sum(0) + (dense**2).sum((0, 2))).sum()


def test_a_flattened_channel_against_the_gradient_of_the_penalty() -> None:
    graph, params = flattened()
    expected = jax.jit(jax.grad(explicit))(params)
    close(added(oicsr(graph, 1.0), params), expected)
    eager, _ = (tx := oicsr(graph, 1.0)).update(params, tx.init(params), params)
    close(eager, jax.tree.map(jnp.add, params, expected))


def test_half_precision_has_norms_in_full_and_keeps_its_dtype() -> None:
    graph, params = flattened(jnp.bfloat16)
    got = added(oicsr(graph, 1.0), params)
    full = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), jax.grad(explicit)(full))
    assert {leaf.dtype for leaf in got.values()} == {jnp.dtype(jnp.bfloat16)}
    close(got, expected, rtol=2**-8)
    many = {"w0": jnp.full((1, 2), 0.0, jnp.bfloat16), "w1": jnp.ones((2, 1024), jnp.bfloat16)}
    wide = jp.trace(lambda p, x: x @ p["w0"] @ p["w1"], many, jnp.ones((1, 1), jnp.bfloat16))
    np.testing.assert_array_equal(added(oicsr(wide, 1.0), many)["w1"], 1 / 32)


def test_the_update_reads_each_kernel_once_for_each_slot_and_contracts_nothing() -> None:
    graph, params = TWO_GROUPS
    tx = oicsr(graph, 1.0)
    text = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    assert not [
        name for name in ("dot_general", "conv_", "sort", "while", "gather") if name in text
    ]
    assert text.count(" = square ") == sum(len(group.slots) for group in graph.groups.values())
    with pytest.raises(JaxpruneError, match=r"penalty gives f\[2\] for norms f\[2\], not a number"):
        (tx := structured(graph, lambda norms: norms)).update(params, tx.init(params), params)


def test_zero_channels_stay_zero() -> None:
    graph, params = flattened()
    keep = {"conv": np.array([True, False, True])}
    masked = jp.mask(graph, params, keep)
    got = added(oicsr(graph, 1.0), masked)
    assert all(np.isfinite(leaf).all() for leaf in got.values())
    close(jp.mask(graph, got, keep), got, rtol=0)
    whole = jax.tree.map(jnp.zeros_like, params)
    assert not any(np.any(leaf) for leaf in added(oicsr(graph, 1.0), whole).values())


def test_training_by_a_schedule_shrinks_out_and_in_together() -> None:
    graph, variables = chain(4, 5)
    tx = optax.chain(oicsr(graph, optax.piecewise_constant_schedule(0.1, {2: 0.0})), optax.sgd(1.0))
    params = jax.tree.map(jnp.asarray, variables)
    state, trail, calls = tx.init(params), [params], []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        calls.append(1)
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
        trail.append(params)
    energy = [jp.scores.channel_energy(graph, params) for params in trail]
    for name in (A, B):
        assert (np.diff([e[name] for e in energy[:3]], axis=0) < 0).all()
    jax.tree.map(np.testing.assert_array_equal, trail[2], trail[4])
    assert len(calls) == 1
    biases = [paths.flatten(tree)[0]["params/layer_0/bias"] for tree in trail]
    assert (biases[0] == biases[2]).all()


def test_structured_takes_any_penalty() -> None:
    graph, params = TWO_GROUPS
    plain = added(oicsr(graph, 0.3), params)
    close(added(structured(graph, lambda norms: 0.3 * norms.sum()), params), plain)
    ridge = added(structured(graph, lambda norms: (norms**2).sum() / 2, roles=("out",)), params)
    close(ridge, {"w0": params["w0"], "w1": params["w1"], "w2": np.zeros((2, 1))})


def test_growl_by_hand() -> None:
    graph, params = TWO_GROUPS  # norms of the filters: (3, 0) and (4, 5)
    penalty = growl(lambda n: growl_weights(n, base=1.0, step=0.5))
    got = added(structured(graph, penalty, strength=2.0, roles=("out",)), params)
    close(got, {"w0": [[3.0, 0.0]], "w1": [[2.0, 0.0], [0.0, 3.0]], "w2": np.zeros((2, 1))})
    close(growl_weights(4, base=0.5, step=1.0, ramp=0.5), [1.5, 0.5, 0.5, 0.5])
    close(growl_weights(3, base=2.0, step=0.0), [2.0, 2.0, 2.0])


def test_the_proximal_step_of_growl_minimizes_its_objective() -> None:
    random = np.random.default_rng(0)
    ordered = np.sort(random.uniform(0, 0.6, 6))[::-1]
    norms = random.uniform(0, 2, (8, 6)).astype(np.float32)
    got = np.asarray(jax.jit(jax.vmap(growl_prox, (0, None)))(norms, ordered), np.float64)

    def objective(s: np.ndarray) -> np.ndarray:
        return ((s - norms) ** 2).sum(-1) / 2 + np.sort(s, axis=-1)[..., ::-1] @ ordered

    others = np.maximum(got + random.normal(size=(4000, 8, 6)) * random.choice([0.3, 0.01], 6), 0)
    assert (objective(others) >= objective(got) - 1e-6).all()
    assert (objective(np.zeros_like(got)) > objective(got)).all()
    assert any(len(np.unique(row[row > 0].round(5))) < (row > 0).sum() for row in got)  # ties
    constant = growl_prox(jnp.asarray(norms[0]), jnp.full(6, 0.7))
    close(constant, np.maximum(norms[0] - 0.7, 0))


def folded(params: Any, var: np.ndarray, *, epsilon: float) -> jax.Array:
    """OICSR of a convolution with BatchNorm and a head, folded by hand."""
    factor = params["BatchNorm_0"]["scale"] / np.sqrt(var + epsilon)
    conv, head = params["Conv_0"]["kernel"] * factor[None, None, None], params["head"]["kernel"]
    return jnp.sqrt((conv**2).sum((0, 1, 2)) + (head**2).sum(1)).sum()


def test_folding_reaches_filters_and_scales() -> None:
    module = Network(FIXED["norm"])
    variables = weights(module, 0)
    graph = jp.trace(module.apply, variables, images(0))
    tx = optax.chain(oicsr(graph, 1.0, view=fold_batch_norm(graph, epsilon=0.1)), optax.scale(1.0))
    params, var = variables["params"], variables["batch_stats"]["BatchNorm_0"]["var"]
    expected = jax.jit(jax.grad(lambda params: folded(params, var, epsilon=0.1)))(params)
    close(added(tx, params, variables=variables), expected)
    with pytest.raises(JaxpruneError, match=r"fold_batch_norm: update needs the running .*\nFix: "):
        tx.update(params, tx.init(params), params)
    with pytest.raises(TreeError, match=r"(?s)fold_batch_norm: .*var.*no such leaf"):
        tx.update(params, tx.init(params), params, variables={"batch_stats": {}})
    with pytest.raises(TreeError, match=r"no group has exactly one kernel .*\nFix: leave view out"):
        fold_batch_norm(TWO_GROUPS[0])


def test_a_stream_of_several_kernels_is_not_folded() -> None:
    module = Network((Conv(features=4), Residual(body=(Conv(features=4),)), Norm(), GlobalPool()))
    graph = jp.trace(module.apply, weights(module, 0), images(0))
    with pytest.raises(TreeError, match=r"no group has exactly one kernel"):
        fold_batch_norm(graph)


SPECS = {"conv": jax.P(None, None, None, "model"), "dense": jax.P("data", "model")}


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_shardings_stay(kind: Any) -> None:
    mesh = jax.make_mesh(
        (2, 1), ("data", "model"), axis_types=(kind, kind), devices=jax.devices()[:2]
    )
    graph, params = flattened()
    put = {n: jax.device_put(x, jax.NamedSharding(mesh, SPECS[n])) for n, x in params.items()}
    got = added(oicsr(graph, 1.0), put)
    close(got, added(oicsr(graph, 1.0), params))
    assert all(got[n].sharding.is_equivalent_to(put[n].sharding, put[n].ndim) for n in put)


def test_channel_energy_is_what_oicsr_takes_the_root_of() -> None:
    graph, params = TWO_GROUPS
    close(jp.scores.channel_energy(graph, params), {"w0": [25, 25], "w1": [25, 169]})
    close(jp.scores.channel_energy(graph, params, roles=("in",)), {"w0": [16, 25], "w1": [9, 144]})
    module = Network(FIXED["grouped"])
    variables = weights(module, 0)
    traced = jp.trace(module.apply, variables, images(0))
    energy = jp.scores.channel_energy(traced, variables)
    penalty, _ = loops(traced, variables, ("out", "in"), size_norm=False)
    np.testing.assert_allclose(sum(np.sqrt(e).sum() for e in energy.values()), penalty, rtol=1e-5)
    close(jax.jit(lambda v: jp.scores.channel_energy(traced, v))(variables), energy)
    with pytest.raises(ScoreError, match=r"roles must be"):
        jp.scores.channel_energy(graph, params, roles="out")


def global_greedy(graph: jp.ChannelGraph, energy: Any, target: float, most: float) -> Any:
    """Algorithm 1: one channel at a time, the smallest energy of the network first."""
    keep = {name: np.ones(group.size, bool) for name, group in graph.groups.items()}
    order = sorted((float(e), name, c) for name in energy for c, e in enumerate(energy[name]))
    for _, name, channel in order:
        if jp.cost.macs(graph, keep) <= target * jp.cost.macs(graph):
            break
        if (~keep[name]).sum() + 1 <= most * keep[name].size:
            keep[name][channel] = False
    return keep


@pytest.mark.parametrize("target", [0.9, 0.55, 0.4])
def test_a_budget_is_the_greedy_algorithm_of_the_paper(target: float) -> None:
    graph, variables = chain(16, 12, 9)
    energy = jp.scores.channel_energy(graph, variables)
    got = jp.select.budget(graph, energy, keep_macs=target, max_prune_ratio=0.5)
    expected = global_greedy(graph, energy, target, 0.5)
    assert {n: k.tolist() for n, k in got.items()} == {n: k.tolist() for n, k in expected.items()}
    assert jp.cost.macs(graph, got) <= target * jp.cost.macs(graph)


def test_interior_groups_of_a_resnet_are_those_inside_its_blocks() -> None:
    pytest.importorskip("tyro")
    from experiments.models.resnet import ResNet

    module, x = ResNet(20), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
    graph = jp.trace(lambda v, x: module.apply(v, x, train=False), variables, x)
    inside = interior(graph)
    assert inside == tuple(sorted(f"Block_{i}/Conv_0/kernel" for i in range(9)))
    assert [graph.groups[name].size for name in inside] == [16] * 3 + [32] * 3 + [64] * 3
    assert len(graph.groups) == 12  # and one stream for each stage
    energy = {name: np.arange(g.size) / g.size for name, g in graph.groups.items()}
    keep = jp.select.budget(graph, energy, keep_macs=0.7, max_prune_ratio=0.5, only=inside)
    assert all(keep[name].all() == (name not in inside) for name in keep)


def test_a_network_without_interior_groups_is_an_error() -> None:
    params = {"a": np.ones((2, 4)), "b": np.ones((4, 3)), "c": np.ones((4, 3))}
    graph = jp.trace(lambda p, x: (y := x @ p["a"]) @ p["b"] + y @ p["c"], params, np.ones((1, 2)))
    with pytest.raises(PatternError, match=r"interior: none of 1 groups is made .*\nFix: name the"):
        interior(graph)


def test_bad_arguments_are_errors() -> None:
    graph, _ = TWO_GROUPS
    for strength in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(JaxpruneError, match=r"oicsr: strength must be .* got .*\nFix: start"):
            oicsr(graph, strength)
    with pytest.raises(PatternError, match=r"only pattern 'conv\*' matches none of 2 .*\nFix: "):
        oicsr(graph, 0.1, only=("conv*",))
    with pytest.raises(PatternError, match=r"protect pattern 'x' matches none of 2 .*\nFix: "):
        oicsr(graph, 0.1, protect=("x",))
    with pytest.raises(PatternError, match=r"leave no group to penalize.\nFix: the groups .*w0"):
        oicsr(graph, 0.1, only=("w0",), protect=("*",))
    for roles in (("vector",), "out", ()):
        with pytest.raises(JaxpruneError, match=r"roles must be a collection .*\nFix: roles="):
            group_lasso(graph, 0.1, roles=roles)
    with pytest.raises(JaxpruneError, match=r"growl_weights: base must be finite .*\nFix: base="):
        growl_weights(4, base=-1.0, step=0.1)
    with pytest.raises(
        JaxpruneError, match=r"growl_weights: ramp must be in \[0, 1\], got 2.0.\nFix"
    ):
        growl_weights(4, base=1.0, step=0.1, ramp=2.0)


def test_another_network_is_an_error() -> None:
    graph, params = TWO_GROUPS
    tx = group_lasso(graph, 0.1)
    with pytest.raises(TreeError) as caught:
        tx.init({"w0": params["w0"][:, :1], "w2": params["w2"]})
    assert str(caught.value) == (
        "group_lasso: the parameters do not mirror the graph.\n"
        "w0: the graph has shape (1, 2), the parameters have (1, 1)\n"
        "w1: the graph has shape (2, 2), the parameters have no such leaf\n"
        "Fix: pass the parameters of the variables that were traced; after slicing, trace the "
        "small network and build the optimizer anew."
    )
    with pytest.raises(JaxpruneError, match=r"structured: update needs the parameters.*\nFix: tx"):
        (tx := structured(graph, jnp.sum)).update(params, tx.init(params))
