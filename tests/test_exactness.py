"""Exact and inexact groups, decided and measured.

A group is exact if zeros in its place are as good as its absence. Every network below is traced,
its verdict compared with what is stated, and where the masked and the narrowed network can be told
apart, with what they compute.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
SHAPES = {
    "w": (5, 8),  # the group under test
    "u": (8, 2),
    "a": (8, 4),
    "b": (4, 8),
    "k": (5, 8),
    "scale": (8,),
    "bias": (8,),
    "conv": (3, 8, 8),
    "depth": (3, 1, 8),
}


def hidden(v: Any, x: Any) -> Any:
    return x @ v["w"]


def layer_norm(v: Any, h: Any) -> Any:
    mean = h.mean(-1, keepdims=True)
    variance = jnp.square(h - mean).mean(-1, keepdims=True)
    return (h - mean) * lax.rsqrt(variance + 1e-5) * v["scale"][None] + v["bias"][None]


def group_norm(v: Any, h: Any) -> Any:
    """Two groups of four channels."""
    g = h.reshape(-1, 2, 4)
    g = (g - g.mean(-1, keepdims=True)) * lax.rsqrt(g.var(-1, keepdims=True) + 1e-5)
    return g.reshape(h.shape) * v["scale"][None] + v["bias"][None]


def squeeze_excite(v: Any, h: Any) -> Any:
    return h * jax.nn.sigmoid(jax.nn.relu(h @ v["a"]) @ v["b"])


def attention(v: Any, x: Any) -> Any:
    """One head of 8; the scores are divided by the root of 8."""
    scores = (x @ v["w"]) @ (x @ v["k"]).T / np.float32(np.sqrt(8))
    return jax.nn.softmax(scores) @ x


def heads(v: Any, x: Any) -> Any:
    """Two heads of 4, without the root."""
    q, k = ((x @ v[name]).reshape(-1, 2, 4) for name in ("w", "k"))
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
    return jnp.einsum("hqk,khd->qhd", weights, k).reshape(-1, 8) @ v["u"]


def linear_attention(v: Any, x: Any) -> Any:
    q, k = jax.nn.elu(x @ v["w"]) + 1, jax.nn.elu(x @ v["k"]) + 1
    return q @ (k.T @ x)


def convolved(v: Any, x: Any, kernel: str, groups: int) -> Any:
    return lax.conv_general_dilated(
        jax.nn.gelu(hidden(v, x))[None],
        v[kernel],
        (1,),
        "SAME",
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=groups,
    )[0]


def scanned(v: Any, x: Any) -> Any:
    def step(h: Any, _: Any) -> Any:
        return jnp.tanh(h + jax.nn.relu(h @ v["a"]) @ v["b"]), None

    return lax.scan(step, hidden(v, x), None, length=2)[0] @ v["u"]


EXACT = {
    "relu": lambda v, x: jax.nn.relu(hidden(v, x)) @ v["u"],
    "sigmoid before a contraction": lambda v, x: jax.nn.sigmoid(hidden(v, x)) @ v["u"],
    "bias": lambda v, x: (hidden(v, x) + v["bias"][None]) @ v["u"],
    "L2 normalization with eps": lambda v, x: (
        hidden(v, x) / jnp.sqrt(jnp.square(hidden(v, x)).sum(-1, keepdims=True) + 1e-6) @ v["u"]
    ),
    "residual stream": lambda v, x: (
        hidden(v, x) + jax.nn.relu(hidden(v, x) @ v["a"]) @ v["b"]
    ).sum(-1),
    "squeeze and excite": lambda v, x: squeeze_excite(v, hidden(v, x)) @ v["u"],
    "squeeze, excite, sum": lambda v, x: squeeze_excite(v, hidden(v, x)).sum(-1),
    "Gram matrix of zeros": lambda v, x: jax.nn.relu(hidden(v, x)) @ jax.nn.relu(x @ v["k"]).T,
    "heads": heads,
    "convolution": lambda v, x: convolved(v, x, "conv", 1) @ v["u"],
    "depthwise convolution": lambda v, x: convolved(v, x, "depth", 8).sum(-1),
    "scan": scanned,
    "mean": lambda v, x: hidden(v, x).mean(-1),
    "attention over the root of its size": attention,
    "weight normalization": lambda v, x: (
        x @ (v["w"] / jnp.sqrt(jnp.square(v["w"]).sum(0, keepdims=True))) @ v["u"]
    ),
    "where": lambda v, x: jnp.where(hidden(v, x) > 0.1, hidden(v, x), 0.0).sum(-1),
    "clip": lambda v, x: jnp.clip(hidden(v, x), -1.0, 1.0).sum(-1),
    "whole groups of a GroupNorm": lambda v, x: group_norm(v, hidden(v, x)) @ v["u"],
}
INEXACT = {
    "sum of sigmoids": (lambda v, x: jax.nn.sigmoid(hidden(v, x)).sum(-1), "reduce_sum"),
    "sum behind a shift": (lambda v, x: (hidden(v, x) + 1.0).sum(-1), "reduce_sum"),
    "sum of a constant branch": (
        lambda v, x: jnp.where(hidden(v, x) > 0.1, hidden(v, x), 1.0).sum(-1),
        "reduce_sum",
    ),
    "max": (lambda v, x: (-jnp.square(hidden(v, x))).max(-1), "reduce_max"),
    "softmax": (lambda v, x: jax.nn.softmax(hidden(v, x)) @ v["u"], "reduce_max"),
    "LayerNorm": (lambda v, x: layer_norm(v, hidden(v, x)) @ v["u"], "reduce_sum"),
    "product": (lambda v, x: hidden(v, x).prod(-1), "reduce_prod"),
    "sigmoid Gram matrix": (
        lambda v, x: jax.nn.sigmoid(hidden(v, x)) @ jax.nn.sigmoid(x @ v["k"]).T,
        "dot_general",
    ),
    "linear attention": (linear_attention, "dot_general"),
    "running sum of exponentials": (
        lambda v, x: jnp.cumsum(jnp.exp(hidden(v, x)), -1) @ v["u"],
        "cumsum",
    ),
    "1 / h": (lambda v, x: (1 / hidden(v, x)).sum(-1), "div"),
    "log": (lambda v, x: jnp.log(jnp.square(hidden(v, x))).sum(-1), "log"),
    "scan of sigmoids": (
        lambda v, x: lax.scan(lambda c, h: (c + jax.nn.sigmoid(h), None), 0 * hidden(v, x)[0],
                              hidden(v, x))[0].sum(),
        "reduce_sum",
    ),
    "while of a sum": (
        lambda v, x: lax.while_loop(
            lambda h: jnp.cos(h).sum() > 12, lambda h: h * 1.5, 0.1 * hidden(v, x)
        ) @ v["u"],
        "reduce_sum",
    ),
}  # fmt: skip


def traced(fn: Any) -> tuple[jp.ChannelGraph, dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    values = {k: random.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    for path in jp.trace(fn, values, X).unread:
        del values[path]
    return jp.trace(fn, values, X), values


def under_test(graph: jp.ChannelGraph) -> dict[str, jp.Group]:
    """The groups of the output axis of w."""
    found = {
        name: group
        for name, group in graph.groups.items()
        if any((slot.path, slot.axis) == ("w", 1) for slot in group.slots)
    }
    assert found, "w has no group"
    return found


def agree(fn: Any, graph: jp.ChannelGraph, values: Any, name: str) -> bool:
    """True if masking and narrowing away odd channels give the same finite result."""
    keep = {name: np.arange(graph.groups[name].size) % 2 == 1}
    narrowed = jp.narrow(fn, graph, keep)

    def both(masked: Any, small: Any) -> Any:
        return fn(masked, X), narrowed(small, X)

    given = jp.mask(graph, values, keep), jp.slice(graph, values, keep)
    masked, small = jax.jit(both)(*given)
    return np.allclose(masked, small, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    fn = EXACT[name]
    graph, values = traced(fn)
    found = {key: g.inexact for key, g in under_test(graph).items()}
    if name == "whole groups of a GroupNorm":
        found.pop("w[1.1]")
    assert set(found.values()) == {None}
    assert all(agree(fn, graph, values, key) for key in found)


@pytest.mark.parametrize("name", INEXACT)
def test_inexact(name: str) -> None:
    fn, operation = INEXACT[name]
    graph, values = traced(fn)
    (group,) = under_test(graph).values()
    assert group.inexact is not None
    assert group.inexact.startswith(f"{operation}(")
    assert "test_exactness.py:" in group.inexact
    assert not agree(fn, graph, values, group.name)


def test_a_group_norm_is_inexact_inside_its_groups() -> None:
    graph, _ = traced(EXACT["whole groups of a GroupNorm"])
    found = under_test(graph)
    assert {name: group.size for name, group in found.items()} == {"w[1.0]": 2, "w[1.1]": 4}
    assert found["w[1.0]"].inexact is None
    assert "sums values that the mask does not make zero" in (found["w[1.1]"].inexact or "")


def test_weight_normalization_leaves_the_filters_unmasked() -> None:
    graph, values = traced(EXACT["weight normalization"])
    (group,) = under_test(graph).values()
    assert {slot.path: slot.masked for slot in group.slots} == {"w": False, "u": True}
    masked = jp.mask(graph, values, {group.name: np.arange(8) < 3})
    np.testing.assert_array_equal(masked["w"], values["w"])
    assert not masked["u"][3:].any()


def test_without_a_learned_consumer_weight_normalization_is_inexact() -> None:
    def fn(v: Any, x: Any) -> Any:
        return (x @ (v["w"] * lax.rsqrt(jnp.square(v["w"]).sum(0, keepdims=True)))).sum(-1)

    (group,) = under_test(traced(fn)[0]).values()
    assert group.inexact is not None
    assert group.inexact.startswith("rsqrt(")


def test_a_users_rule_may_walk_the_program_of_an_operation() -> None:
    """What has no form runs as one operation, whatever its rule looks into."""
    rules = jp.RULES | {"jit": lambda op: op.call(op.params["program"], op.ins, op.sources)}
    fn, v = lambda v, x: jax.jit(jnp.sin)(x @ v["w"]).sum(-1), {"w": np.ones((5, 8))}
    assert jp.trace(fn, v, X).groups["w"].inexact is None
    graph = jp.trace(fn, v, X, rules=rules)
    assert "sums values that the mask does not make zero" in graph.groups["w"].inexact
    assert jp.draw(graph) == jp.draw(jp.trace(fn, v, X))
