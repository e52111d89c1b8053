"""Data sets of images or bytes: arrays in memory, or, for photographs, streams from disk.

To add one of TensorFlow Datasets (TFDS), enter it in `PREPARED`; to add any other, write a function
like `_digits`. Nothing else knows data sets. Those of TFDS are prepared once, with a network:

    python -m experiments.data prepare cifar10 --data-dir DIR
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, starmap
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.data import prepared, text
from experiments.data.augment import Augment
from experiments.data.split import Split as Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One part of a data set that does not fit into memory.

    Attributes:
      size: number of images.
      image_shape: height, width and channels of one image.
      batches: (batch size, seed) -> all images in batches. With a seed in a new order, augmented,
        full batches only; with None in the order of the files, as they are, the last maybe smaller.
        A third argument, places in a batch, asks for the images at these alone.
    """

    size: int
    image_shape: tuple[int, int, int]
    batches: Callable[..., Iterator[Split]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data set cut into three disjoint parts; choices are made on `validation`, never on `test`.

    Attributes:
      name: its name on the command line.
      classes: number of classes; labels run from 0 to `classes - 1`.
      train: what the weights are fitted to.
      validation: what choices (thresholds, hyper-parameters) are made on.
      test: what results are reported on.
      mean: that of the training images per channel, in units of raw pixels.
      std: their standard deviation, likewise.
      augment: what training images go through in a step; those of a stream have been cropped.
    """

    name: str
    classes: int
    train: Split | Stream
    validation: Split | Stream
    test: Split | Stream
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.train.image_shape


class Recipe(NamedTuple):
    """How a data set of TFDS is used."""

    train: str  # the splits to train on, in the words of TFDS
    validation: int  # images cut from them
    augment: Augment


SHIFT_AND_MIRROR = Augment(pad=4, flip=True)
MOBILE = Augment(jitter=0.4, lighting=0.1)
"""Of a stream, whose images are cropped and mirrored. Source: Yu et al., ICLR 2019, their code."""

# SVHN: all 604,388 training images, as in the paper, which names no augmentation for it.
PREPARED: Mapping[str, Recipe] = MappingProxyType(
    {
        "cifar10": Recipe("train", 5000, SHIFT_AND_MIRROR),
        "cifar100": Recipe("train", 5000, SHIFT_AND_MIRROR),
        "mnist": Recipe("train", 5000, Augment()),
        "svhn_cropped": Recipe("train+extra", 6000, Augment()),
    }
)
NAMES = ("digits", "text", *PREPARED, "imagenet2012", "caltech_birds2011")


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    workers: int = 0,
    mobile: bool = False,
) -> Dataset:
    """Returns the data set of that name; its parts are the same images for every run.

    Args:
      name: one of `NAMES`.
      data_dir: where TFDS has prepared it; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.
        The digits need none; of "text" it is a file, or a folder of *.txt, if not the default text;
        of the birds also where their folder lies as it is published.
      limit: at most that many training images, as many of each class as there are; a smaller limit
        takes a part of what a larger one takes. Mean and deviation stay those of all of them. Of
        a stream the first ones, as they are shuffled: to know the classes is to read it all.
      workers: processes that decode the images of a stream; none decodes in threads of this one.
      mobile: of ImageNet, whether training images are as for mobile networks: crops of a quarter of
        the area at least, and other colors.

    Raises:
      ValueError: there is no such data set, it is not prepared in `data_dir`, or cannot be read; or
        `mobile` is asked of another one than ImageNet.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} leaves no training images.\nFix: 1 or more, or none.")
    if name not in NAMES:
        raise ValueError(f"no data set {name!r}.\nFix: one of {sorted(NAMES)}.")
    if name == "imagenet2012":
        return _imagenet(data_dir, limit, workers, mobile)
    if mobile:
        raise ValueError(f"mobile is not for {name}, only for imagenet2012.\nFix: leave it out.")
    if name == "text":
        return _text(data_dir, limit)
    if name == "caltech_birds2011":
        return _birds(data_dir, limit, workers)
    dataset = _digits() if name == "digits" else _prepared(name, data_dir)
    if limit is not None and isinstance(dataset.train, Split):
        dataset = replace(dataset, train=_balanced(dataset.train, limit))
    return dataset


def _digits() -> Dataset:
    """Returns the 1,797 handwritten digits (8x8, 17 grays) that scikit-learn carries; no download.

    1,197 are for training, 200 for validation, 400 for test.

    Source: Alpaydin and Kaynak, "Cascading Classifiers", Kybernetika 1998 (the UCI repository).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images, np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = np.asarray(bunch.target, np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    train, validation, test = shuffled(Split(images, labels), 200, 400)
    mean, std = mean_and_std(train.images)
    return Dataset(
        name="digits",
        classes=10,
        train=train,
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        augment=Augment(),
    )


def _text(path: Path | None, limit: int | None) -> Dataset:
    """Returns windows of bytes as if they were images; the first `limit` of them to train on."""
    train, validation, test = text.parts(text.read(path))
    return Dataset(
        name="text",
        classes=256,
        train=Split(train.images[:limit], train.labels[:limit]),
        validation=validation,
        test=test,
        mean=(0.0,),
        std=(1.0,),
        augment=Augment(),
    )


def _prepared(name: str, data_dir: Path | None) -> Dataset:
    """Returns a data set of `PREPARED`."""
    recipe = PREPARED[name]
    builder = prepared.builder(name, data_dir)
    everything = Split(*prepared.read(builder, recipe.train))
    train, validation = shuffled(everything, recipe.validation)
    mean, std = mean_and_std(train.images)
    return Dataset(
        name=name,
        classes=builder.info.features["label"].num_classes,
        train=train,
        validation=validation,
        test=Split(*prepared.read(builder, "test")),
        mean=mean,
        std=std,
        augment=recipe.augment,
    )


def _imagenet(data_dir: Path | None, limit: int | None, workers: int, mobile: bool) -> Dataset:
    """Returns ImageNet from disk; its own validation images, with public labels, are for test."""
    from experiments.data import imagenet

    def part(split: str) -> Stream:
        images = imagenet.source(split, data_dir=data_dir)
        return _stream(images, workers, area=0.25 if mobile else 0.08)

    first = imagenet.HELD_OUT
    train = part(f"train[{first}:]")
    if limit is not None and limit < train.size:
        train = part(f"train[{first}:{first + limit}]")
    return Dataset(
        name="imagenet2012",
        classes=1000,
        train=train,
        validation=part(f"train[:{first}]"),
        test=part("validation"),
        mean=imagenet.MEAN,
        std=imagenet.STD,
        augment=MOBILE if mobile else Augment(),
    )


def _birds(data_dir: Path | None, limit: int | None, workers: int) -> Dataset:
    """Returns CUB-200-2011 from disk, as ImageNet is cropped, mirrored and normalized."""
    from experiments.data import birds, imagenet

    train, validation, test = (
        _stream(birds.source(part, data_dir=data_dir, limit=most), workers)
        for part, most in (("train", limit), ("validation", None), ("test", None))
    )
    return Dataset(
        name="caltech_birds2011",
        classes=birds.CLASSES,
        train=train,
        validation=validation,
        test=test,
        mean=imagenet.MEAN,
        std=imagenet.STD,
        augment=Augment(),
    )


def _stream(images: Any, workers: int, *, area: float = 0.08) -> Stream:
    """Returns encoded images as a stream; see `imagenet.batches`."""
    from experiments.data import imagenet

    def batches(
        batch_size: int, seed: int | None, rows: np.ndarray | None = None
    ) -> Iterator[Split]:
        found = imagenet.batches(
            images,
            train=seed is not None,
            batch_size=batch_size,
            seed=seed or 0,
            worker_count=workers,
            size=imagenet.SIZE,
            area=area,
            rows=rows,
        )
        with closing(iter(found)) as iterator:
            yield from starmap(Split, iterator)

    shape = (imagenet.SIZE, imagenet.SIZE, 3)
    return Stream(size=len(images), image_shape=shape, batches=batches)


def shuffled(split: Split, *sizes: int) -> list[Split]:
    """Returns the split in an order that is always the same, cut: the rest, then the sizes."""
    order = np.random.default_rng(0).permutation(len(split.labels))
    ends = len(order) - np.cumsum(sizes[::-1])[::-1]
    return [Split(split.images[rows], split.labels[rows]) for rows in np.split(order, ends)]


def some(train: Split | Stream, *, size: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the images of `examples`."""
    return (batch.images for batch in examples(train, size=size, count=count, seed=seed))


def examples(train: Split | Stream, *, size: int, count: int, seed: int) -> Iterator[Split]:
    """Yields at most `count` batches of training images as they are: of a stream the first ones.

    A batch has `size` images, or all where there are fewer.
    """
    size = min(size, train.size)
    count = min(count, train.size // size)
    if isinstance(train, Stream):
        yield from islice(train.batches(size, None), count)
    else:
        order = np.random.default_rng(seed).permutation(train.size)
        for rows in order[: count * size].reshape(count, size):
            yield Split(train.images[rows], train.labels[rows])


def _balanced(split: Split, limit: int) -> Split:
    """Returns the first images of each class in turn until there are `limit`, in their order."""
    turn = np.empty(len(split.labels), int)
    for label in np.unique(split.labels):
        rows = np.flatnonzero(split.labels == label)
        turn[rows] = np.arange(len(rows))
    rows = np.sort(np.lexsort((split.labels, turn))[:limit])
    return Split(split.images[rows], split.labels[rows])


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns both per channel, exactly, from how often each value occurs."""
    values = np.arange(256)
    counts = np.zeros((images.shape[-1], 256), int)
    for start in range(0, len(images), 1000):  # a histogram copies what it counts to 64 bits
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
    n = counts[0].sum()
    mean = counts @ values / n
    std = np.sqrt(counts @ values**2 / n - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())
