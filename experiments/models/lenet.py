"""LeNet-5 and CifarNet: 5x5 convolutions with pooling, and Dense layers."""

import jax
from flax import linen as nn

from experiments.models import layers
from experiments.models.mlp import Mlp


class LeNet(nn.Module):
    """5x5 convolutions, each with ReLU and 2x2 max pooling; the map goes flat into Dense layers.

    Without `norm` it has the sizes of the networks of the papers; `Mlp` says what the norm is for.

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, with the
    widths of Caffe, `examples/mnist/lenet.prototxt`, which pruning is measured on; here a ReLU is
    after the convolutions too. As CifarNet: TF-Slim, `nets/cifarnet.py`, without its local response
    normalization, which ties neighboring channels, and without dropout.

    Attributes:
      widths: channels of each convolution.
      hidden: units of each hidden Dense layer.
      classes: number of logits.
      padding: pixels around the image of each convolution.
      norm: makes what normalizes every layer but the last; None leaves the layers as they are.
    """

    widths: tuple[int, ...] = (20, 50)
    hidden: tuple[int, ...] = (500,)
    classes: int = 10
    padding: int = 0
    norm: layers.Norm | None = layers.norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels]."""
        for width in self.widths:
            x = layers.conv(width, 5, padding=self.padding, use_bias=self.norm is None)(x)
            x = layers.activated(x, self.norm, train=train)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return Mlp(self.hidden, self.classes, self.norm)(x, train=train)
