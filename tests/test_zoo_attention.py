"""Every spelling of attention is pruned as it says, see zoo/zoo.py; and what is asked around it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import laws
import networks
from jaxprune.running import attribute_search
from zoo import attention, attention_images, attention_positions, decoder, decoder_experts
from zoo.zoo import Network, check

FILES = (attention, attention_positions, attention_images, decoder, decoder_experts)
NETWORKS = [network for file in FILES for network in file.NETWORKS]
TOKENS = np.random.default_rng(0).normal(size=(2, 5, 6))


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_laws_hold_on(network: Network) -> None:
    check(network)


def drawn(module: nn.Module, x: Any) -> Any:
    """Returns random variables of `module` in double precision."""
    return jax.tree.map(np.float64, networks.weights(module, 0, x))


def first(graph: jp.ChannelGraph, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Returns the keep of the first channels of each group named."""
    return {name: np.arange(graph.groups[name].size) < n for name, n in widths.items()}


def check_agreement(a: Callable[..., Any], b: Callable[..., Any], small: Any, *x: Any) -> None:
    """Checks that two functions of the small variables give the same."""
    found = jax.device_get(jax.jit(lambda v, *x: (a(v, *x), b(v, *x)))(small, *x))
    laws.assert_close({"y": found[0]}, {"y": found[1]}, what="the small network")


def check_narrow(graph: jp.ChannelGraph, variables: Any, keep: Any, *x: Any) -> None:
    """Checks outputs and gradients of `narrow` against the masked network."""

    def measure(fn: Any, variables: Any) -> Any:
        def loss(variables: Any) -> Any:
            y = fn(variables, *x)
            return jnp.vdot(y, jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

        return jax.grad(loss, has_aux=True)(variables)

    masked, small = jp.mask(graph, variables, keep), jp.slice(graph, variables, keep)
    narrow = jp.narrow(graph.fn, graph, keep)
    run = jax.jit(lambda a, b: (measure(graph.fn, a), measure(narrow, b)))
    (full, y), (cut, z) = jax.device_get(run(masked, small))
    laws.assert_close({"y": z}, {"y": y}, what="narrow")
    laws.assert_close(cut, jp.slice(graph, full, keep), what="gradients of narrow")


# Rotations.


def test_a_keep_that_breaks_a_rotated_pair_is_refused() -> None:
    module = attention_positions.Rotary(attention_positions.pairs)
    graph = jp.trace(module.apply, drawn(module, TOKENS), TOKENS)
    channels = np.arange(10) != 3
    message = (
        r"'key/kernel\[2\]' has shape \(10,\), the group has 5 channels\. One channel is 2 "
        r"positions of params/key/kernel axis 2, which go together\. Fix: "
    )
    with pytest.raises(jp.errors.KeepError, match=message):
        jp.narrow(module.apply, graph, {"key/kernel[2]": channels})


def reasons(graph: jp.ChannelGraph, path: str) -> dict[tuple[int, int], str]:
    """Returns {(axis, size): reason} of what is frozen in a variable."""
    return {(item.axis, item.size): item.reason for item in graph.frozen if item.path == path}


def test_it_is_said_why_a_computed_rotation_keeps_its_channels() -> None:
    module = attention_positions.Rotary(attention_positions.pairs, "computed")
    graph = jp.trace(module.apply, drawn(module, TOKENS), TOKENS)
    assert reasons(graph, "params/key/kernel")[2, 5] == "counted by iota"
    assert "iota" in jp.explain(graph, "params/key/kernel")


# Code that depends on widths.


class Checked(nn.Module):
    """Attention that computes sizes from attributes, and insists on them."""

    dim: int = 8
    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.dim, name="stem")(x)
        if x.shape[-1] != self.dim:
            raise ValueError(f"width {x.shape[-1]} is not {self.dim}")
        size = self.dim // self.heads
        query, key, value = (
            nn.Dense(self.dim, name=name)(x).reshape(*x.shape[:2], self.heads, size)
            for name in ("query", "key", "value")
        )
        y = attention.attend(query, key, value).reshape(x.shape)
        return nn.Dense(3, name="head")(x + nn.Dense(self.dim, name="out")(y))


@pytest.mark.parametrize(
    ("widths", "refusal", "overrides"),
    [
        ({"out/kernel": 6}, "width 6 is not 8", None),
        ({"key/kernel[1.0]": 2}, r"cannot reshape(.|\n)*Checked", None),
        ({"key/kernel[1.0]": 2}, r"cannot reshape(.|\n)*Checked", {"heads": 2}),
        ({"out/kernel": 4, "key/kernel[1.0]": 2}, "is not 8", {"dim": 4, "heads": 2}),
    ],
    ids=["width", "heads", "heads only", "both"],
)
def test_a_module_that_checks_its_width(
    widths: Any, refusal: str, overrides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attributes can say it, overrides do, and are found; `narrow` runs it in any case."""
    module = Checked()
    variables = drawn(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = first(graph, widths)
    if overrides and len(widths) == 2:
        assert jp.linen.resize(module, graph, keep).overrides == {"": overrides}
        monkeypatch.setattr(attribute_search, "TRIES", 0)
    with pytest.raises(jp.errors.ResizeError, match=refusal) as error:
        jp.linen.resize(module, graph, keep)
    for way_out in ("Fix:", "overrides", "protect", "narrow"):
        assert way_out in str(error.value)
    if overrides and len(widths) == 2:
        resized = jp.linen.resize(module, graph, keep, overrides={"": overrides})
        narrow = jp.narrow(module.apply, graph, keep)
        check_agreement(resized.apply, narrow, jp.slice(graph, variables, keep), TOKENS)
    elif overrides:  # the width of the heads is computed from that of the stream
        with pytest.raises(jp.errors.ResizeError, match=refusal):
            jp.linen.resize(module, graph, keep, overrides={"": overrides})
    check_narrow(graph, variables, keep, TOKENS)


def test_a_fused_kernel_of_uneven_parts_is_refused_and_narrow_runs_it() -> None:
    """`split` into three equal parts is another network where value dims are fewer."""
    module = attention.Fused("split")
    variables = drawn(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = first(graph, {"qkv/kernel[1.2]": 1})
    with pytest.raises(
        jp.errors.ResizeError, match=r"(?s)Fused does not run.*\(12,\) and \(4,\).*Fix: "
    ):
        jp.linen.resize(module, graph, keep)
    check_narrow(graph, variables, keep, TOKENS)


# Custom derivatives: each is not that of its function, so that a lost one is seen.


@jax.custom_vjp
def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """A root mean square normalization."""
    return rms_norm_forward(x, scale)[0]


def rms_norm_forward(x: jax.Array, scale: jax.Array) -> Any:
    """Returns the result, and residuals of the width of `x`."""
    root = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return x * root * scale[None, None], (x * root, root, scale)


def rms_norm_backward(residuals: Any, cotangent: jax.Array) -> Any:
    """Returns twice the gradient of `x`."""
    normal, root, scale = residuals
    inner = cotangent * scale[None, None]
    inner = inner - normal * jnp.mean(inner * normal, axis=-1, keepdims=True)
    return 2 * root * inner, jnp.sum(cotangent * normal, axis=(0, 1))


rms_norm.defvjp(rms_norm_forward, rms_norm_backward)


@jax.custom_jvp
def squared_relu(x: jax.Array) -> jax.Array:
    """The square of the positive part."""
    return jnp.maximum(x, 0) ** 2


@squared_relu.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return squared_relu(*primals), 3 * tangents[0] * jnp.maximum(primals[0], 0)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scaled(x: jax.Array, by: float) -> jax.Array:
    """A product with a constant."""
    return x * by


scaled.defvjp(lambda x, by: (x * by, None), lambda by, _, cotangent: (cotangent * (by + 1),))


@jax.custom_vjp
def rounded(x: jax.Array, offset: jax.Array) -> jax.Array:
    """The nearest integers; integers have no gradient."""
    return jnp.round(x) * offset[:, None, None]


rounded.defvjp(
    lambda x, offset: (rounded(x, offset), offset),
    lambda offset, cotangent: (5 * cotangent * offset[:, None, None], None),
)

CUSTOM: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "custom_vjp with residuals of the width": rms_norm,
    "custom_jvp": lambda h, _: squared_relu(h),
    "custom_vjp of a static argument": lambda h, _: scaled(h, 3.0),
    "custom_vjp of an integer argument": lambda h, _: rounded(3 * h, jnp.arange(len(h)) + 1),
    "relu, silu and gelu": lambda h, _: jax.nn.relu(h) + jax.nn.silu(h) + jax.nn.gelu(h),
    "checkpoint": jax.checkpoint(lambda h, scale: rms_norm(jnp.sin(h), scale)),
    "checkpoint with a policy": jax.checkpoint(
        lambda h, scale: squared_relu(rms_norm(h, scale)),
        policy=jax.checkpoint_policies.dots_saveable,  # pyright: ignore[reportArgumentType]
    ),
    "vmap": lambda h, _: jax.vmap(jax.vmap(squared_relu))(h),
    "scan": lambda h, scale: jax.lax.scan(
        lambda carry, _: (rms_norm(carry, scale), None), h, None, length=2
    )[0],
    "gradient inside": lambda h, scale: jax.grad(lambda h: rms_norm(h, scale).sum())(h),
}


@pytest.mark.filterwarnings("ignore::jaxprune.errors.UnreadWarning")  # not all have a scale
@pytest.mark.parametrize("activate", CUSTOM.values(), ids=CUSTOM)
def test_narrow_has_the_custom_derivatives_of(activate: Any) -> None:
    def fn(v: Any, x: jax.Array) -> jax.Array:
        h = x @ v["stem"]
        return (h + activate(h, v["scale"]) @ v["up"] @ v["down"]) @ v["head"]

    shapes = {"stem": (6, 8), "scale": (8,), "up": (8, 7), "down": (7, 8), "head": (8, 3)}
    random = np.random.default_rng(0)
    variables = {name: random.normal(size=shape) / 2 for name, shape in shapes.items()}
    graph = jp.trace(fn, variables, TOKENS)
    assert {name: group.size for name, group in graph.groups.items()} == {"down": 8, "up": 7}
    check_narrow(graph, variables, first(graph, {"down": 5, "up": 3}), TOKENS)


# Inputs and outputs of any form.


class Features(nn.Module):
    """A tagger of tokens with BatchNorm and dropout, of a dict, to a dict."""

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array], *, train: bool = False) -> Any:
        x = nn.Embed(11, 8, name="tokens")(batch["tokens"])
        x = nn.BatchNorm(use_running_average=not train)(x)
        hidden = nn.relu(nn.Dense(10, name="up")(nn.Dropout(0.5, deterministic=not train)(x)))
        y = nn.relu(nn.Dense(9, name="down")(hidden)) * batch["seen"][..., None]
        return {"features": {"hidden": hidden}, "logits": nn.Dense(3, name="head")(y)}


def batch_of(size: int, length: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    tokens = random.integers(11, size=(size, length))
    return {"tokens": tokens, "seen": np.float64(tokens != 0)}


def evaluate(module: Any, v: Any, batch: Any, *_: Any) -> Any:
    """Returns the logits."""
    return module.apply(v, batch)["logits"]


def train(module: Any, v: Any, batch: Any, key: Any) -> Any:
    """Returns the logits and the statistics of training."""
    outputs, updates = module.apply(
        v, batch, train=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    return outputs["logits"], updates


WIDTHS = {"down/kernel": 9, "tokens/embedding": 8, "up/kernel": 10}


def test_training_with_dropout_has_the_groups_of_evaluation_and_the_same_noise() -> None:
    """Traced at batch 1, run at 256 and another length; a kept channel draws its own noise."""
    module, key = Features(), jax.random.key(0)
    variables = drawn(module, batch_of(1, 5))
    evaluated = jp.trace(partial(evaluate, module), variables, batch_of(1, 5))
    graph = jp.trace(partial(train, module), variables, batch_of(1, 5), key)
    for found in (evaluated, graph):
        assert {name: group.size for name, group in found.groups.items()} == WIDTHS
    keep = first(graph, {"down/kernel": 4, "tokens/embedding": 5, "up/kernel": 3})
    assert jp.linen.resize(module, graph, keep).draws
    small, masked = jp.slice(graph, variables, keep), jp.mask(graph, variables, keep)
    narrow = jp.narrow(partial(train, module), graph, keep)
    inputs = batch_of(256, 7), key
    outputs, updates = jax.jit(partial(train, module))(masked, *inputs)
    expected = outputs, jp.slice(graph, updates, keep)
    laws.assert_close(jax.jit(narrow)(small, *inputs), expected, what="narrow against masked")


def test_outputs_are_frozen_axis_by_axis_and_named() -> None:
    module, batch = Features(), batch_of(1, 5)
    graph = jp.trace(module.apply, drawn(module, batch), batch)
    assert {name: group.size for name, group in graph.groups.items()} == {
        "down/kernel": 9,
        "tokens/embedding": 8,
    }
    assert reasons(graph, "params/up/kernel") == {(1, 10): "axis of output 'features/hidden'"}


@pytest.mark.parametrize("extra", [None, 2.0, {"a": (np.ones(2), None)}], ids=str)
def test_other_inputs_do_no_harm(extra: Any) -> None:
    module, batch = Features(), batch_of(1, 5)
    variables = drawn(module, batch)
    graph = jp.trace(partial(evaluate, module), variables, batch, extra)
    assert {name: group.size for name, group in graph.groups.items()} == WIDTHS
    keep = first(graph, {"up/kernel": 3})
    y = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), batch_of(3, 4), extra)
    assert y.shape == (3, 4, 3)


# Constants that follow a width, and sum nothing.


ROOTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "of an embedding": lambda h: h * h.shape[-1] ** 0.5,
    "behind a norm": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True) * h.shape[-1] ** 0.5,
}


@pytest.mark.parametrize("scale", ROOTS.values(), ids=ROOTS)
def test_a_factor_that_follows_the_width_is_listed(scale: Any) -> None:
    def fn(v: Any, ids: jax.Array) -> jax.Array:
        return scale(v["table"][ids]) @ v["head"]

    variables = {"table": np.ones((11, 8)), "head": np.ones((8, 3))}
    graph = jp.trace(fn, variables, np.zeros((5,), int))
    assert graph.groups["table"].inexact is None
    (text,) = jp.resize(fn, graph, {"table": np.arange(8) < 2}).follows
    assert "2.82843 became 1.41421" in text


# What is known to be wrong.


def test_one_head_is_left_under_a_mask() -> None:
    module = attention.Linen(causal=True)
    variables = drawn(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = first(graph, {"attention/key/kernel[1]": 1})
    resized = jp.linen.resize(module, graph, keep)
    narrow = jp.narrow(module.apply, graph, keep)
    check_agreement(resized.apply, narrow, jp.slice(graph, variables, keep), TOKENS)


def test_rows_of_a_table_that_are_not_read_are_frozen() -> None:
    module = attention_positions.Positions(True)
    ids = attention_positions.ids(5, 1)[0]
    graph = jp.trace(module.apply, networks.weights(module, 0, ids), ids)
    assert "positions" not in graph.groups


def test_an_unpacked_axis_gives_the_groups_of_an_indexed_one() -> None:
    def unpacked(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        a, b = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 0)
        return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)

    found = []
    for rotate in (unpacked, attention_positions.pairs):
        module = attention_positions.Rotary(rotate)
        graph = jp.trace(module.apply, drawn(module, TOKENS), TOKENS)
        found.append({name: group.size for name, group in graph.groups.items()})
    assert found[0] == found[1]
