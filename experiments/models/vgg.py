"""VGG: convolutions in a row, and one Dense layer for CIFAR or three for ImageNet."""

import jax
from flax import linen as nn

from experiments.models import layers
from experiments.models.mlp import Mlp


class Vgg(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, max pooling between the stages, a mean at the end.

    With hidden layers it has the form for ImageNet: instead of the mean one more pooling, and the
    map, 7x7 of images of 224x224, goes flat into Dense layers, BatchNorm and ReLU after each.

    Images need 2 ** (stages - 1) pixels in height and width, 16 with the five stages of VGG, and
    twice as many with hidden layers.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, table 1, in the form of
    the code of Network Slimming, `models/vgg.py`, and of Rethinking the Value of Network Pruning,
    `imagenet/network-slimming/vgg.py`, without the biases that BatchNorm makes superfluous.

    Attributes:
      layers: convolutions in each stage.
      widths: channels of each stage.
      classes: number of logits.
      hidden: units of each Dense layer before the classifier.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    classes: int = 10
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels].

        Raises:
          ValueError: `layers` and `widths` are about different numbers of stages.
        """
        layers.check_stages(layers=self.layers, widths=self.widths)
        for stage, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            if stage > 0:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for _ in range(count):
                x = nn.relu(layers.norm(train)(layers.conv(width, 3)(x)))
        if not self.hidden:
            return layers.classify(x, self.classes)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return Mlp(self.hidden, self.classes)(x, train=train)
