"""Detection data sets of photographs, in folders as they are published: PASCAL VOC, COCO, raccoons.

To add one, write a function like `raccoon` and enter it in `FOLDERS`.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.data import coco, files, objects, voc
from experiments.data.objects import Boxes, Objects

RACCOON = ("raccoon",)

Labeled = list[tuple[Path, Boxes]]
"""The file of every image, and its objects."""


class Folder(NamedTuple):
    """How a data set is used."""

    read: Callable[[Path, str], Labeled]  # (data_dir, part)
    train: str
    test: str
    classes: tuple[str, ...]


class Parts(NamedTuple):
    """What a detector is trained and measured on."""

    single: Objects  # single objects of the training images, and pieces of ground
    train: Objects
    test: Objects


def raccoon(data_dir: Path, part: str) -> Labeled:
    """Returns the raccoons: `raccoon/images/NAME.jpg` with `raccoon/annotations/NAME.xml`.

    Or all boxes in `raccoon/boxes.json`, beside NAME.jpg:
    {NAME: {"boxes": [[xmin, ymin, xmax, ymax], ...], "labels": ["raccoon", ...]}}. No parts are
    published: a quarter, by a hash of the names, is for test.

    Source: github.com/datitran/raccoon_dataset.
    """
    folder = files.required(data_dir / "raccoon", "the raccoons")
    if (folder / "annotations").exists():
        paths = sorted((folder / "annotations").glob("*.xml"))
        found = [
            (folder / "images" / f"{path.stem}.jpg", voc.annotation(path, RACCOON))
            for path in paths
            if _part(path.stem) == part
        ]
    else:
        each = files.json_object(folder / "boxes.json", "boxes")
        found = [
            (folder / f"{name}.jpg", _of_json(folder / "boxes.json", each, name))
            for name in sorted(each)
            if _part(name) == part
        ]
    return found


def _part(name: str) -> str:
    return "train" if hashlib.sha256(name.encode()).digest()[0] % 4 else "test"


def _of_json(path: Path, each: Mapping[str, Any], name: str) -> Boxes:
    try:
        pairs = zip(each[name]["boxes"], each[name]["labels"], strict=True)
        return objects.boxes(
            [
                ((ymin, xmin, ymax, xmax), objects.number(label, RACCOON))
                for (xmin, ymin, xmax, ymax), label in pairs
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise files.damaged(path, f"a file with boxes and labels of {name}", repr(error)) from error


def voc_boxes(year: int, data_dir: Path, part: str) -> Labeled:
    """Returns the objects of PASCAL VOC; the boxes of its later test sets are not public."""
    folder = voc.root(data_dir, year)
    return [
        (
            folder / "JPEGImages" / f"{name}.jpg",
            voc.annotation(folder / "Annotations" / f"{name}.xml", voc.CLASSES),
        )
        for name in voc.names(folder, "Main", part)
    ]


def coco_boxes(data_dir: Path, part: str) -> Labeled:
    """Returns the boxes of COCO 2017."""
    return [(image.path, image.boxes) for image in coco.read(data_dir, part).images]


FOLDERS: Mapping[str, Folder] = MappingProxyType(
    {
        "raccoon": Folder(raccoon, "train", "test", RACCOON),
        "voc2011": Folder(partial(voc_boxes, 2011), "train", "val", voc.CLASSES),
        "voc2012": Folder(partial(voc_boxes, 2012), "train", "val", voc.CLASSES),
        "coco": Folder(coco_boxes, "train", "val", coco.CLASSES),
    }
)


def load(
    name: str, *, size: int, single: int, data_dir: Path | None = None, limit: int | None = None
) -> Parts:
    """Returns the parts of a data set; the same for every run.

    Args:
      name: one of `FOLDERS`.
      size: height and width in pixels that images are scaled to, whatever their own.
      single: those of the images of single objects.
      data_dir: the folder in which it lies; the present one by default.
      limit: at most that many training images.

    Raises:
      ValueError: there is no such data set, or a file of it is missing or damaged.
    """
    if name not in FOLDERS:
        raise ValueError(f"no data set {name!r}.\nFix: one of {sorted(['shapes', *FOLDERS])}.")
    folder, where = FOLDERS[name], data_dir or Path()
    train, test = folder.read(where, folder.train)[:limit], folder.read(where, folder.test)
    if not (train and test):
        raise ValueError(
            f"{name} in {where} has {len(train)} images to train on and {len(test)} for test.\n"
            "Fix: --data-dir, the folder in which the data set lies as it is published."
        )
    images = objects.scaled(train, size)
    pieces = objects.pieces(images, single, ground=len(folder.classes) + 1)
    return Parts(pieces, images, objects.scaled(test, size))
