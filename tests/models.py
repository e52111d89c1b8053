"""Networks of the literature with known costs, as plain Linen modules."""

from collections.abc import Sequence

import flax.linen as nn
import jax

CIFAR = (1, 32, 32, 3)
"""Shape of one CIFAR image, NHWC."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the stride is not 1."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.Conv(self.features, (3, 3), strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if self.stride != 1:
            x = nn.Conv(self.features, (1, 1), strides, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet for CIFAR with 6 * `blocks` + 2 layers: 3 for ResNet-20, 9 for ResNet-56.

    Source: He et al., Deep Residual Learning for Image Recognition, section 4.2, with projections
    (option B) where the width doubles.
    """

    blocks: int
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        for features in (16, 32, 64):
            for index in range(self.blocks):
                stride = 2 if features > 16 and index == 0 else 1
                x = ResidualBlock(features, stride)(x, train=train)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class CifarVgg(nn.Module):
    """VGG for CIFAR: BatchNorm, 3x3 convolutions, a maximum where a stage ends, one Dense layer.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, the
    released `vgg.py`.
    """

    stages: Sequence[Sequence[int]]
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for index, widths in enumerate(self.stages):
            if index:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for features in widths:
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


RESNET_20 = CifarResNet(3)
RESNET_56 = CifarResNet(9)
VGG_16 = CifarVgg(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3))
VGG_19 = CifarVgg(((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4))
