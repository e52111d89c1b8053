"""Detection data sets of photographs, in folders as they are published: PASCAL VOC, COCO, raccoons.

To add one, write a function like `raccoon` and enter it in `FOLDERS`.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments.data import files, objects, voc
from experiments.data.objects import Boxes, Objects

RACCOON = ("raccoon",)
COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)

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
        each = _json(folder / "boxes.json")
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


def coco(data_dir: Path, part: str) -> Labeled:
    """Returns the boxes of COCO 2017: `coco/annotations/instances_train2017.json`, `train2017`.

    A crowd is neither to be found nor missed.

    Source: Lin et al., "Microsoft COCO", ECCV 2014.
    """
    folder = files.required(data_dir / "coco", "COCO 2017")
    path, found = folder / "annotations" / f"instances_{part}2017.json", defaultdict(list)
    value = _json(path)
    try:
        label = {item["id"]: objects.number(item["name"], COCO) for item in value["categories"]}
        for item in value["annotations"]:
            left, top, width, height = item["bbox"]
            if width > 0 and height > 0:  # a few are empty
                sign = -1 if item["iscrowd"] else 1
                box = (top, left, top + height, left + width)
                found[item["image_id"]].append((box, sign * label[item["category_id"]]))
        return [
            (folder / f"{part}2017" / item["file_name"], objects.boxes(found[item["id"]]))
            for item in value["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise files.damaged(path, "a file of instances of COCO", repr(error)) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(files.required(path, "boxes").read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise files.damaged(path, "JSON", error) from error
    if not isinstance(value, dict):
        raise files.damaged(path, "a JSON object", f"it is a {type(value).__name__}")
    return value


FOLDERS: Mapping[str, Folder] = MappingProxyType(
    {
        "raccoon": Folder(raccoon, "train", "test", RACCOON),
        "voc2011": Folder(partial(voc_boxes, 2011), "train", "val", voc.CLASSES),
        "voc2012": Folder(partial(voc_boxes, 2012), "train", "val", voc.CLASSES),
        "coco": Folder(coco, "train", "val", COCO),
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
