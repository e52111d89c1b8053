"""Random crops, flips and colors of training images, and normalization: in jit, on u8 pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

_GRAY = (0.299, 0.587, 0.114)
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_COMPONENTS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What training images go through; nothing by default.

    Attributes:
      pad: pixels of zeros around the image, before a crop of its size at a random place.
      flip: mirror half of the images left to right.
      jitter: brightness, contrast and saturation each change by a factor of 1 - jitter to
        1 + jitter.
      lighting: deviation of the three components of color noise; images are in RGB.
    """

    pad: int = 0
    flip: bool = False
    jitter: float = 0.0
    lighting: float = 0.0


def augmented(augment: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns each image changed at random, in its dtype; the same for the same key.

    The padding is zero before the normalization, as in the authors' code (torchvision's
    `RandomCrop` in front of `Normalize`), so it is black and not the mean color.

    Args:
      augment: what to do.
      key: a new one for every batch.
      images: raw pixels [n, height, width, channels].

    Source: Liu et al., Network Slimming, ICCV 2017, section 4.1.
    """
    crop_key, flip_key, jitter_key, lighting_key = jax.random.split(key, 4)
    if augment.pad:
        images = _cropped(images, crop_key, augment.pad)
    if augment.flip:
        flips = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(flips, images[:, :, ::-1], images)
    if augment.jitter:
        images = _jittered(images, jitter_key, augment.jitter)
    if augment.lighting:
        images = _lit(images, lighting_key, augment.lighting)
    return images


def normalized(mean: Sequence[float], std: Sequence[float], images: jax.Array) -> jax.Array:
    """Returns f32 images of mean 0 and deviation 1 per channel.

    Args:
      mean: that of the training images per channel, in units of raw pixels.
      std: their standard deviation.
      images: raw pixels [n, height, width, channels], or other numbers [n, ..., channels].
    """
    shape = (*(1,) * (images.ndim - 1), -1)
    center, scale = (jnp.array(x, jnp.float32).reshape(shape) for x in (mean, std))
    return (images.astype(jnp.float32) - center) / scale


def _cropped(images: jax.Array, key: jax.Array, pad: int) -> jax.Array:
    n, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), shape)

    return jax.vmap(crop)(padded, corners)


def _jittered(images: jax.Array, key: jax.Array, amount: float) -> jax.Array:
    """Returns images of other brightness, contrast and saturation, in this order.

    Source: torchvision's ColorJitter, which draws the order too.
    """
    shape = (3, len(images), 1, 1, 1)
    bright, contrast, saturation = jax.random.uniform(
        key, shape, minval=1 - amount, maxval=1 + amount
    )
    pixels = _clipped(images * bright)
    pixels = _blended(pixels, jnp.mean(_gray(pixels), axis=(1, 2, 3), keepdims=True), contrast)
    return _blended(pixels, _gray(pixels), saturation).round().astype(images.dtype)


def _lit(images: jax.Array, key: jax.Array, deviation: float) -> jax.Array:
    """Returns images with noise along the principal components of the colors of ImageNet.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks",
    2012, section 4.1; the components are those of Facebook's ResNet in Torch.
    """
    along = deviation * jax.random.normal(key, (len(images), 3))
    components = 255 * np.array(_COMPONENTS, np.float32) * np.array(_DEVIATIONS, np.float32)
    noise = along @ components.T
    return _clipped(images + noise[:, None, None]).round().astype(images.dtype)


def _blended(pixels: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return _clipped(share * pixels + (1 - share) * other)


def _gray(pixels: jax.Array) -> jax.Array:
    return jnp.einsum("nhwc,c->nhw", pixels, jnp.array(_GRAY))[..., None]


def _clipped(pixels: jax.Array) -> jax.Array:
    return jnp.clip(pixels, 0, 255)
