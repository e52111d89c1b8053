"""What a channel group is to its network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import Kind
from zoo.sequences import StateSpace


class Block(nn.Module):
    """Attention, a multilayer perceptron and BatchNorm on a residual stream."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(12, name="stem")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=24, name="mix")(x)
        x = x + nn.Dense(12, name="down")(nn.relu(nn.Dense(20, name="up")(x)))
        return nn.Dense(3, name="head")(x)


def graph_of_block():
    x = jnp.ones((1, 5, 6))
    shapes = jax.eval_shape(Block().init, jax.random.key(0), x)
    return jp.trace(Block().apply, shapes, x)


def test_a_transformer_has_every_kind():
    graph = graph_of_block()
    found = {kind: graph.groups[name].size for name, kind in jp.kinds(graph).items()}
    assert found == {
        Kind.HEADS: 4,
        Kind.QUERY_KEY: 6,
        Kind.VALUE: 6,
        Kind.STREAM: 12,
        Kind.HIDDEN: 20,
    }


def kinds_by_size(fn, v, *inputs):
    """Returns the kinds of the groups of a function, by their size, and checks what reports say."""
    graph = jp.trace(fn, v, *inputs)
    found = jp.kinds(graph)
    for name, kind in found.items():
        (line,) = (line for line in str(graph).splitlines() if line.startswith(f"{name} "))
        assert f"  {kind.value} " in line
        assert f"group {name}: {graph.groups[name].size} channels ({kind.value}), " in (
            jp.explain(graph)
        )
    return {graph.groups[name].size: kind for name, kind in found.items()}


def halves(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def turned(x, cos, sin):
    a, b = jnp.split(x, 2, axis=-1)
    both = (jnp.concatenate([c, c], axis=-1) for c in (cos, sin))
    turned = jnp.concatenate([-b, a], axis=-1)
    one, other = both
    return x * one + turned * other


def pairs(x, cos, sin):
    a, b = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 0)
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


@pytest.mark.parametrize("rotate", [halves, turned, pairs])
@pytest.mark.parametrize("positions", ["input", "constant"])
def test_heads_behind_a_rotary_embedding_are_heads(rotate, positions):
    sizes = {"q": (8, 4, 10), "k": (8, 4, 10), "v": (8, 4, 6), "o": (4, 6, 8), "end": (8, 3)}
    v = {name: jnp.ones(shape) for name, shape in sizes.items()} | {"f": jnp.ones(5)}

    def fn(v, x, at):
        q, k, u = (jnp.einsum("btc,chd->bthd", x, v[name]) for name in "qkv")
        angles = (at[..., None] * v["f"][None, None])[:, :, None]
        turn = jnp.cos(angles), jnp.sin(angles)
        weights = jnp.einsum("bqhd,bkhd->bhqk", rotate(q, *turn), rotate(k, *turn))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(weights), u)
        return jnp.einsum("bqhd,hdc->bqc", mixed, v["o"]) @ v["end"]

    x, at = jnp.ones((1, 7, 8)), jnp.ones((1, 7))
    call = fn if positions == "input" else lambda v, x, _: fn(v, x, at)
    found = kinds_by_size(call, v, x, at)
    assert found == {4: Kind.HEADS, 5: Kind.QUERY_KEY, 6: Kind.VALUE, 8: Kind.HIDDEN}


def test_heads_with_a_bias_of_each_are_heads():
    sizes = {"q": (8, 4, 5), "k": (8, 4, 5), "v": (8, 4, 6), "o": (4, 6, 9), "end": (9, 3)}
    v = {name: jnp.ones(shape) for name, shape in sizes.items()} | {"bias": jnp.ones((11, 4))}

    def fn(v, x, distance):
        q, k, u = (jnp.einsum("btc,chd->bthd", x, v[name]) for name in "qkv")
        bias = jnp.moveaxis(v["bias"][distance], -1, 0)[None]
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, u)
        return jnp.einsum("bqhd,hdc->bqc", mixed, v["o"]) @ v["end"]

    found = kinds_by_size(fn, v, jnp.ones((1, 7, 8)), jnp.zeros((7, 7), int))
    assert found == {4: Kind.HEADS, 5: Kind.QUERY_KEY, 6: Kind.VALUE, 9: Kind.HIDDEN}


def gated(v, h):
    return h + jax.nn.sigmoid(h @ v["gate"]) * jnp.tanh(h @ v["back"])


def in_a_scan(v, h):
    return jax.lax.scan(lambda h, _: (h + jnp.tanh(h @ v["back"]), None), h, None, length=3)[0]


def subtracted(v, h):
    return h - jnp.tanh(h @ v["back"])


def far(v, h):
    return jnp.tanh(h) * 2 + jnp.tanh(jax.nn.sigmoid(h) @ v["gate"] @ v["back"])[:, ::1]


@pytest.mark.parametrize("block", [gated, in_a_scan, subtracted, far])
def test_a_residual_width_is_a_stream(block):
    sizes = {"stem": (6, 12), "gate": (12, 12), "back": (12, 12), "end": (12, 3)}
    if block is far:
        sizes |= {"gate": (12, 20), "back": (20, 12)}
    v = {name: jnp.ones(shape) for name, shape in sizes.items()}
    found = kinds_by_size(lambda v, x: block(v, x @ v["stem"]) @ v["end"], v, jnp.ones((2, 6)))
    assert found[12] is Kind.STREAM


def on_itself(v, h):
    return h + jnp.tanh(h) * v["scale"][None]


def two_gates(v, h):
    z = jax.nn.sigmoid(h @ v["other"])
    return z * jnp.tanh(h @ v["back"]) + (1 - z) * jnp.tanh(h @ v["gate"])


@pytest.mark.parametrize("block", [on_itself, two_gates])
def test_sums_that_are_no_residual_are_hidden(block):
    names = {"stem": (6, 12), "gate": (12, 10), "other": (12, 10), "back": (12, 10)}
    end = (12, 3) if block is on_itself else (10, 3)
    shapes = names | {"end": end, "scale": (12,)}
    v = {name: jnp.ones(shape) for name, shape in shapes.items()}
    graph = jp.trace(lambda v, x: block(v, x @ v["stem"]) @ v["end"], v, jnp.ones((2, 6)))
    assert {*jp.kinds(graph).values()} == {Kind.HIDDEN}


@pytest.mark.parametrize("associative", [False, True])
def test_the_inner_width_of_a_state_space_is_not_a_stream(associative):
    module = StateSpace(associative=associative)
    x = jnp.ones((1, 5, 6))
    graph = jp.trace(module.apply, jax.eval_shape(module.init, jax.random.key(0), x), x)
    found = {name: kind for name, kind in jp.kinds(graph).items() if kind is Kind.STREAM}
    assert [*found] == ["embed/kernel"]
    assert jp.kinds(graph)["conv/kernel"] is Kind.VALUE


def test_a_selection_touches_the_kinds_that_it_is_told():
    graph = graph_of_block()
    scores = {name: np.arange(group.size) for name, group in graph.groups.items()}
    names = jp.of_kind(graph, Kind.HEADS, Kind.HIDDEN)
    keep = jp.select.per_group(graph, scores, prune_ratio=0.5, only=names)
    cut = {graph.groups[name].size: int(kept.sum()) for name, kept in keep.items() if name in names}
    assert cut == {4: 2, 20: 10}
    assert all(kept.all() for name, kept in keep.items() if name not in names)
    whole = jp.select.per_group(graph, scores, prune_ratio=0.5, protect=names)
    assert all(whole[name].all() for name in names)
    both = jp.select.per_group(graph, scores, prune_ratio=0.5, only=[Kind.HEADS, "up/*"])
    np.testing.assert_equal(both, keep)
    rest = jp.select.per_group(graph, scores, prune_ratio=0.5, protect=[Kind.HEADS, Kind.HIDDEN])
    np.testing.assert_equal(rest, whole)


def test_a_chain_has_hidden_groups_alone():
    v = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 3))}
    graph = jp.trace(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"], v, jnp.ones((1, 2)))
    assert jp.kinds(graph) == {"a": Kind.HIDDEN}
    with pytest.raises(jp.errors.PatternError, match=r"1 groups is of kind \['HEADS'\]"):
        jp.of_kind(graph, Kind.HEADS)
    scores = jp.scores.l2(graph, v)
    with pytest.raises(jp.errors.PatternError, match=r"of kind \['HEADS'\](.|\n)*Fix:"):
        jp.select.per_group(graph, scores, prune_ratio=0.5, only=[Kind.HEADS])


def test_kinds_patterns_and_names_are_taken_by_every_function():
    """`only` and `protect` mean the same groups in every package."""
    graph = graph_of_block()
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), graph.abstract)
    zeros = jax.tree.map(np.zeros_like, params)
    (heads,) = jp.of_kind(graph, Kind.HEADS)
    hidden = [name for name in graph.groups if name.startswith("up/")]

    def moved(tx):
        updates = jax.jit(lambda zeros, params: tx.update(zeros, tx.init(params), params)[0])
        found = jax.tree_util.tree_leaves_with_path(jax.device_get(updates(zeros, params)))
        return {jax.tree_util.keystr(path) for path, leaf in found if np.abs(leaf).max() > 0}

    for penalty in (
        lambda **k: jp.sparsify.oicsr(graph, 1.0, **k),
        lambda **k: jp.sparsify.group_lasso(graph, 1.0, **k),
        lambda **k: jp.sparsify.proximal_structured(
            graph, lambda n, t: jnp.maximum(n - t, 0), learning_rate=1.0, **k
        ),
    ):
        assert moved(penalty(only=Kind.HEADS)) == moved(penalty(only=[heads])) != set()
        assert moved(penalty(only=[Kind.HEADS, "up/*"])) == moved(penalty(only=[heads, *hidden]))
        others = [name for name in graph.groups if name != heads]
        assert moved(penalty(protect=[Kind.HEADS])) == moved(penalty(only=others))
        with pytest.raises(jp.errors.PatternError, match=r"leave no group to penalize"):
            penalty(only=[])
    for keep in (
        jp.slimmable.prefix(graph, 0.5, divisor=1, protect=Kind.HIDDEN),
        jp.slimmable.uniform(
            graph, np.random.default_rng(0), 0.5, 0.6, divisor=1, protect=[Kind.HIDDEN]
        ),
        jp.slimmable.space(graph, divisor=1, protect=[Kind.HIDDEN]),
    ):
        assert keep.keys() == jp.slimmable.prefix(graph, 0.5, protect=hidden).keys()
    progress = jp.schedule.begin(graph, only=[Kind.HEADS, "up/*"], keep_macs=0.9)
    assert progress.constraints["only"] == [Kind.HEADS, "up/*"]
    with pytest.raises(jp.errors.BudgetError, match="smallest reachable"):
        jp.schedule.begin(graph, only=Kind.HEADS, keep_macs=0.3)
