"""Residual networks of grouped and depthwise convolutions."""

import flax.linen as nn
import jax

from zoo.zoo import Network, linen, normal


class ResNeXt(nn.Module):
    """Two bottleneck blocks whose 3x3 convolution has `cardinality` groups."""

    features: int = 8
    inner: int = 12
    cardinality: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not train)(x)

        x = nn.relu(norm(nn.Conv(self.features, (3, 3), use_bias=False)(x)))
        for _ in range(2):
            y = nn.relu(norm(nn.Conv(self.inner, (1, 1), use_bias=False)(x)))
            y = nn.Conv(self.inner, (3, 3), feature_group_count=self.cardinality, use_bias=False)(y)
            y = norm(nn.Conv(self.features, (1, 1), use_bias=False)(nn.relu(norm(y))))
            x = nn.relu(x + y)
        return nn.Dense(5, name="head")(x.mean(axis=(1, 2)))


NETWORKS: tuple[Network, ...] = (
    linen(
        "ResNeXt",
        ResNeXt(),
        normal(8, 8, 3),
        elsewhere=normal(16, 12, 3),
        groups={
            "Conv_0/kernel": 8,
            "Conv_1/kernel[3.0]": 3,
            "Conv_1/kernel[3.1]": 4,
            "Conv_2/kernel[3.1]": 4,
            "Conv_4/kernel[3.0]": 3,
            "Conv_4/kernel[3.1]": 4,
            "Conv_5/kernel[3.1]": 4,
        },
        frozen={
            "axis of an input": ["Conv_0/kernel 2"],
            "axis of output": ["head/kernel 1", "head/bias 0"],
        },
    ),
)
