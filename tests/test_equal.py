"""`equal=`: groups that keep the same count; `multiple_of` by pattern and kind."""

import contextlib
import math
from typing import Any

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import jaxprune as jp
from chains import chain, kept
from jaxprune import cost, select
from jaxprune.errors import BudgetError, PatternError, ResizeError

NAMES = [f"layer_{i}/kernel" for i in range(4)]
A, B, C, D = NAMES
GRAPH, _ = chain(6, 6, 6, 9)
EQUAL = [[A, B, C]]
numbers = st.lists(st.floats(0, 1, width=16), min_size=27, max_size=27)


def widths(keep: Any) -> dict[str, int]:
    """How many channels stay, of every group."""
    return {name: int(np.sum(mask, -1).flat[0]) for name, mask in keep.items()}


def scores_of(values: list[float]) -> dict[str, np.ndarray]:
    found = np.split(np.array(values), [6, 12, 18])
    return dict(zip(NAMES, found, strict=True))


def selectors(scores: Any, amount: float, **constraints: Any) -> dict[str, Any]:
    """What every selector keeps."""
    calls = {
        "ratio": lambda: select.global_ratio(GRAPH, scores, prune_ratio=amount, **constraints),
        "group": lambda: select.per_group(GRAPH, scores, prune_ratio=amount, **constraints),
        "budget": lambda: select.budget(GRAPH, scores, keep_params=1 - amount, **constraints),
        "threshold": lambda: select.threshold(GRAPH, scores, threshold=amount, **constraints),
        "left": lambda: select.of_remaining(
            GRAPH, {n: s + 1 for n, s in scores.items()}, prune_ratio=amount, **constraints
        ),
    }
    found = {}
    for name, call in calls.items():
        with contextlib.suppress(BudgetError):  # out of reach
            found[name] = call()
    return found


@given(
    values=numbers,
    amount=st.sampled_from([0.1, 0.3, 0.5, 0.8]),
    multiple=st.sampled_from([1, 2, 3, {A: 2, B: 3}, {"*": 2, D: 3}]),
    least=st.integers(1, 4),
)
def test_equal_groups_keep_one_count_under_all_constraints(values, amount, multiple, least):
    scores = scores_of(values)
    constraints: Any = {"min_channels": least, "multiple_of": multiple}
    found = selectors(scores, amount, equal=EQUAL, **constraints)
    assert "threshold" in found
    for name, keep in found.items():
        counts = widths(keep)
        assert counts[A] == counts[B] == counts[C]
        many = {A: 1, B: 1, C: 1, D: 1}
        given = multiple if isinstance(multiple, dict) else {"*": multiple}
        for pattern, n in given.items():
            many |= {group: n for group in NAMES if pattern in ("*", group)}
        both = math.lcm(many[A], many[B], many[C])
        assert counts[A] == 6 or counts[A] % both == 0
        assert counts[D] == 9 or counts[D] % many[D] == 0
        assert min(counts.values()) >= least
        if name == "budget":
            assert cost.params(GRAPH, keep) <= round(1 - amount, 6) * cost.params(GRAPH)
        for group in NAMES:  # within a group the lowest scores go
            gone, stay = scores[group][~keep[group]], scores[group][keep[group]]
            assert not gone.size or gone.max() <= stay.min()


@given(values=numbers, amount=st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_without_groups_to_tie_nothing_changes(values, amount):
    scores = scores_of(values)
    plain = selectors(scores, amount)
    for other in (
        selectors(scores, amount, equal=()),
        selectors(scores, amount, equal=["layer_0*", [D, "layer_3/*"]]),
    ):
        assert {n: kept(k) for n, k in other.items()} == {n: kept(k) for n, k in plain.items()}


def test_the_joint_order_by_hand():
    """Means of the ascending scores: 0.2, 0.3, 0.4; each removes one channel of both."""
    graph, _ = chain(3, 3, 2)
    scores = {A: [0.1, 0.3, 0.5], B: [0.3, 0.3, 0.3], C: [0.25, 0.9]}
    keep = select.global_ratio(graph, scores, prune_ratio=0.25, equal=[[A, B]])
    assert kept(keep) == {A: [1, 2], B: [1, 2], C: [0, 1]}
    keep = select.global_ratio(graph, scores, prune_ratio=0.38, equal=[[A, B]])
    assert kept(keep) == {A: [1, 2], B: [1, 2], C: [1]}
    keep = select.threshold(graph, scores, threshold=0.3, equal=[[A, B]])
    assert kept(keep) == {A: [2], B: [2], C: [1]}  # of what goes together the highest counts


def test_entries_that_share_a_group_are_one():
    scores = scores_of(list(np.linspace(0, 1, 27)))
    keep = select.global_ratio(GRAPH, scores, prune_ratio=0.4, equal=[[A, B], [B, C]])
    assert len({widths(keep)[name] for name in (A, B, C)}) == 1


def test_rounds_go_on_with_equal_counts():
    scores, keep = scores_of(list(np.linspace(0.1, 1, 27))), {}
    for _ in range(4):
        constraints: Any = {"equal": EQUAL, "within": keep}
        keep = select.of_remaining(GRAPH, scores, prune_ratio=0.2, **constraints)
        assert widths(keep)[A] == widths(keep)[B] == widths(keep)[C]
    assert widths(keep)[A] < 6
    unlike = {**keep, A: np.arange(6) < 5}
    with pytest.raises(BudgetError, match=r"should (be equal, and have|keep the same count)"):
        select.of_remaining(GRAPH, scores, prune_ratio=0.2, equal=EQUAL, within=unlike)
    with pytest.raises(BudgetError, match="should keep the same count, but within leaves 5 and"):
        select.budget(GRAPH, scores, keep_params=0.1, equal=EQUAL, within=unlike)


@pytest.mark.parametrize(
    ("equal", "options", "error", "text"),
    [
        (["nothing*"], {}, PatternError, "equal pattern 'nothing\\*' matches none of 4"),
        ([[A, D]], {}, BudgetError, f"'{A}' has 6, '{D}' has 9"),
        ([A, B], {}, PatternError, f"equal '{A}' is one group.*\n.*another"),
        (EQUAL, {"protect": [B]}, PatternError, f"'{A}' may lose channels, but '{B}' stays whole"),
        (EQUAL, {"only": [C]}, PatternError, f"group '{C}' may lose channels, but '{A}'"),
        ([jp.Kind.HEADS], {}, PatternError, "none of 4 groups is of kind .'HEADS'."),
        (3, {}, PatternError, "equal: expected names or patterns, got 3"),
        ([3], {}, PatternError, "equal"),
        ((), {"multiple_of": {"nothing": 2}}, PatternError, "multiple_of pattern 'nothing'"),
        ((), {"multiple_of": {A: 0}}, BudgetError, "multiple_of of 'layer_0/kernel' must be an"),
        ((), {"multiple_of": 1.5}, BudgetError, "multiple_of must be an int"),
    ],
)
def test_errors_come_before_anything_is_changed(equal, options, error, text):
    scores = scores_of([0.5] * 27)
    for call in (
        lambda: select.global_ratio(GRAPH, scores, prune_ratio=0.3, equal=equal, **options),
        lambda: select.budget(GRAPH, scores, keep_macs=0.7, equal=equal, **options),
    ):
        with pytest.raises(error, match=text) as caught:
            call()
        assert "Fix:" in str(caught.value)


def test_per_group_needs_one_ratio_for_equal_groups():
    scores = scores_of([0.5] * 27)
    with pytest.raises(BudgetError, match="equal groups should lose unlike shares"):
        select.per_group(GRAPH, scores, prune_ratio={A: 0.5, B: 0.2}, equal=EQUAL)
    keep = select.per_group(GRAPH, scores, prune_ratio={"*": 0.2, D: 0.5}, equal=EQUAL)
    assert widths(keep) == {A: 5, B: 5, C: 5, D: 5}


def test_layers_of_a_stack_are_equal_to_another_group():
    def fn(v, x):
        x, _ = jax.lax.scan(lambda x, w: (x + x @ w["in"] @ w["out"], None), x, v["blocks"])
        return x @ v["first"] @ v["last"]

    rng = np.random.default_rng(0)
    v = {
        "blocks": {"in": rng.normal(size=(3, 5, 4)), "out": rng.normal(size=(3, 4, 5))},
        "first": rng.normal(size=(5, 4)),
        "last": rng.normal(size=(4, 2)),
    }
    graph = jp.trace(fn, v, np.ones((2, 5)))
    scores = jp.scores.l2(graph, v)
    scores = {name: scores[name] for name in ("blocks/in", "first")}
    keep = select.global_ratio(graph, scores, prune_ratio=0.5, equal=[["blocks/in", "first"]])
    assert keep["blocks/in"].shape == (3, 4)
    assert (keep["blocks/in"].sum(1) == 2).all()
    assert keep["first"].sum() == 2
    run = jp.resize(fn, graph, keep)
    got = run(jp.slice(graph, v, keep), np.ones((2, 5)))
    np.testing.assert_allclose(got, fn(jp.mask(graph, v, keep), np.ones((2, 5))), rtol=1e-4)


class Attention(nn.Module):
    """Attention of `jax.nn`, which wants one head size."""

    @nn.compact
    def __call__(self, x):
        q, k, v = (nn.DenseGeneral((2, 8), name=name)(x) for name in "qkv")
        y = jax.nn.dot_product_attention(q, k, v)
        return nn.DenseGeneral(3, axis=(-2, -1), name="o")(nn.relu(y))


class OneHeadSize(nnx.Module):
    """Attention by hand with one attribute."""

    def __init__(self, rngs):
        self.size = 8
        self.q, self.k, self.v = (nnx.Linear(5, 16, rngs=rngs) for _ in range(3))
        self.o = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.size) for p in (self.q, self.k, self.v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.o(out.reshape(*x.shape[:2], -1))


def test_unlike_head_sizes_are_named_with_the_way_out():
    x = jax.random.normal(jax.random.key(1), (2, 6, 5))
    module = Attention()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    graph = jp.linen.trace(module, variables, x)
    keys, values = jp.of_kind(graph, jp.Kind.QUERY_KEY)[0], jp.of_kind(graph, jp.Kind.VALUE)[0]
    unlike = {keys: np.arange(8) < 5, values: np.arange(8) < 3}
    with pytest.raises(ResizeError, match="one head size") as caught:
        jp.linen.resize(module, graph, unlike)
    ways = f"equal=[[{keys!r}, {values!r}]] in jp.select"
    assert ways in str(caught.value)
    assert f"group {keys!r} keeps 5 for queries and keys, group {values!r} keeps 3" in str(
        caught.value
    )
    pruned = jp.linen.prune(module, variables, x, keep_macs=0.6, equal=[[keys, values]])
    assert widths(pruned.keep)[keys] == widths(pruned.keep)[values] < 8
    model = OneHeadSize(nnx.Rngs(0))
    graph = jp.nnx.trace(model, x)
    keys, values = jp.of_kind(graph, jp.Kind.QUERY_KEY)[0], jp.of_kind(graph, jp.Kind.VALUE)[0]
    with pytest.raises(ResizeError, match="one head size"):
        jp.nnx.resize(model, graph, {values: np.arange(8) < 3})
    pruned = jp.nnx.prune(model, x, keep_macs=0.6, equal=[[keys, values]])
    assert pruned.model.size == widths(pruned.keep)[keys] < 8
    run = jp.narrow(pruned.graph.fn, pruned.graph, pruned.keep)
    np.testing.assert_allclose(pruned.model(x), run(pruned.variables, x)[0], rtol=1e-4, atol=1e-5)


def counted(q):
    """Queries whose channels are counted."""
    return q * jnp.arange(4.0)[None, None, None]


def rotated(q):
    """Queries whose channels turn in two halves."""
    angles = (jnp.arange(6.0)[:, None] * jnp.array([[1.0, 0.1]]))[None, :, None]
    first, second = jnp.split(q, 2, axis=-1)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def interleaved(q):
    """Queries whose channels turn in pairs."""
    angles = (jnp.arange(6.0)[:, None] * jnp.array([[1.0, 0.1]]))[None, :, None]
    sin, cos = jnp.repeat(jnp.sin(angles), 2, axis=-1), jnp.repeat(jnp.cos(angles), 2, axis=-1)
    other = jnp.stack([-q[..., 1::2], q[..., ::2]], axis=-1).reshape(q.shape)
    return q * cos + other * sin


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("placed", [counted, rotated, interleaved])
def test_queries_that_cannot_be_pruned_leave_protect(placed, grouped):
    def seen(weights, mask):
        return jnp.where(jnp.broadcast_to(mask, weights.shape), weights, -1e9)

    def layer(v, x, z, mask):  # positions of keys, of values and of the mask are not the same ones
        q, k, u = (
            jnp.reshape(y @ v[n], (2, 6, -1, 4)) for y, n in zip((x, x, z), "qku", strict=True)
        )
        q, k = placed(q), placed(k)
        if grouped:
            q = q.reshape(2, 6, 2, 3, 4)
            weights = seen(jnp.einsum("bqhgd,bkhd->bhgqk", q, k), mask)
            y = jnp.einsum("bhgqk,bkhd->bqhgd", weights, u)
        else:
            weights = seen(jnp.einsum("bqhd,bkhd->bhqk", q, k), mask)
            y = jnp.einsum("bhqk,bkhd->bqhd", weights, u)
        return y.reshape(2, 6, -1) @ v["o"]

    def fn(v, x, z, mask):
        return layer(v[1], layer(v[0], x, z, mask), z, mask)

    heads = 6 if grouped else 2
    one = {"q": np.ones((5, 4 * heads)), "k": np.ones((5, 8)), "u": np.ones((5, 8))}
    v = [one | {"o": np.ones((4 * heads, 5))} for _ in range(2)]
    graph = jp.trace(fn, v, np.ones((2, 6, 5)), np.ones((2, 6, 5)), np.ones((6, 6), bool))
    values = sorted(name for name in jp.of_kind(graph, jp.Kind.VALUE) if "/u" in name)
    assert len(values) == 2
    with pytest.raises(ResizeError, match="one head size") as caught:
        jp.resize(fn, graph, {name: np.arange(4) < 2 for name in values})
    assert f"protect={values} in jp.select" in str(caught.value)
    assert str(caught.value).count("keeps 2, its queries and keys cannot be pruned") == 2


def test_another_reason_is_not_taken_for_head_sizes():
    def fn(v, x):
        q, k, u = (jnp.reshape(x @ v[n], (2, 6, 2, -1)) for n in "qku")
        y = jnp.einsum("bhqk,bkhd->bqhd", jnp.einsum("bqhd,bkhd->bhqk", q, k), u)
        return (y.reshape(2, 6, -1) @ v["o"]).reshape(2, 6, 7) @ v["p"]

    v = {n: np.ones((5, 8)) for n in "qku"} | {"o": np.ones((8, 7)), "p": np.ones((7, 2))}
    graph = jp.trace(fn, v, np.ones((2, 6, 5)))
    (value,) = jp.of_kind(graph, jp.Kind.VALUE)
    assert jp.resize(fn, graph, {value: np.arange(4) < 2})
    with pytest.raises(ResizeError) as caught:
        jp.resize(fn, graph, {value: np.arange(4) < 2, "o": np.arange(7) < 4})
    assert "one head size" not in str(caught.value)
