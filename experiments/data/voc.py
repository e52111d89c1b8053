"""PASCAL VOC as it is published: `VOCdevkit/VOC2012` with JPEGImages, ImageSets and labels.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from experiments.data import files
from experiments.data.objects import Boxes, boxes, number

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
EDGES = ("ymin", "xmin", "ymax", "xmax")
VOID = 255
"""The number of pixels that count nowhere: edges, and what is too difficult."""


def root(data_dir: Path, year: int) -> Path:
    """Returns the folder of a year.

    Raises:
      ValueError: there is none.
    """
    return files.required(data_dir / "VOCdevkit" / f"VOC{year}", f"PASCAL VOC {year}")


def names(folder: Path, task: str, part: str) -> list[str]:
    """Returns the names of the images of a part, such as `train`, of Main or Segmentation."""
    return files.lines(folder / "ImageSets" / task / f"{part}.txt")


def masks(year: int, data_dir: Path, part: str) -> list[tuple[Path, Path]]:
    """Returns the files of images and of their label images; of the test set none are public."""
    folder = root(data_dir, year)
    return [
        (folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
        for name in names(folder, "Segmentation", part)
    ]


def annotation(path: Path, classes: Sequence[str]) -> Boxes:
    """Returns the objects in an XML file of PASCAL VOC.

    Args:
      path: of the file, of one image.
      classes: names of objects.

    Raises:
      ValueError: it is missing or damaged, or has an object that is none of the classes.
    """
    text = files.required(path, "the objects of an image").read_bytes()
    try:
        found = ElementTree.fromstring(text).findall("object")
        return boxes([_object(item, classes) for item in found])
    except (ElementTree.ParseError, ValueError) as error:
        raise files.damaged(path, "the XML of PASCAL VOC", error) from error


def _object(item: ElementTree.Element, classes: Sequence[str]) -> tuple[list[float], int]:
    """Returns the box of an object and its class; pixels of the file count from 1 to the last."""
    texts = {f"bndbox/{edge}": item.findtext(f"bndbox/{edge}") for edge in EDGES}
    if missing := [place for place, text in texts.items() if text is None]:
        raise ValueError(f"an object has no {' or '.join(missing)}")
    top, left, bottom, right = (float(text or "") for text in texts.values())
    label = number((item.findtext("name") or "").strip(), classes)
    difficult = (item.findtext("difficult") or "").strip() == "1"
    return [top - 1, left - 1, bottom, right], -label if difficult else label
