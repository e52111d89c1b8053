"""A bottleneck ResNet whose every width is a field: the hand-written twin of a pruned one."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut, which is projected in a stage's first."""

    inner: tuple[int, int]
    out: int
    stride: int
    projected: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns f32[batch, height / stride, width / stride, out]."""
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train)
        stride = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.inner[0], (1, 1))(x)))
        y = nn.relu(norm()(conv(self.inner[1], (3, 3), stride)(y)))
        y = norm()(conv(self.out, (1, 1))(y))
        if self.projected:
            x = norm()(conv(self.out, (1, 1), stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The bottleneck ResNet of He et al. (2016) for 224-pixel images."""

    stem: int
    inner: tuple[tuple[tuple[int, int], ...], ...]
    outs: tuple[int, ...]
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits f32[batch, classes] of images f32[batch, height, width, 3]."""
        x = nn.Conv(self.stem, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, (blocks, out) in enumerate(zip(self.inner, self.outs, strict=True)):
            for j, inner in enumerate(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = Bottleneck(inner, out, stride, projected=j == 0)(x, train=train)
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))


def resnet(blocks: tuple[int, ...], *, width: int = 64, classes: int = 1000) -> ResNet:
    """Returns the network with `blocks[i]` blocks in stage i; (3, 4, 6, 3) is ResNet-50."""
    inner = tuple(((width * 2**i,) * 2,) * n for i, n in enumerate(blocks))
    outs = tuple(4 * width * 2**i for i in range(len(blocks)))
    return ResNet(width, inner, outs, classes)


def twin(model: ResNet, params: dict) -> ResNet:
    """Returns the network as a person would write it with the widths of `params`."""
    index = 0
    inner, outs = [], []
    for blocks in model.inner:
        stage = []
        for _ in blocks:
            block = params[f"Bottleneck_{index}"]
            stage.append(tuple(block[f"Conv_{k}"]["kernel"].shape[-1] for k in (0, 1)))
            index += 1
        inner.append(tuple(stage))
        outs.append(block["Conv_2"]["kernel"].shape[-1])
    return ResNet(params["Conv_0"]["kernel"].shape[-1], tuple(inner), tuple(outs), model.classes)
