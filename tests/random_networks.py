"""Random networks for the laws."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import flax.linen as nn
import jax.numpy as jnp

from blocks import (
    Activation,
    Block,
    Blocks,
    Concatenate,
    Conv,
    Dense,
    Depthwise,
    Dropout,
    Flatten,
    GlobalPool,
    Grouped,
    GroupNorm,
    LayerNorm,
    Norm,
    Parallel,
    Pool,
    Residual,
    RMSNorm,
    Shared,
    Shuffle,
    SpatialGate,
    Split,
    SqueezeExcite,
    Stacked,
    SwiGLU,
    UNet,
    energy,
)
from blocks_attention import Attention, FusedAttention, GroupedQuery
from networks import IMAGES

WIDTHS = (4, 5, 6, 7, 8, 10, 12, 16)
EVEN_WIDTHS = (4, 6, 8, 12, 16)
"""Widths that halves and two groups divide; a shuffle of 6 meets itself at odds in a residual."""

ACTIVATIONS = (nn.relu, nn.gelu, nn.silu, nn.tanh, nn.sigmoid, nn.softplus)
"""The last two give no zero at zero."""


# Every builder draws blocks for an input of `channels` channels and says how many come out.

Drawn = tuple[Blocks, int]
Builder = Callable[[Random, int], Drawn]


def _after(random: Random) -> Blocks:
    """Returns what follows a layer: perhaps BatchNorm, perhaps an activation."""
    norm = (Norm(),) if random.choice([False, True]) else ()
    function = random.choice([None, *ACTIVATIONS])
    return norm if function is None else (*norm, Activation(function=function))


def _conv(random: Random, _channels: int) -> Drawn:
    features = random.choice(WIDTHS)
    return (Conv(features=features, bias=random.choice([False, True])), *_after(random)), features


def _dense(random: Random, _channels: int) -> Drawn:
    features = random.choice(WIDTHS)
    return (Dense(features=features), *_after(random)), features


def _depthwise(random: Random, channels: int) -> Drawn:
    block = Depthwise(multiplier=random.choice([1, 1, 2]), bias=random.choice([False, True]))
    return (block, *_after(random)), channels * block.multiplier


def _even(random: Random, channels: int) -> Drawn:
    """Returns a convolution to an even width, which may be left out where `channels` is one."""
    if channels % 2 == 0 and random.choice([False, True]):
        return (), channels
    features = random.choice(EVEN_WIDTHS)
    return (Conv(features=features, bias=random.choice([False, True])),), features


def _grouped(random: Random, channels: int) -> Drawn:
    before, _ = _even(random, channels)
    features = random.choice(EVEN_WIDTHS)
    return (
        *before,
        Grouped(features=features, bias=random.choice([False, True])),
        *_after(random),
    ), features


def _layer(random: Random, channels: int) -> Drawn:
    return random.choice([_conv, _depthwise, _grouped, _dense])(random, channels)


def _shuffle(random: Random, channels: int) -> Drawn:
    before, channels = random.choice([_even, _grouped])(random, channels)
    return (*before, Shuffle()), channels


def _split(random: Random, channels: int) -> Drawn:
    before, channels = _even(random, channels)
    left, left_channels = _layer(random, channels // 2)
    right, right_channels = (), channels // 2
    if random.choice([False, True]):
        right, right_channels = _layer(random, channels // 2)
    return (*before, Split(left=left, right=right)), left_channels + right_channels


def _body(random: Random, channels: int, features: int) -> Blocks:
    """Returns one or two layers, the last of which has `features` channels."""
    first = _layer(random, channels)[0] if random.choice([False, True]) else ()
    left = random.randint(1, features - 1)
    conv, parallel = Conv(features=features), Parallel(left=left, right=features - left)
    shuffled = ((conv, Shuffle()),) if features % 2 == 0 else ()
    last = random.choice([(conv,), (Dense(features=features),), (parallel,), *shuffled])
    return (*first, *last, *((Norm(),) if random.choice([False, True]) else ()))


def _identity(random: Random, channels: int) -> Drawn:
    return (Residual(body=_body(random, channels, channels)),), channels


def _projected(random: Random, channels: int) -> Drawn:
    features = random.choice(WIDTHS)
    return (Residual(body=_body(random, channels, features), project=features),), features


def _concatenate(random: Random, channels: int) -> Drawn:
    body, features = _layer(random, channels)
    return (Concatenate(body=body),), channels + features


def _pool(random: Random, channels: int) -> Drawn:
    function = random.choice([nn.max_pool, nn.avg_pool])
    window, stride = random.choice([(2, 2), (3, 1)])
    return (Pool(function=function, window=window, stride=stride),), channels


def _squeeze_excite(random: Random, channels: int) -> Drawn:
    return (SqueezeExcite(hidden=random.choice(WIDTHS)),), channels


def _spatial_gate(random: Random, channels: int) -> Drawn:
    """Returns a gate; that of the maximum takes three times as long to compile as another."""
    reduce = random.choices([jnp.sum, energy, jnp.max], weights=[2, 2, 1])[0]
    return (SpatialGate(reduce=reduce),), channels


def _attention(random: Random, channels: int) -> Drawn:
    residual = random.choice([False, True])
    features = channels if residual else random.choice(WIDTHS)
    heads, head_dim = random.choice([2, 3, 4]), random.choice([2, 3, 4])
    block = Attention(heads=heads, head_dim=head_dim, features=features)
    return ((Residual(body=(block,)) if residual else block),), features


def _layer_norm(random: Random, channels: int) -> Drawn:
    return _normed(random, channels, LayerNorm())


def _rms_norm(random: Random, channels: int) -> Drawn:
    return _normed(random, channels, RMSNorm())


def _normed(random: Random, channels: int, norm: Block) -> Drawn:
    """Returns `norm` on the stream, or before a layer that adds to it."""
    if random.choice([False, True]):
        return (norm, Activation(function=random.choice(ACTIVATIONS))), channels
    return (Residual(body=(norm, *_body(random, channels, channels))),), channels


def _group_norm(random: Random, channels: int) -> Drawn:
    before, channels = _even(random, channels)
    after, channels = _normed(random, channels, GroupNorm())
    return (*before, *after), channels


def _stacked(random: Random, channels: int) -> Drawn:
    body = (Residual(body=_body(random, channels, channels)),)
    return (Stacked(body=body, layers=random.choice([2, 3])),), channels


def _grouped_query(random: Random, channels: int) -> Drawn:
    kv_heads, repeats = random.choice([(1, 2), (1, 3), (2, 2)])
    block = GroupedQuery(
        heads=kv_heads * repeats,
        kv_heads=kv_heads,
        head_dim=random.choice([2, 3, 4]),
        features=channels,
        repeat=random.choice([False, True]),
    )
    return (Residual(body=(block,)),), channels


def _fused_attention(random: Random, _channels: int) -> Drawn:
    heads, head_dim = random.choice([2, 3]), random.choice([2, 3, 4])
    features = random.choice(WIDTHS)
    return (FusedAttention(heads=heads, head_dim=head_dim, features=features),), features


def _shared(random: Random, channels: int) -> Drawn:
    return (Shared(dense=random.choice([False, True])),), channels


def _u_net(random: Random, channels: int) -> Drawn:
    body, features = _layer(random, channels)
    if random.choice([False, True]):
        inner, added = _layer(random, features)
        body, features = (*body, UNet(body=inner)), features + added
    return (UNet(body=body),), channels + features


def _swiglu(random: Random, channels: int) -> Drawn:
    block = SwiGLU(hidden=random.choice(WIDTHS), features=channels)
    return (Residual(body=(block,)),), channels


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
    _layer_norm,
    _rms_norm,
    _group_norm,
    _stacked,
    _grouped_query,
    _fused_attention,
    _shared,
    _u_net,
    _swiglu,
)
DROPPED = 6
"""Of so many networks one has dropout."""
EACH = 3
"""Builders of a network; `BUILDERS` is a multiple of it, so that all are drawn equally often."""


def network(index: int) -> Blocks:
    """Returns a random network, always the same: a convolution, `EACH` builders, a way to vectors.

    Every `len(BUILDERS) / EACH` networks in order have each of the builders once.
    """
    turn, place = divmod(index, len(BUILDERS) // EACH)
    builders = Random(turn).sample(BUILDERS, len(BUILDERS))
    random = Random(f"network {index}")
    spec, channels = _conv(random, IMAGES[-1])
    for build in builders[EACH * place : EACH * (place + 1)]:
        added, channels = build(random, channels)
        spec += added
    last = random.choice([Flatten(), GlobalPool()])
    return (*(dropped(spec, random) if index % DROPPED == 0 else spec), last)


def dropped(spec: Blocks, random: Random) -> Blocks:
    """Returns `spec` with dropout behind some of its blocks, inside of residual blocks too."""
    found: Blocks = ()
    for block in spec:
        if isinstance(block, Residual | Stacked):
            block = replace(block, body=dropped(block.body, random))
        after = random.choice([(), (Dropout(),), (Dropout(whole=True),)])
        found = (*found, block, *after)
    return found
