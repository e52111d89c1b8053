"""Networks for small devices: depthwise and grouped convolutions, shuffles, gates."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import IMAGES, LARGER, conv, depthwise, ends, norm, pooled
from zoo.zoo import Network, linen


def shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of every group out to all groups."""
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return grouped.swapaxes(-1, -2).reshape(x.shape)


class ShuffleUnitV1(nn.Module):
    """A bottleneck of grouped 1x1 convolutions with a shuffle; with a stride it concatenates.

    Source: Zhang et al., ShuffleNet, CVPR 2018, figure 2; the bottleneck is a quarter.
    """

    features: int
    groups: int
    stride: int = 1
    first_groups: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        inner = self.features // 4
        features = self.features - (x.shape[-1] if self.stride > 1 else 0)
        y = conv(inner, (1, 1), feature_group_count=self.first_groups or self.groups)(x)
        y = shuffle(nn.relu(norm(y, train)), self.groups)
        y = norm(depthwise(y, self.stride), train)
        y = norm(conv(features, (1, 1), feature_group_count=self.groups)(y), train)
        if self.stride > 1:
            short = nn.avg_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            return nn.relu(jnp.concatenate([short, y], axis=-1))
        return nn.relu(x + y)


class ShuffleNetV1(nn.Module):
    """A stem, then stages of `units` units; the first grouped convolution is not grouped."""

    stem: int
    stages: tuple[int, ...]
    groups: int
    units: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu(norm(conv(self.stem, (3, 3))(x), train))
        for stage, (features, units) in enumerate(zip(self.stages, self.units, strict=True)):
            first = 1 if stage == 0 else None
            x = ShuffleUnitV1(features, self.groups, 2, first)(x, train=train)
            for _ in range(units - 1):
                x = ShuffleUnitV1(features, self.groups)(x, train=train)
        return pooled(x)


class ShuffleUnitV2(nn.Module):
    """Half of the channels pass, the others are transformed, then all are shuffled.

    Source: Ma et al., ShuffleNet V2, ECCV 2018, figure 3.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        half = self.features // 2
        left, right = (x, x) if self.stride > 1 else jnp.split(x, 2, axis=-1)
        if self.stride > 1:
            left = norm(depthwise(left, self.stride), train)
            left = nn.relu(norm(conv(half, (1, 1))(left), train))
        right = nn.relu(norm(conv(half, (1, 1))(right), train))
        right = norm(depthwise(right, self.stride), train)
        right = nn.relu(norm(conv(half, (1, 1))(right), train))
        return shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(nn.Module):
    """A stem, stages of `units` units, a 1x1 convolution."""

    stem: int
    stages: tuple[int, ...]
    units: tuple[int, ...]
    last: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu(norm(conv(self.stem, (3, 3))(x), train))
        for features, units in zip(self.stages, self.units, strict=True):
            x = ShuffleUnitV2(features, 2)(x, train=train)
            for _ in range(units - 1):
                x = ShuffleUnitV2(features)(x, train=train)
        return pooled(nn.relu(norm(conv(self.last, (1, 1))(x), train)))


class MobileNetV1(nn.Module):
    """Depthwise and pointwise convolutions in turn."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu6(norm(conv(8, (3, 3))(x), train))
        for features, stride in ((12, 1), (16, 2)):
            x = nn.relu6(norm(depthwise(x, stride), train))
            x = nn.relu6(norm(conv(features, (1, 1))(x), train))
        return pooled(x)


class Inverted(nn.Module):
    """An inverted residual, with a gate from squeeze and excite where `squeeze` is given."""

    features: int
    expanded: int
    stride: int = 1
    squeeze: int | None = None
    activation: str = "relu6"
    gate: str = "sigmoid"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        act = getattr(nn, self.activation)
        y = act(norm(conv(self.expanded, (1, 1))(x), train))
        y = act(norm(depthwise(y, self.stride), train))
        if self.squeeze is not None:
            mean = y.mean(axis=(1, 2), keepdims=True)
            small = act(nn.Conv(self.squeeze, (1, 1), name="squeeze")(mean))
            y = y * getattr(nn, self.gate)(nn.Conv(self.expanded, (1, 1), name="excite")(small))
        y = norm(conv(self.features, (1, 1))(y), train)
        return x + y if self.stride == 1 else y


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.relu6(norm(conv(8, (3, 3))(x), train))
        x = Inverted(8, 24)(x, train=train)
        x = Inverted(12, 24, 2)(x, train=train)
        return pooled(nn.relu6(norm(conv(16, (1, 1))(x), train)))


class MobileNetV3(nn.Module):
    """Hard swish, and hard sigmoid gates."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.hard_swish(norm(conv(8, (3, 3))(x), train))
        for stride in (1, 2):
            x = Inverted(8, 16, stride, 4, "hard_swish", "hard_sigmoid")(x, train=train)
        x = nn.hard_swish(nn.Dense(12, name="last")(x.mean(axis=(1, 2))))
        return nn.Dense(5, name="head")(x)


class EfficientNet(nn.Module):
    """An MBConv block with swish."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.silu(norm(conv(8, (3, 3))(x), train))
        x = Inverted(8, 16, 1, 4, "silu")(x, train=train)
        return pooled(nn.silu(norm(conv(12, (1, 1))(x), train)))


NETWORKS: tuple[Network, ...] = (
    linen(
        "ShuffleNetV1",
        ShuffleNetV1(8, (32,), 2, (3,)),
        IMAGES,
        overrides=lambda widths: {
            "ShuffleUnitV1_0": {"groups": widths["ShuffleUnitV1_0/Conv_0/kernel[3.0]"]}
        },
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 4,
            "ShuffleUnitV1_0/Conv_0/kernel[3.0]": 2,
            "ShuffleUnitV1_0/Conv_0/kernel[3.1]": 2,
            "ShuffleUnitV1_1/Conv_0/kernel": 2,
            "ShuffleUnitV1_2/Conv_0/kernel": 2,
        },
        frozen=ends(),
    ),
    linen(
        "ShuffleNetV1 whose shuffles do not align",
        ShuffleNetV1(6, (24, 48), 3, (2, 1)),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 2, "ShuffleUnitV1_2/Conv_2/kernel": 8},
        frozen=ends()
        | {
            "reshape of": [
                "*ShuffleUnitV1_*/BatchNorm_*",
                "ShuffleUnitV1_*/Conv_* 3",
                "ShuffleUnitV1_*/Conv_2/kernel 2",
                "head/kernel 0",
            ]
        },
    ),
    linen(
        "ShuffleNetV2",
        ShuffleNetV2(6, (16,), (3,), 12),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 6,
            "Conv_1/kernel": 12,
            "ShuffleUnitV2_0/Conv_1/kernel[3.0]": 2,
            "ShuffleUnitV2_0/Conv_1/kernel[3.1]": 2,
            "ShuffleUnitV2_0/Conv_1/kernel[3.2]": 4,
            "ShuffleUnitV2_0/Conv_2/kernel": 8,
            "ShuffleUnitV2_1/Conv_0/kernel": 8,
            "ShuffleUnitV2_2/Conv_0/kernel": 8,
        },
        frozen=ends(),
    ),
    linen(
        "MobileNetV1",
        MobileNetV1(),
        IMAGES,
        elsewhere=LARGER,
        groups={"Conv_0/kernel": 8, "Conv_2/kernel": 12, "Conv_4/kernel": 16},
        frozen=ends(),
    ),
    linen(
        "MobileNetV2",
        MobileNetV2(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 16,
            "Inverted_0/Conv_0/kernel": 24,
            "Inverted_1/Conv_0/kernel": 24,
            "Inverted_1/Conv_2/kernel": 12,
        },
        frozen=ends(),
    ),
    linen(
        "MobileNetV3",
        MobileNetV3(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Inverted_0/Conv_0/kernel": 16,
            "Inverted_1/Conv_0/kernel": 16,
            "Inverted_1/Conv_2/kernel": 8,
            "Inverted_0/squeeze/kernel": 4,
            "Inverted_1/squeeze/kernel": 4,
            "last/kernel": 12,
        },
        frozen=ends(),
    ),
    linen(
        "EfficientNet",
        EfficientNet(),
        IMAGES,
        elsewhere=LARGER,
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel": 12,
            "Inverted_0/Conv_0/kernel": 16,
            "Inverted_0/squeeze/kernel": 4,
        },
        frozen=ends(),
    ),
)
