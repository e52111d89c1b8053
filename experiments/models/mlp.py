"""A network of Dense layers, 784-500-300-10 on MNIST."""

import jax
from flax import linen as nn

from experiments.models import layers


class Mlp(nn.Module):
    """Dense layers with ReLU; an image is flattened.

    Network Slimming needs scales to read, and a network without BatchNorm has none. The recipe:
    give the model a norm and train it from the start; the biases that the norm makes superfluous
    are gone. `Mlp(norm=None)` is the network before that, `Mlp()` the one after.

    Attributes:
      widths: units of each hidden layer.
      classes: number of logits.
      norm: makes what normalizes every hidden layer; None leaves the layers as they are.
    """

    widths: tuple[int, ...] = (500, 300)
    classes: int = 10
    norm: layers.Norm | None = layers.norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels]."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = layers.dense(width, use_bias=self.norm is None)(x)
            x = layers.activated(x, self.norm, train=train)
        return layers.dense(self.classes)(x)
