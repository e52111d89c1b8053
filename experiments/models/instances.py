"""The detector with one head more, which sees every box from near: for masks, or for keypoints."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models.detector import Trunk

NEAR = 14
"""Rows and columns that the head sees of a box."""
SIZE = 2 * NEAR
"""Rows and columns that it gives."""
CONVOLUTIONS = 2
"""Of the head; Mask R-CNN has 4 for masks and 8 for keypoints."""


def aligned(features: jax.Array, boxes: jax.Array, size: int, *, stride: int = 1) -> jax.Array:
    """Returns the features in boxes, f32[n, boxes, size, size, c]: RoIAlign.

    A box is divided into size x size bins; each is the mean at 2 x 2 regular places in it, between
    the four nearest features. As these weights are those of the row times those of the column, two
    contractions do it: shapes are static, nothing is gathered. What is more than one feature beyond
    the edge is zero.

    Args:
      features: f32[n, h, w, c]; the middle of the first is stride / 2 pixels from the corner.
      boxes: f32[n, boxes, 4]: top, left, bottom, right in pixels.
      size: bins along an axis.
      stride: pixels between features.

    Source: He et al., Mask R-CNN, ICCV 2017, with the half pixel of the later code of its authors.
    """
    ends = [(boxes[..., axis], boxes[..., axis + 2]) for axis in (0, 1)]
    rows, columns = (
        _weights(low / stride, high / stride, size, length)
        for (low, high), length in zip(ends, features.shape[1:3], strict=True)
    )
    of_rows = jnp.einsum("nbrh,nhwc->nbrwc", rows, features)
    return jnp.einsum("nbsw,nbrwc->nbrsc", columns, of_rows)


def _weights(low: jax.Array, high: jax.Array, size: int, length: int) -> jax.Array:
    """Returns what each feature along an axis counts in each bin, f32[n, boxes, size, length]."""
    share = (jnp.arange(2 * size) + 0.5) / (2 * size)
    low, high = low[..., None], high[..., None]
    places = low + (high - low) * share[None, None] - 0.5
    there = (places > -1) & (places < length)
    nearest = jnp.clip(places, 0, length - 1)[..., None]
    apart = jnp.abs(nearest - jnp.arange(length, dtype=places.dtype)[None, None, None])
    weights = jnp.where(there[..., None], jnp.maximum(1 - apart, 0), 0)
    return weights.reshape(*low.shape[:2], size, 2, length).mean(axis=3)


class PartHead(nn.Module):
    """Convolutions on what is in a box, then twice the resolution.

    Source: He et al., Mask R-CNN, ICCV 2017, figure 4, with fewer and narrower convolutions.

    Attributes:
      width: channels of its convolutions.
      outputs: channels that it gives.
    """

    width: int
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits, f32[n, boxes, 2 h, 2 w, outputs], of features f32[n, boxes, h, w, c]."""
        for _ in range(CONVOLUTIONS):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.relu(nn.ConvTranspose(self.width, (2, 2), strides=(2, 2))(x))
        return nn.Conv(self.outputs, (1, 1), name="logits")(x)


class InstanceDetector(Trunk):
    """A detector of at least three stages, and the head that sees given boxes from near.

    It sees the features of the neck, and of the stage before those that the neck reads.

    Attributes:
      outputs: channels that this head gives, of every place in a box.
    """

    outputs: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, boxes: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Returns logits and boxes as the `Head` of boxes, and f32[n, boxes, SIZE, SIZE, outputs].

        Args:
          x: images f32[n, height, width, channels].
          boxes: f32[n, boxes, 4]: top, left, bottom, right in pixels.
        """
        (*_, finer), merged, found = self.located(x)
        near = [
            aligned(features, boxes, NEAR, stride=stride)
            for features, stride in ((finer, self.stride // 2), (merged, self.stride))
        ]
        head = PartHead(self.neck, self.outputs, name="parts")
        return found, head(jnp.concatenate(near, axis=-1))
