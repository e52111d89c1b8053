"""Image classification data sets as arrays in memory.

A data set is a function without arguments that returns a `Dataset`; `DATASETS` names them for the
command line. To add one, write the function and enter it there: nothing else knows data sets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images and labels of one part of a data set."""

    images: np.ndarray  # f32[n, height, width, channels], normalized by the training images
    labels: np.ndarray  # i32[n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data set cut into three disjoint parts; choices are made on `validation`, never on `test`.

    Attributes:
      name: its name on the command line.
      classes: number of classes; labels run from 0 to `classes - 1`.
      train: what the weights are fitted to.
      validation: what choices (thresholds, hyper-parameters) are made on.
      test: what results are reported on.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.train.images.shape[1:]  # pyright: ignore[reportReturnType]


def digits() -> Dataset:
    """Returns the 1,797 handwritten digits (8x8, gray) that scikit-learn carries; no download.

    The split is the same for every run, so accuracies of different seeds are on the same images:
    1,197 for training, 200 for validation, 400 for test.

    Source: Alpaydin and Kaynak, "Cascading Classifiers", Kybernetika 1998 (the UCI repository).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.asarray(bunch.images, np.float32)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = np.asarray(bunch.target, np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    return _split("digits", images, labels, validation=200, test=400)


DATASETS: Mapping[str, Callable[[], Dataset]] = MappingProxyType({"digits": digits})


def load(name: str) -> Dataset:
    """Returns the data set of that name.

    Raises:
      ValueError: there is none.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}.\nFix: one of {sorted(DATASETS)}.")
    return DATASETS[name]()


def _split(
    name: str, images: np.ndarray, labels: np.ndarray, *, validation: int, test: int
) -> Dataset:
    """Returns a data set split at random, always alike, normalized by its training images."""
    order = np.random.default_rng(0).permutation(len(labels))
    rest, test_rows = np.split(order, [len(order) - test])
    train_rows, validation_rows = np.split(rest, [len(rest) - validation])
    mean = images[train_rows].mean(axis=(0, 1, 2))
    std = images[train_rows].std(axis=(0, 1, 2))

    def split(rows: np.ndarray) -> Split:
        return Split((images[rows] - mean) / std, labels[rows])

    return Dataset(
        name=name,
        classes=int(labels.max()) + 1,
        train=split(train_rows),
        validation=split(validation_rows),
        test=split(test_rows),
    )
