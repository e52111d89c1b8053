"""CUB-200-2011, birds of 200 species: what networks from ImageNet are transferred to.

It is read as it is published, from the folder `CUB_200_2011`, or as TensorFlow Datasets (TFDS) has
prepared it:

    python -m experiments.data prepare caltech_birds2011 --data-dir DIR

Source: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data import files, prepared

if TYPE_CHECKING:
    from grain.sources import RandomAccessDataSource

NAME, FOLDER = "caltech_birds2011", "CUB_200_2011"
CLASSES = 200
HELD_OUT = 600
"""Training images to make choices on, of 5,994; the published test images are for test."""


@dataclass(frozen=True)
class Files:
    """Images in files at random access, as `imagenet.batches` reads them."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Returns one, still encoded."""
        path = self.paths[index]
        return {"image": path.read_bytes(), "label": self.labels[index], "path": path}


def source(
    part: str, *, data_dir: Path | None = None, limit: int | None = None
) -> "RandomAccessDataSource[Mapping[str, Any]]":
    """Returns images as JPEG bytes, and their labels from 0, at random access.

    Args:
      part: `train`, `validation` or `test`. Of the folder `HELD_OUT` random images are held out for
        validation, of TFDS the first ones, as it has shuffled them.
      data_dir: where `CUB_200_2011` lies, or where TFDS has prepared it; `TFDS_DATA_DIR` or
        `~/tensorflow_datasets` by default.
      limit: at most that many.

    Raises:
      ValueError: neither is there, or a file is missing or damaged.
    """
    if data_dir is not None and (data_dir / FOLDER).exists():
        return _published(data_dir / FOLDER, part, limit)
    import tensorflow_datasets as tfds

    builder = prepared.builder(NAME, data_dir, published=FOLDER)
    encoded = dict.fromkeys(("image", "segmentation_mask"), tfds.decode.SkipDecoding())
    with prepared.reading(builder, part):
        count = builder.info.splits["train"].num_examples
        last = count if limit is None else min(count, HELD_OUT + limit)
        slices = {"train": f"train[{HELD_OUT}:{last}]", "validation": f"train[:{HELD_OUT}]"}
        return builder.as_data_source(slices.get(part, part), decoders=encoded)


def _published(folder: Path, part: str, limit: int | None) -> Files:
    """Returns the images of a part of the folder, by its lists."""
    names = _listed(folder / "images.txt")
    trains = _numbers(folder / "train_test_split.txt", names, range(2))
    labels = _numbers(folder / "image_class_labels.txt", names, range(1, CLASSES + 1))
    every = sorted(names, key=names.__getitem__)
    chosen = [image for image in every if not trains[image]]
    if part != "test":
        some = np.random.default_rng(0).permutation([image for image in every if trains[image]])
        chosen = (some[:HELD_OUT] if part == "validation" else some[HELD_OUT:]).tolist()
    if not chosen:
        raise files.damaged(folder, "a data set with images for every part", f"none for {part}")
    chosen = chosen[:limit]
    paths = [files.required(folder / "images" / names[image], "an image") for image in chosen]
    return Files(tuple(paths), tuple(labels[image] - 1 for image in chosen))


def _numbers(path: Path, names: Mapping[str, str], allowed: range) -> dict[str, int]:
    """Returns the number that a list gives to each of these images."""
    found = _listed(path)
    if other := sorted(names.keys() ^ found.keys()):
        came = f"of image {', '.join(other[:5])} only one of both has a line"
        raise files.damaged(path, "about the images in images.txt", came)
    for image, text in found.items():
        if not (text.isdecimal() and int(text) in allowed):
            expected = f"a list of numbers from {allowed[0]} to {allowed[-1]}"
            raise files.damaged(path, expected, f"image {image} has {text!r}")
    return {image: int(text) for image, text in found.items()}


def _listed(path: Path) -> dict[str, str]:
    """Returns {number of an image: what is said of it} of a list."""
    text = files.required(path, "a list of CUB-200-2011").read_text("utf-8", errors="replace")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if wrong := [row for row in rows if len(row) != 2]:
        raise files.damaged(path, "a list, the number of an image and a word", " ".join(wrong[0]))
    if len(found := dict(rows)) < len(rows):
        raise files.damaged(path, "a list with a line for each image", "an image has two")
    return found
