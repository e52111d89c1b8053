"""Pictures and their halves: what super-resolution learns from, and how it is measured."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.data import Split, shapes

SCALE = 2
PARTS = {"train": 1200, "validation": 60, "test": 200}
"""Generated pictures of each part."""
NOISE = 2.0
"""Deviation of the noise in generated pictures, of 255."""


class Pictures(NamedTuple):
    """Pictures of one part of a data set."""

    low: np.ndarray  # u8[n, height, width, 3], the bicubic halves
    high: np.ndarray  # u8[n, 2 height, 2 width, 3]


class Photos(NamedTuple):
    """Pictures of any size."""

    low: tuple[np.ndarray, ...]  # u8[height, width, 3] each, the bicubic halves
    high: tuple[np.ndarray, ...]  # u8[2 height, 2 width, 3] each


class Dataset(NamedTuple):
    """Three disjoint parts; results are those of `test`."""

    train: Pictures | Photos
    validation: Pictures | Photos
    test: Pictures | Photos
    others: Mapping[str, Photos] = MappingProxyType({})  # what all is measured on too


def load(
    name: str, *, size: int, data_dir: Path | None = None, limit: int | None = None
) -> Dataset:
    """Returns the pictures of a data set, with their halves; the same for every run.

    Args:
      name: `shapes`, made here (see `experiments.data.shapes`), or one of `experiments.data`.
      size: height and width of the pictures that are made here; others have theirs.
      data_dir: where it is prepared, as in `experiments.data.load`.
      limit: at most that many training pictures.

    Raises:
      ValueError: there is no such data set, or its images are not color images of even size in
        memory.
    """
    if name == "shapes":
        made = enumerate(PARTS.values())
        parts = [shapes.generate(n, size=size, seed=seed, noise=NOISE)[0] for seed, n in made]
    else:
        dataset = data.load(name, data_dir=data_dir, limit=limit)
        parts = [_images(name, part) for part in (dataset.train, dataset.validation, dataset.test)]
    parts[0] = parts[0][:limit]
    height, width, colors = parts[0].shape[1:]
    if height % SCALE or width % SCALE or colors != 3:
        raise ValueError(
            f"the images of {name} are {height}x{width}x{colors}, expected color images of even "
            "height and width.\nFix: --dataset cifar10, or shapes of an even --image-size."
        )
    train, validation, test = (Pictures(halved(part), part) for part in parts)
    return Dataset(train, validation, test)


def _images(name: str, part: object) -> np.ndarray:
    if not isinstance(part, Split):
        raise ValueError(f"{name} is streamed from the disk.\nFix: --dataset cifar10.")
    return part.images


def halved(images: np.ndarray) -> np.ndarray:
    """Returns the bicubic halves, u8[n, height / 2, width / 2, c], smoothed against aliasing."""
    return _resized(images, 1 / SCALE)


def doubled(images: np.ndarray) -> np.ndarray:
    """Returns bicubic enlargements, u8[n, 2 height, 2 width, c]: what a network has to beat."""
    return _resized(images, SCALE)


def _resized(images: np.ndarray, factor: float, chunk: int = 1000) -> np.ndarray:
    parts = (images[i : i + chunk] for i in range(0, len(images), chunk))
    return np.concatenate([_resize(part, factor) for part in parts])


@partial(jax.jit, static_argnames="factor")
def _resize(images: jax.Array, factor: float) -> jax.Array:
    n, height, width, c = images.shape
    shape = (n, int(factor * height), int(factor * width), c)
    return quantized(jax.image.resize(images.astype(jnp.float32), shape, "bicubic"))


def quantized(images: jax.Array) -> jax.Array:
    """Returns u8 pixels of floats, rounded, those outside of [0, 255] at the bounds."""
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)


def crops(
    key: jax.Array, low: jax.Array, high: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the same random part of each pair, turned and mirrored; for use in jit.

    Args:
      key: a new one for every batch.
      low: [n, height, width, c].
      high: [n, 2 height, 2 width, c].
      size: pixels of a part of `low`, along height and width.
    """
    n, height, width, _ = low.shape
    top_key, left_key, form_key = jax.random.split(key, 3)
    tops = jax.random.randint(top_key, (n,), 0, height - size + 1)
    lefts = jax.random.randint(left_key, (n,), 0, width - size + 1)
    forms = jax.random.randint(form_key, (n,), 0, 8)
    return tuple(
        jax.vmap(lambda x, top, left, form, f=factor: _part(x, f * top, f * left, f * size, form))(
            images, tops, lefts, forms
        )
        for images, factor in ((low, 1), (high, SCALE))
    )  # pyright: ignore[reportReturnType]


def _part(image: jax.Array, top: jax.Array, left: jax.Array, size: int, form: jax.Array):
    part = jax.lax.dynamic_slice(image, (top, left, 0), (size, size, image.shape[-1]))
    flips = (part, part[::-1], part[:, ::-1], part[::-1, ::-1])
    return jax.lax.select_n(form, *flips, *(each.transpose(1, 0, 2) for each in flips))


def luma(images: np.ndarray) -> np.ndarray:
    """Returns Y of RGB pixels 0 to 255, f64[...], from 16 to 235.

    Source: ITU-R BT.601, as MATLAB's rgb2ycbcr, in which super-resolution is measured.
    """
    return 16 + images.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255)


def psnr(predicted: np.ndarray, true: np.ndarray, *, border: int = SCALE) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of each picture, f64[n], in dB: that of Y.

    It is 10 log10(255^2 / mean((Y' - Y)^2)) over the pixels inside of the border, Y' of the
    prediction and Y of the picture, as `luma` has them, not rounded; infinite where they agree.

    Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR
    Workshops 2017, on Set5 and Set14. On DIV2K they measure all colors within a border of the
    scale + 6 pixels; here Y is measured on all pictures.

    Args:
      predicted: u8[n, height, width, 3].
      true: likewise.
      border: pixels at each edge that do not count, by convention the scale.
    """
    inside = slice(border, -border or None)
    error = (luma(predicted) - luma(true))[:, inside, inside]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / np.mean(error**2, axis=(1, 2)))
