"""What a channel group is to its network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import Kind


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
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), graph.abstract)
    zeros = jax.tree.map(jnp.zeros_like, params)
    (heads,) = jp.of_kind(graph, Kind.HEADS)
    hidden = [name for name in graph.groups if name.startswith("up/")]

    def moved(tx):
        updates, _ = tx.update(zeros, tx.init(params), params)
        found = jax.tree_util.tree_leaves_with_path(updates)
        return {jax.tree_util.keystr(path) for path, leaf in found if jnp.abs(leaf).max() > 0}

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
