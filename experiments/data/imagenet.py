"""ImageNet, or images like its, from disk: decoded, cropped and batched in worker processes.

It is prepared once, from the archives that image-net.org gives to those who register; TFDS says
where to put them:

    python -m experiments.data prepare imagenet2012 --data-dir DIR

What it yields is u8; normalize it with `augment.normalized(MEAN, STD, images)` inside jit.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from grain.sources import RandomAccessDataSource

from experiments.data.files import damaged

# Those of the training images in red, green and blue, as torchvision has them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
SIZE = 224
HELD_OUT = 50_000
"""Training images to make choices on: the first, as TFDS has shuffled them."""


def source(split: str, *, data_dir: Path | None = None) -> RandomAccessDataSource[Any]:
    """Returns the images as JPEG bytes and their labels, at random access.

    Args:
      split: in the words of TFDS; `train` or `validation`, or a slice such as `train[50000:]`.
      data_dir: where it is prepared; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.

    Raises:
      ValueError: it is not prepared there.
    """
    import tensorflow_datasets as tfds

    from experiments.data import prepared

    builder = prepared.builder("imagenet2012", data_dir)
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def batches(
    images: RandomAccessDataSource[Any],
    *,
    train: bool,
    batch_size: int,
    seed: int = 0,
    epochs: int | None = 1,
    worker_count: int = 0,
    size: int = SIZE,
    area: float = 0.08,
    rows: np.ndarray | None = None,
) -> grain.IterDataset:
    """Returns batches (images u8[batch_size, size, size, 3], labels i32[batch_size]), in RGB.

    They depend on `seed` alone and not on `worker_count`. The iterator of the result goes on where
    another stopped with `get_state()` and `set_state(state)`.

    Args:
      images: what `source` returns, or such mappings: `image`, `label`, and maybe `path`.
      train: in a new order every epoch, each image cropped and flipped at random, only full
        batches; otherwise in order, the center of each, the last batch as it is.
      batch_size: images per batch.
      seed: of the order and of the crops.
      epochs: how often; without end if None.
      worker_count: processes that decode; none decodes in threads of this one.
      size: height and width of the crops; for evaluation the shorter side is 8 / 7 of it before.
      area: share of an image that a random crop has at least.
      rows: places in a batch, rising, of which alone the images are read: the part of one process.

    Raises:
      ValueError: there are too few images for one full batch to train on.
    """
    if not flags.FLAGS.is_parsed():  # grain reads its flags when it starts workers
        flags.FLAGS.mark_as_parsed()
    count = len(images)
    if train and count < batch_size:
        raise ValueError(
            f"{count} training images do not fill a batch of {batch_size}.\n"
            "Fix: a smaller batch_size."
        )
    dataset = grain.MapDataset.source(images).seed(seed)
    if train:
        dataset = dataset.shuffle().random_map(partial(_augmented, size=size, area=area))
        count -= count % batch_size
    else:
        dataset = dataset.map(partial(_centered, size=size))
    if rows is not None:
        dataset = _Part(dataset, rows, batch_size, count)
    part = batch_size if rows is None else len(rows)
    dataset = dataset.batch(part, drop_remainder=train).repeat(epochs)
    # An element is a whole batch from here on: grain's default would hold 500 of them.
    threads = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    workers = grain.multiprocessing.MultiprocessingOptions(num_workers=worker_count)
    return dataset.to_iter_dataset(threads).mp_prefetch(workers)


class _Part(grain.MapDataset[Any]):
    """Of every batch the examples at some places."""

    def __init__(self, whole: grain.MapDataset[Any], rows: np.ndarray, size: int, count: int):
        super().__init__(whole)
        self._rows, self._size = rows, size
        batches, rest = divmod(count, size)
        self._count = batches * len(rows) + int(np.count_nonzero(rows < rest))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        epoch, index = divmod(index, len(self))
        number, row = divmod(index, len(self._rows))
        (whole,) = self.parents
        return whole[epoch * len(whole) + number * self._size + int(self._rows[row])]


def random_box(
    height: int, width: int, rng: np.random.Generator, least: float = 0.08
) -> tuple[slice, slice]:
    """Returns rows and columns: `least` to all of the area, 3:4 to 4:3, the center if none fits.

    Source: torchvision's RandomResizedCrop, after Szegedy et al., 2015.
    """
    for _ in range(10):
        area = height * width * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top = rng.integers(height - rows, endpoint=True)
            left = rng.integers(width - columns, endpoint=True)
            return slice(top, top + rows), slice(left, left + columns)
    return center_box(height, width, min(height, width * 4 // 3), min(width, height * 4 // 3))


def center_box(height: int, width: int, rows: int, columns: int) -> tuple[slice, slice]:
    """Returns the rows and columns of that many in the middle."""
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def _augmented(
    example: Mapping[str, Any], rng: np.random.Generator, *, size: int, area: float
) -> tuple[np.ndarray, np.int32]:
    image = _decoded(example)
    image = _resized(image[random_box(*image.shape[:2], rng, area)], size, size)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    return _rgb(image), np.int32(example["label"])


def _centered(example: Mapping[str, Any], *, size: int) -> tuple[np.ndarray, np.int32]:
    image = _decoded(example)
    height, width = image.shape[:2]
    scale = size * 8 / 7 / min(height, width)
    image = _resized(image, round(height * scale), round(width * scale))
    height, width = image.shape[:2]
    return _rgb(image[center_box(height, width, size, size)]), np.int32(example["label"])


def _decoded(example: Mapping[str, Any]) -> np.ndarray:
    """Returns the image in OpenCV's blue, green, red; gray ones too. Turns none, as torchvision."""
    kind = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    data = example["image"]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), kind) if data else None
    if image is None:
        what = f"{len(data)} bytes"
        if path := example.get("path"):
            raise damaged(path, "an image", f"OpenCV cannot decode its {what}")
        raise ValueError(f"{what} are not an image.\nFix: remove the set and prepare it again.")
    return image


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    shrinks = height < image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
