"""Hand-written networks, each with one block alone between a convolution and the head."""

from typing import NamedTuple

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


def alone(*between: Block) -> Blocks:
    return (Conv(features=8), *between, GlobalPool())


RELU = Activation(function=nn.relu)

FIXED: dict[str, Blocks] = {
    "conv": alone(RELU, Conv(features=6)),
    "conv-without-bias": alone(Norm(), RELU, Conv(features=6, bias=False)),
    "depthwise": alone(Depthwise()),
    "depthwise-multiplier": alone(Depthwise(multiplier=2)),
    "grouped": alone(Grouped(features=12)),
    "dense": alone(Dense(features=6)),
    "norm": alone(Norm()),
    "gelu": alone(Activation(function=nn.gelu)),
    "silu": alone(Activation(function=nn.silu)),
    "sigmoid": alone(Activation(function=nn.sigmoid)),
    "tanh": alone(Activation(function=nn.tanh)),
    "identity-residual": alone(Residual(body=(RELU, Conv(features=8)))),
    "projected-residual": alone(Residual(body=(RELU, Conv(features=6)), project=6)),
    "concatenate": alone(Concatenate(body=(Conv(features=6),)), Norm()),
    "two-concatenations": alone(
        Concatenate(body=(Conv(features=6),)),
        Residual(body=(Parallel(left=3, right=11),)),
        Concatenate(body=(Conv(features=2),)),
        Residual(body=(Parallel(left=15, right=1),)),
    ),
    "concatenation-of-products": alone(
        Concatenate(body=(Conv(features=4),)),
        Residual(body=(Conv(features=12), Shuffle())),
        Grouped(features=8),
    ),
    "two-products": alone(
        Depthwise(multiplier=2), Residual(body=(Conv(features=8), Depthwise(multiplier=2)))
    ),
    "split": alone(Split(left=(Conv(features=4),), right=(RELU,))),
    "shuffle": alone(Grouped(features=8), Shuffle(), Grouped(features=8)),
    "max-pool": alone(Pool()),
    "mean-pool": alone(Pool(function=nn.avg_pool, window=3, stride=1)),
    "squeeze-excite": alone(SqueezeExcite(hidden=4)),
    "channel-sum": alone(SpatialGate(reduce=jnp.sum)),
    "channel-sum-of-sigmoids": alone(Activation(function=nn.sigmoid), SpatialGate(reduce=jnp.sum)),
    "channel-max": alone(SpatialGate()),
    "channel-energy": alone(SpatialGate(reduce=energy)),
    "channel-energy-of-sigmoids": alone(
        Activation(function=nn.sigmoid), SpatialGate(reduce=energy)
    ),
    "attention": alone(Attention(heads=3, head_dim=4, features=6)),
    "grouped-query-attention": alone(
        GroupedQuery(heads=4, kv_heads=2, head_dim=3, features=6, repeat=True)
    ),
    "grouped-query-einsum": alone(GroupedQuery(heads=4, kv_heads=2, head_dim=3, features=6)),
    "multi-query-attention": alone(
        GroupedQuery(heads=2, kv_heads=1, head_dim=3, features=6, repeat=True)
    ),
    "multi-query-einsum": alone(GroupedQuery(heads=3, kv_heads=1, head_dim=3, features=6)),
    "fused-attention": alone(FusedAttention(heads=2, head_dim=4, features=6)),
    "layer-norm": alone(LayerNorm(), RELU),
    "rms-norm": alone(RMSNorm(), RELU),
    "group-norm": alone(GroupNorm(groups=4), RELU),
    "stacked": alone(
        Stacked(
            layers=3,
            body=(Residual(body=(Norm(), RELU, Conv(features=6), RELU, Conv(features=8))),),
        )
    ),
    "stacked-attention": alone(
        Stacked(body=(Residual(body=(Attention(heads=3, head_dim=2, features=8),)),))
    ),
    "shared-dense": alone(Shared(dense=True)),
    "shared-conv": alone(Shared()),
    "u-net": alone(UNet(body=(Conv(features=6), UNet(body=(RELU, Conv(features=4))), RELU))),
    "swiglu": alone(SwiGLU(hidden=6, features=5)),
    "flatten": (Conv(features=8), Pool(), Flatten()),
}
"""Hand-written networks, each with one block alone between a convolution and the head."""


class Cut(NamedTuple):
    """A network, the kept channels of its groups, and the network written by hand for them."""

    spec: Blocks
    keep: dict[str, tuple[int, ...]]
    written: Blocks


def _normed(features: int, groups: int) -> Blocks:
    return (Conv(features=features), GroupNorm(groups=groups), RELU, GlobalPool())


_GROUPS, _CHANNELS = "Conv_0/kernel[3.0]", "Conv_0/kernel[3.1]"

GROUP_NORMS = {
    "groups": Cut(_normed(32, 8), {_GROUPS: (0, 1, 3, 6)}, _normed(16, 4)),
    "channels-of-a-group": Cut(_normed(32, 8), {_CHANNELS: (1, 3)}, _normed(16, 8)),
    "groups-and-channels": Cut(
        _normed(32, 4), {_GROUPS: (3, 0), _CHANNELS: (1, 2, 4, 6, 7)}, _normed(10, 2)
    ),
    "groups-of-a-convolution": Cut(
        (*_normed(12, 4)[:3], Grouped(features=8, groups=4), GroupNorm(groups=2), GlobalPool()),
        {_GROUPS: (1,), "Conv_0/kernel[3.2]": (0, 2)},
        (*_normed(4, 2)[:3], Grouped(features=4, groups=2), GroupNorm(groups=1), GlobalPool()),
    ),
    "groups-in-a-residual": Cut(
        alone(
            Residual(body=(GroupNorm(groups=4), Conv(features=12), GroupNorm(groups=2)), project=12)
        ),
        {"Conv_0/kernel[3.0]": (0, 2, 3), "Conv_1/kernel[3.1]": (0, 1, 4, 5)},
        (
            Conv(features=6),
            Residual(body=(GroupNorm(groups=3), Conv(features=8), GroupNorm(groups=2)), project=8),
            GlobalPool(),
        ),
    ),
}
"""The shapes of the first two are the same, the networks are not."""
