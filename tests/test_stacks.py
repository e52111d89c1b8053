"""Stacked layers: every layer keeps its own channels, all of them the same number."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.cutting import entries

LAYERS, WIDTH, HIDDEN = 3, 4, 6
X = jax.random.normal(jax.random.key(9), (2, 5))


def block(y, w):
    return y + jnp.tanh(y @ w["up"] + w["bias"][None]) @ w["down"]


def chain(v, x):
    """A stream of `WIDTH` through stacked blocks."""
    y, _ = jax.lax.scan(lambda y, w: (block(y, w), None), x @ v["embed"], v["blocks"])
    return y @ v["head"]


def variables(**extra: tuple[int, ...]) -> dict[str, Any]:
    shapes: dict[str, Any] = {
        "embed": (5, WIDTH),
        "blocks": {
            "up": (LAYERS, WIDTH, HIDDEN),
            "bias": (LAYERS, HIDDEN),
            "down": (LAYERS, HIDDEN, WIDTH),
        },
        "head": (WIDTH, 2),
    } | extra
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return jax.tree.unflatten(treedef, [jax.random.normal(k, s) for k, s in pairs])


def random_keep(graph, seed=0, share=0.5):
    """Other channels in every layer, never a prefix alone."""
    rng = np.random.default_rng(seed)
    keep = {}
    for name, group in graph.groups.items():
        order = rng.permuted(np.broadcast_to(np.arange(group.size), group.shape), axis=-1)
        keep[name] = order < max(1, int(share * group.size))
    return keep


def check(fn, v, x, keep, graph):
    """mask == narrow == fn of the slice == gates, values and gradients."""
    small = jp.slice(graph, v, keep)

    def loss(run):
        return jax.jit(jax.value_and_grad(lambda v: jnp.cos(run(v, x)).sum()))

    wanted, gradient = loss(lambda v, x: fn(jp.mask(graph, v, keep), x))(v)
    for run in (jp.narrow(fn, graph, keep), fn):
        found, small_gradient = loss(run)(small)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        theirs = jp.slice(graph, gradient, keep)
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, small_gradient, theirs)
    restored = jp.unslice(graph, small, keep)
    masked_v = jp.mask(graph, v, keep)
    jax.tree.map(np.testing.assert_array_equal, restored, masked_v)
    assert jp.cost.macs(graph, jp.widths(graph, keep)) == jp.cost.macs(jp.trace(fn, small, x))


def test_layers_of_a_scan_keep_their_own_channels():
    v = variables()
    graph = jp.trace(chain, v, X)
    assert {name: group.shape for name, group in graph.groups.items()} == {
        "blocks/up": (LAYERS, HIDDEN),
        "blocks/down": (WIDTH,),
    }
    keep = random_keep(graph)
    assert len({tuple(row) for row in keep["blocks/up"]}) > 1
    check(chain, v, X, keep, graph)


def test_one_mask_serves_all_layers():
    v = variables()
    graph = jp.trace(chain, v, X)
    keep = {"blocks/up": np.arange(HIDDEN) % 2 == 0}
    check(chain, v, X, keep, graph)
    each = {"blocks/up": np.tile(keep["blocks/up"], (LAYERS, 1))}
    small = [jp.slice(graph, v, k) for k in (keep, each)]
    jax.tree.map(np.testing.assert_array_equal, *small)


@pytest.mark.parametrize("place", ["device", "traced", "host"])
def test_layers_are_cut_where_they_live(place):
    v = variables()
    graph = jp.trace(chain, v, X)
    keep = random_keep(graph)
    cut = partial(jp.slice, graph, keep=keep)
    given = jax.device_get(v) if place == "host" else v
    found = jax.jit(cut)(given) if place == "traced" else cut(given)
    for layer in range(LAYERS):
        kept = keep["blocks/up"][layer]
        wanted = np.asarray(v["blocks"]["up"])[layer][keep["blocks/down"]][:, kept]
        np.testing.assert_array_equal(found["blocks"]["up"][layer], wanted)


@pytest.mark.parametrize(("axis", "layer"), [(2, 0), (0, 2), (3, 1), (1, 3), (0, 3)])
def test_layers_of_an_array_of_four_axes_are_cut_alike_on_host_and_device(axis, layer):
    leaf = np.arange(3 * 4 * 5 * 6).reshape(3, 4, 5, 6)
    index = np.stack(
        [np.roll(np.arange(leaf.shape[axis]), i)[:2] for i in range(leaf.shape[layer])]
    )
    places = [None] * 4, [None] * 4
    places[0][axis], places[1][axis] = index, layer
    cut = entries.Cut(*map(tuple, places), (None,) * 4)
    expected = np.stack(
        [
            np.moveaxis(
                np.moveaxis(leaf, (layer, axis), (0, 1))[i][index[i]], 0, axis - (layer < axis)
            )
            for i in range(leaf.shape[layer])
        ],
        axis=layer,
    )
    for given in (leaf, jnp.asarray(leaf)):
        np.testing.assert_array_equal(entries.take({"": given}, {"": cut})[""], expected)
    found = jax.jit(lambda x: entries.take({"": x}, {"": cut})[""])(leaf)
    np.testing.assert_array_equal(found, expected)


def test_a_layer_axis_behind_the_channels():
    v = {"up": jnp.ones((WIDTH, HIDDEN, LAYERS)), "down": jnp.ones((HIDDEN, LAYERS, WIDTH))}
    v = jax.tree.map(lambda x: x + jnp.sin(jnp.arange(x.size)).reshape(x.shape), v)

    def fn(v, x):
        def step(y, w):
            return y + jnp.tanh(y @ w[0]) @ w[1], None

        stacked = (jnp.moveaxis(v["up"], -1, 0), v["down"].transpose(1, 0, 2))
        return jax.lax.scan(step, x, stacked)[0]

    x = X[:, :WIDTH]
    graph = jp.trace(fn, v, x)
    assert {name: group.shape for name, group in graph.groups.items()} == {"up": (LAYERS, HIDDEN)}
    check(fn, v, x, random_keep(graph), graph)


def read_twice(v, x):
    return chain(v, x) + chain({**v, "blocks": jax.tree.map(jnp.flip, v["blocks"])}, x)


def read_again(v, x):
    """The same layers under two scans, which nothing says to go in step."""
    return chain(v, x) + chain(v, 2 * x)


def summed_layers(v, x):
    """One array joins the channels of all layers."""
    return chain(v, x) + (v["blocks"]["bias"].sum(0) @ v["reader"])[None]


def running_layers(v, x):
    """Every layer reads those before it."""
    bias = jnp.cumsum(v["blocks"]["bias"], axis=0)
    return chain({**v, "blocks": v["blocks"] | {"bias": bias}}, x)


def rolled_layers(v, x):
    bias = jnp.roll(v["blocks"]["bias"], 1, axis=0)
    return chain({**v, "blocks": v["blocks"] | {"bias": bias}}, x)


def shared_kernel(v, x):
    """All layers read one kernel."""

    def step(y, w):
        return block(y, w) + jnp.tanh(y @ w["up"]) @ v["shared"], None

    y, _ = jax.lax.scan(step, x @ v["embed"], v["blocks"])
    return y @ v["head"]


def carried_channels(v, x):
    """The hidden channels go from layer to layer."""

    def step(carry, w):
        y, hidden = carry
        hidden = hidden + jnp.tanh(y @ w["up"] + w["bias"][None])
        return (y + hidden @ w["down"], hidden), None

    start = (x @ v["embed"], jnp.zeros((x.shape[0], HIDDEN)))
    (y, _), _ = jax.lax.scan(step, start, v["blocks"])
    return y @ v["head"]


@pytest.mark.parametrize(
    ("fn", "extra"),
    [
        (summed_layers, {"reader": (HIDDEN, 2)}),
        (running_layers, {}),
        (rolled_layers, {}),
        (read_again, {}),
        (shared_kernel, {"shared": (HIDDEN, WIDTH)}),
        (carried_channels, {}),
    ],
)
def test_what_joins_layers_makes_one_group_of_them(fn, extra):
    v = variables(**extra)
    graph = jp.trace(fn, v, X)
    assert graph.groups["blocks/up"].shape == (HIDDEN,)
    keep = random_keep(graph)
    small = jp.slice(graph, v, keep)
    masked = fn(jp.mask(graph, v, keep), X)
    np.testing.assert_allclose(jp.narrow(fn, graph, keep)(small, X), masked, rtol=1e-5, atol=1e-5)
    with pytest.raises(jp.errors.KeepError, match=r"the group has 6 channels\. Fix"):
        jp.slice(graph, v, {"blocks/up": np.ones((LAYERS, HIDDEN), bool)})


def test_layers_in_another_order_freeze_or_share():
    v = variables()
    graph = jp.trace(read_twice, v, X)
    assert all(group.layers is None for group in graph.groups.values())


def ensemble(v, x):
    """Members side by side under `vmap`, joined by their mean."""

    def member(w):
        return jnp.tanh(x @ w["up"] + w["bias"][None]) @ w["down"]

    return jax.vmap(member)(v["members"]).mean(0)


def test_named_layers_of_vmapped_blocks():
    v = {"members": variables()["blocks"]}
    x = X[:, :WIDTH]
    plain = jp.trace(ensemble, v, x)
    assert plain.groups["members/up[2]"].layers is None
    graph = jp.trace(ensemble, v, x, layers={"members/*": 0})
    assert {name: group.shape for name, group in graph.groups.items()} == {
        "members/up": (LAYERS, HIDDEN)
    }
    keep = random_keep(graph)
    check(ensemble, v, x, keep, graph)
    gates = {name: kept.astype(np.float32) for name, kept in keep.items()}
    masked = ensemble(jp.mask(graph, v, keep), x)
    np.testing.assert_allclose(jp.gated(ensemble, graph)(v, gates, x), masked, rtol=1e-5)


def test_layers_need_a_variable_and_an_axis():
    v = variables()
    with pytest.raises(jp.errors.PatternError, match="layers pattern 'members/\\*' matches none"):
        jp.trace(chain, v, X, layers={"members/*": 0})
    with pytest.raises(jp.errors.TraceError, match=r"layers names axis 3 of 'blocks/up'.*3 axes"):
        jp.trace(chain, v, X, layers={"blocks/up": 3})


def test_gates_of_every_layer():
    v = variables()
    graph = jp.trace(chain, v, X)
    gated = jp.gated(chain, graph)
    units = jp.gates.unit(graph)
    assert {name: gate.shape for name, gate in units.items()} == {
        "blocks/up": (LAYERS, HIDDEN),
        "blocks/down": (WIDTH,),
    }
    np.testing.assert_array_equal(gated(v, units, X), chain(v, X))
    keep = random_keep(graph)
    closed = {name: kept.astype(np.float32) for name, kept in keep.items()}
    masked = chain(jp.mask(graph, v, keep), X)
    np.testing.assert_allclose(gated(v, closed, X), masked, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda gates: (gated(v, gates, X) ** 2).sum())(units)
    gradients = jax.grad(lambda v: (chain(v, X) ** 2).sum())(v)
    for name, score in jp.scores.taylor(graph, v, gradients).items():
        np.testing.assert_allclose(score, np.abs(slopes[name]), rtol=1e-4, atol=1e-4)


def test_activations_of_every_layer():
    graph = jp.trace(chain, variables(), X)
    _, taps = jp.tap(chain, graph, ["blocks/up"])(variables(), X)
    assert taps["blocks/up"][0].shape == (LAYERS, 2, HIDDEN)


def test_scores_are_those_of_every_layer_alone():
    v = variables()
    graph = jp.trace(chain, v, X)
    for score in (jp.scores.l1, jp.scores.l2, jp.scores.channel_energy):
        found = score(graph, v)["blocks/up"]
        assert found.shape == (LAYERS, HIDDEN)
        for layer in range(LAYERS):
            alone = {**v, "blocks": jax.tree.map(lambda x, i=layer: x[i : i + 1], v["blocks"])}
            one = jp.trace(chain, alone, X)
            np.testing.assert_allclose(score(one, alone)["blocks/up"].reshape(-1), found[layer])
    assert jp.scores.random(graph, jax.random.key(0))["blocks/up"].shape == (LAYERS, HIDDEN)


def test_selection_by_hand():
    graph = jp.trace(chain, variables(), X)
    scores = {"blocks/up": np.array([[1, 2, 3, 4, 5, 6], [12, 10, 8, 6, 4, 2], [3, 3, 3, 3, 3, 9]])}
    # Ascending in every layer: 1 2 3, 2 4 3, 3 6 3, 4 8 3, 5 10 3, 6 12 9; the means: 2 3 4 5 6 9.
    keep = jp.select.threshold(graph, scores, threshold=3)["blocks/up"]
    assert keep.sum(-1).tolist() == [5, 5, 5]  # 4 in the second layer is above the threshold
    keep = jp.select.global_ratio(graph, scores, prune_ratio=0.5)["blocks/up"]
    np.testing.assert_array_equal(
        keep, np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
    )
    scores["blocks/down"] = np.array([2.5, 2.6, 7, 8])
    keep = jp.select.global_ratio(graph, scores, prune_ratio=5 / 22)  # 3 in the stack, 2 beside it
    assert jp.widths(graph, keep) == {"blocks/up": 5, "blocks/down": 2}
    again = jp.select.per_group(graph, scores, prune_ratio=0.5, within=keep)
    assert jp.widths(graph, again) == {"blocks/up": 3, "blocks/down": 1}
    assert not (again["blocks/up"] & ~keep["blocks/up"]).any()


def test_unequal_layers_are_refused():
    v = variables()
    graph = jp.trace(chain, v, X)
    keep = random_keep(graph)
    keep["blocks/up"][1, :] = True
    with pytest.raises(jp.errors.KeepError) as caught:
        jp.slice(graph, v, keep)
    assert "group 'blocks/up' keeps 3 to 6 channels, but its 3 layers" in str(caught.value)
    with pytest.raises(jp.errors.KeepError, match="6 channels in each of 3 layers"):
        jp.slice(graph, v, {"blocks/up": np.ones((2, HIDDEN), bool)})
    with pytest.raises(jp.errors.ScoreError, match="6 channels in each of 3 layers"):
        jp.select.global_ratio(graph, {"blocks/up": np.ones((2, HIDDEN))}, prune_ratio=0.5)


def test_spec_checkpoint_and_composition(tmp_path):
    v = variables()
    graph = jp.trace(chain, v, X)
    first = random_keep(graph, share=0.7)
    small = jp.slice(graph, v, first)
    jp.save(tmp_path / "pruned", small, jp.spec(graph, first))
    restored = jp.restore(tmp_path / "pruned")
    jax.tree.map(np.testing.assert_array_equal, jp.keep_from_spec(restored.spec), first)
    graph2 = jp.trace(chain, restored.variables, X)
    second = random_keep(graph2, seed=1)
    both = jp.slice(graph, v, jp.compose(first, second))
    jax.tree.map(np.testing.assert_array_equal, both, jp.slice(graph2, small, second))


def test_masks_may_be_traced_and_moments_are_cut():
    v = variables()
    graph = jp.trace(chain, v, X)
    keep = random_keep(graph)
    masked = jax.jit(lambda v, keep: jp.mask(graph, v, keep))(v, keep)
    jax.tree.map(np.testing.assert_array_equal, masked, jp.mask(graph, v, keep))
    tx = optax.adam(1e-3)
    state = tx.update(v, tx.init(v), v)[1]
    small = jp.slice_opt_state(graph, state, keep, tx=tx, params=v)
    jax.tree.map(np.testing.assert_array_equal, small[0].mu, jp.slice(graph, state[0].mu, keep))


def updated(tx, gradients, v):
    return jax.jit(lambda g, v: tx.update(g, tx.init(v), v)[0])(gradients, v)


def test_penalties_take_every_layer_by_itself():
    v = variables()
    graph = jp.trace(chain, v, X)
    zeros = jax.tree.map(jnp.zeros_like, v)
    tx = jp.sparsify.oicsr(graph, 0.1)
    found = updated(tx, zeros, v)["blocks"]
    for layer in range(LAYERS):
        alone = {**v, "blocks": jax.tree.map(lambda x, i=layer: x[i : i + 1], v["blocks"])}
        one = jp.trace(chain, alone, X)
        tx = jp.sparsify.oicsr(one, 0.1, only=["blocks/up"])
        wanted = updated(tx, jax.tree.map(jnp.zeros_like, alone), alone)["blocks"]
        everything = jp.sparsify.oicsr(graph, 0.1, only=["blocks/up"])
        inside = updated(everything, zeros, v)["blocks"]
        for name in ("up", "down"):
            np.testing.assert_allclose(inside[name][layer], wanted[name][0], rtol=1e-5)
    assert not np.allclose(found["up"], 0)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_layers_on_a_mesh_are_cut_there(kind):
    v = variables()
    graph = jp.trace(chain, v, X)
    keep = random_keep(graph, share=0.7)
    mesh = jax.make_mesh((2,), ("model",), axis_types=(kind,))
    specs = {"up": (None, None, "model"), "bias": (None, "model"), "down": (None, "model", None)}
    blocks = {
        name: jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*specs[name])))
        for name, leaf in v["blocks"].items()
    }
    with jax.set_mesh(mesh):
        small = jp.slice(graph, {**v, "blocks": blocks}, keep)
        again = jp.unslice(graph, small, keep)
    jax.tree.map(np.testing.assert_array_equal, small, jp.slice(graph, v, keep))
    jax.tree.map(np.testing.assert_array_equal, again, jp.mask(graph, v, keep))
    for name, leaf in small["blocks"].items():
        assert leaf.sharding.is_equivalent_to(blocks[name].sharding, leaf.ndim), name
