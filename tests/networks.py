"""Networks for the tests: a network is a tuple of blocks."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from blocks import Blocks, Residual, run
from fixed_networks import FIXED as FIXED

IMAGES = (2, 4, 4, 3)
"""Shape of the input, NHWC."""

CLASSES = 5


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
