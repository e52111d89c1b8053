"""Random networks for the laws, drawn by hypothesis; a network is a tuple of blocks."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from blocks import (
    Activation,
    Attention,
    Block,
    Blocks,
    Concatenate,
    Conv,
    Dense,
    Depthwise,
    Flatten,
    GlobalPool,
    Grouped,
    Norm,
    Parallel,
    Pool,
    Residual,
    Shuffle,
    SpatialGate,
    Split,
    SqueezeExcite,
    energy,
    run,
)

IMAGES = (2, 4, 4, 3)
"""Shape of the input, NHWC."""

CLASSES = 5
WIDTHS = st.sampled_from([4, 5, 6, 7, 8, 10, 12, 16])
EVEN_WIDTHS = st.sampled_from([4, 6, 8, 12, 16])
"""Widths that halves and two groups divide; a shuffle of 6 meets itself at odds in a residual."""

ACTIVATIONS = (nn.relu, nn.gelu, nn.silu, nn.tanh, nn.sigmoid, nn.softplus)
"""The last two give no zero at zero."""


class Network(nn.Module):
    """The network that `blocks` describe, with a Dense head: images `IMAGES` to [n, CLASSES]."""

    blocks: Blocks

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns the logits."""
        return nn.Dense(CLASSES, name="head")(run(self.blocks, x, train))


def blocks(spec: Blocks) -> set[str]:
    """Returns the names of all blocks in `spec`, the nested ones too."""
    names: set[str] = set()
    for block in spec:
        names.add(type(block).__name__)
        for field in fields(block):  # pyright: ignore[reportArgumentType]
            value = getattr(block, field.name)
            if isinstance(value, tuple):
                names |= blocks(value)
        if isinstance(block, Residual):
            names.add("Identity" if block.project is None else "Projected")
    return names


# Every builder draws blocks for an input of `channels` channels and says how many come out.

Drawn = tuple[Blocks, int]
Builder = Callable[[st.DrawFn, int], Drawn]


def _after(draw: st.DrawFn) -> Blocks:
    """Returns what follows a layer: perhaps BatchNorm, perhaps an activation."""
    norm = (Norm(),) if draw(st.booleans()) else ()
    function = draw(st.sampled_from([None, *ACTIVATIONS]))
    return norm if function is None else (*norm, Activation(function=function))


def _conv(draw: st.DrawFn, _channels: int) -> Drawn:
    features = draw(WIDTHS)
    return (Conv(features=features, bias=draw(st.booleans())), *_after(draw)), features


def _dense(draw: st.DrawFn, _channels: int) -> Drawn:
    features = draw(WIDTHS)
    return (Dense(features=features), *_after(draw)), features


def _depthwise(draw: st.DrawFn, channels: int) -> Drawn:
    block = Depthwise(multiplier=draw(st.sampled_from([1, 1, 2])), bias=draw(st.booleans()))
    return (block, *_after(draw)), channels * block.multiplier


def _even(draw: st.DrawFn, channels: int) -> Drawn:
    """Returns a convolution to an even width, which may be left out where `channels` is one."""
    if channels % 2 == 0 and draw(st.booleans()):
        return (), channels
    features = draw(EVEN_WIDTHS)
    return (Conv(features=features, bias=draw(st.booleans())),), features


def _grouped(draw: st.DrawFn, channels: int) -> Drawn:
    before, _ = _even(draw, channels)
    features = draw(EVEN_WIDTHS)
    return (*before, Grouped(features=features, bias=draw(st.booleans())), *_after(draw)), features


def _layer(draw: st.DrawFn, channels: int) -> Drawn:
    return draw(st.sampled_from([_conv, _depthwise, _grouped, _dense]))(draw, channels)


def _shuffle(draw: st.DrawFn, channels: int) -> Drawn:
    before, channels = draw(st.sampled_from([_even, _grouped]))(draw, channels)
    return (*before, Shuffle()), channels


def _split(draw: st.DrawFn, channels: int) -> Drawn:
    before, channels = _even(draw, channels)
    left, left_channels = _layer(draw, channels // 2)
    right, right_channels = (), channels // 2
    if draw(st.booleans()):
        right, right_channels = _layer(draw, channels // 2)
    return (*before, Split(left=left, right=right)), left_channels + right_channels


def _body(draw: st.DrawFn, channels: int, features: int) -> Blocks:
    """Returns one or two layers, the last of which has `features` channels."""
    first = _layer(draw, channels)[0] if draw(st.booleans()) else ()
    left = draw(st.integers(1, features - 1))
    conv, parallel = Conv(features=features), Parallel(left=left, right=features - left)
    shuffled = ((conv, Shuffle()),) if features % 2 == 0 else ()
    last = draw(st.sampled_from([(conv,), (Dense(features=features),), (parallel,), *shuffled]))
    return (*first, *last, *((Norm(),) if draw(st.booleans()) else ()))


def _identity(draw: st.DrawFn, channels: int) -> Drawn:
    return (Residual(body=_body(draw, channels, channels)),), channels


def _projected(draw: st.DrawFn, channels: int) -> Drawn:
    features = draw(WIDTHS)
    return (Residual(body=_body(draw, channels, features), project=features),), features


def _concatenate(draw: st.DrawFn, channels: int) -> Drawn:
    body, features = _layer(draw, channels)
    return (Concatenate(body=body),), channels + features


def _pool(draw: st.DrawFn, channels: int) -> Drawn:
    function = draw(st.sampled_from([nn.max_pool, nn.avg_pool]))
    window, stride = draw(st.sampled_from([(2, 2), (3, 1)]))
    return (Pool(function=function, window=window, stride=stride),), channels


def _squeeze_excite(draw: st.DrawFn, channels: int) -> Drawn:
    return (SqueezeExcite(hidden=draw(WIDTHS)),), channels


def _spatial_gate(draw: st.DrawFn, channels: int) -> Drawn:
    return (SpatialGate(reduce=draw(st.sampled_from([jnp.sum, jnp.max, energy]))),), channels


def _attention(draw: st.DrawFn, channels: int) -> Drawn:
    residual = draw(st.booleans())
    features = channels if residual else draw(WIDTHS)
    heads, head_dim = draw(st.sampled_from([2, 3, 4])), draw(st.sampled_from([2, 3, 4]))
    block = Attention(heads=heads, head_dim=head_dim, features=features)
    return ((Residual(body=(block,)) if residual else block),), features


BUILDERS: tuple[Builder, ...] = (
    _depthwise,
    _grouped,
    _dense,
    _identity,
    _projected,
    _concatenate,
    _split,
    _shuffle,
    _pool,
    _squeeze_excite,
    _spatial_gate,
    _attention,
)


@st.composite
def networks(draw: st.DrawFn, *required: Builder) -> Blocks:
    """Returns a convolution, the `required` and two other blocks, and the way to vectors."""
    others = draw(st.lists(st.sampled_from(BUILDERS), min_size=2, max_size=2, unique=True))
    spec, channels = _conv(draw, IMAGES[-1])
    for build in draw(st.permutations([*required, *others])):
        added, channels = build(draw, channels)
        spec += added
    return (*spec, draw(st.sampled_from([Flatten(), GlobalPool()])))


def _examples(builder: Builder, count: int) -> list[Blocks]:
    """Returns `count` networks with `builder`, late and far apart: hypothesis repeats itself."""
    found: dict[Blocks, None] = {}

    @seed(BUILDERS.index(builder))
    @settings(
        database=None,
        phases=[Phase.generate],
        max_examples=4 * count + 40,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(networks(builder))
    def collect(spec: Blocks) -> None:
        found[spec] = None

    collect()
    return list(found)[::-4][:count]


@functools.cache
def sample(count: int) -> tuple[Blocks, ...]:
    """Returns `count` networks, always the same ones, every builder equally often."""
    each = math.ceil(count / len(BUILDERS))
    drawn = [_examples(builder, each) for builder in BUILDERS]
    return tuple(itertools.chain.from_iterable(zip(*drawn, strict=True)))[:count]


def weights(module: nn.Module, seed: int, x: Any = None) -> dict[str, Any]:
    """Returns random numpy variables of `module` for `x`, by default images; compiles nothing.

    Kernels keep the size of what passes through them. Variances are positive and scales lie away
    from zero, so that no channel is dead before it is pruned.
    """
    random = np.random.default_rng(seed)

    def draw(path: Iterable[Any], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(tuple(path)[-1:], simple=True)
        match name:
            case "var":
                value = random.uniform(0.5, 1.5, leaf.shape)
            case "scale":
                value = random.uniform(0.5, 1.5, leaf.shape) * random.choice([-1, 1], leaf.shape)
            case "kernel":
                value = random.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
            case _:
                value = random.normal(size=leaf.shape) / 2
        return value.astype(leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros(IMAGES) if x is None else x)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def images(seed: int) -> np.ndarray:
    """Returns random images of shape `IMAGES`."""
    return np.random.default_rng(seed).normal(size=IMAGES).astype(np.float32)


def _alone(*between: Block) -> Blocks:
    return (Conv(features=8), *between, GlobalPool())


_RELU = Activation(function=nn.relu)

FIXED: dict[str, Blocks] = {
    "conv": _alone(_RELU, Conv(features=6)),
    "conv-without-bias": _alone(Norm(), _RELU, Conv(features=6, bias=False)),
    "depthwise": _alone(Depthwise()),
    "depthwise-multiplier": _alone(Depthwise(multiplier=2)),
    "grouped": _alone(Grouped(features=12)),
    "dense": _alone(Dense(features=6)),
    "norm": _alone(Norm()),
    "gelu": _alone(Activation(function=nn.gelu)),
    "silu": _alone(Activation(function=nn.silu)),
    "sigmoid": _alone(Activation(function=nn.sigmoid)),
    "tanh": _alone(Activation(function=nn.tanh)),
    "identity-residual": _alone(Residual(body=(_RELU, Conv(features=8)))),
    "projected-residual": _alone(Residual(body=(_RELU, Conv(features=6)), project=6)),
    "concatenate": _alone(Concatenate(body=(Conv(features=6),)), Norm()),
    "two-concatenations": _alone(
        Concatenate(body=(Conv(features=6),)),
        Residual(body=(Parallel(left=3, right=11),)),
        Concatenate(body=(Conv(features=2),)),
        Residual(body=(Parallel(left=15, right=1),)),
    ),
    "concatenation-of-products": _alone(
        Concatenate(body=(Conv(features=4),)),
        Residual(body=(Conv(features=12), Shuffle())),
        Grouped(features=8),
    ),
    "two-products": _alone(
        Depthwise(multiplier=2), Residual(body=(Conv(features=8), Depthwise(multiplier=2)))
    ),
    "split": _alone(Split(left=(Conv(features=4),), right=(_RELU,))),
    "shuffle": _alone(Grouped(features=8), Shuffle(), Grouped(features=8)),
    "max-pool": _alone(Pool()),
    "mean-pool": _alone(Pool(function=nn.avg_pool, window=3, stride=1)),
    "squeeze-excite": _alone(SqueezeExcite(hidden=4)),
    "channel-sum": _alone(SpatialGate(reduce=jnp.sum)),
    "channel-sum-of-sigmoids": _alone(Activation(function=nn.sigmoid), SpatialGate(reduce=jnp.sum)),
    "channel-max": _alone(SpatialGate()),
    "channel-energy": _alone(SpatialGate(reduce=energy)),
    "channel-energy-of-sigmoids": _alone(
        Activation(function=nn.sigmoid), SpatialGate(reduce=energy)
    ),
    "attention": _alone(Attention(heads=3, head_dim=4, features=6)),
    "flatten": (Conv(features=8), Pool(), Flatten()),
}
"""Hand-written networks, each with one block alone between a convolution and the head."""
