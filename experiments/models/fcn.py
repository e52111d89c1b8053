"""FCN: a VGG without its Dense layers gives a score to every place, upsampled to the image."""

import jax
from flax import linen as nn

from experiments.models import layers

WINDOW = 7
"""Of the first hidden layer: what pooling leaves of 224 pixels, where VGG has its first Dense."""


class Fcn(nn.Module):
    """Stages of 3x3 convolutions, pooling after each, hidden convolutions, and scores per class.

    With the stride of the last stage (FCN-32s of five stages) the scores are upsampled at once.
    With a lower one (16 is FCN-16s, 8 is FCN-8s) they are doubled and the scores of the pooling
    before are added, down to that stride. Height and width of images are multiples of the last
    stage's stride.

    Source: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, sections
    4.1 to 4.3: scores start at zero. Deviations: BatchNorm after every convolution in place of
    biases and dropout, for there are no pretrained weights and gates need it; zeros around the
    kernels instead of 100 pixels around the image; bilinear upsampling that is not trained.

    Attributes:
      layers: convolutions in each stage.
      widths: channels of each stage.
      classes: number of scores.
      hidden: channels of the convolutions after the stages: the first 7x7, the others 1x1.
      stride: pixels between the finest scores: a power of two, at most 2 ** stages.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    classes: int = 21
    hidden: tuple[int, ...] = (4096, 4096)
    stride: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits f32[batch, height, width, classes] of f32[batch, height, width, channels].

        Raises:
          ValueError: the fields do not fit each other, or the images do not fit the strides.
        """
        self._check(x.shape)
        pooled = []
        for count, width in zip(self.layers, self.widths, strict=True):
            for _ in range(count):
                x = _block(width, 3, train, x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            pooled.append(x)
        for i, width in enumerate(self.hidden):
            x = _block(width, 1 if i else WINDOW, train, x)
        scores = self._score(x)
        skips = len(pooled) - self.stride.bit_length() + 1
        for x in pooled[-2 : -2 - skips : -1]:
            scores = _upsampled(scores, 2) + self._score(x)
        return _upsampled(scores, self.stride)

    def _score(self, x: jax.Array) -> jax.Array:
        return nn.Conv(self.classes, (1, 1), kernel_init=nn.initializers.zeros)(x)

    def _check(self, shape: tuple[int, ...]) -> None:
        stages = len(self.widths)
        strides, last = [2**k for k in range(1, stages + 1)], 2**stages
        bad = []
        if len(self.layers) != stages:
            bad.append(f"layers {self.layers} has {len(self.layers)} stages, widths {stages}")
        if self.stride not in strides:
            bad.append(f"stride {self.stride} is none of {strides}, those of {stages} stages")
        if shape[1] % last or shape[2] % last:
            bad.append(f"images of {shape[1]}x{shape[2]} are not multiples of {last} pixels")
        if bad:
            fix = "Fix: one entry for each stage, a stride among theirs, images of 2 ** stages."
            raise ValueError("\n".join([*bad, fix]))


def _block(features: int, size: int, train: bool, x: jax.Array) -> jax.Array:
    return nn.relu(layers.norm(train)(layers.conv(features, size)(x)))


def _upsampled(scores: jax.Array, factor: int) -> jax.Array:
    n, height, width, classes = scores.shape
    return jax.image.resize(scores, (n, factor * height, factor * width, classes), "bilinear")
