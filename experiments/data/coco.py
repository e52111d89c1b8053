"""COCO 2017 as it is published: `coco/annotations/instances_train2017.json` and `coco/train2017`.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and its code,
pycocotools, which turns polygons and run lengths into pixels.
"""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import files, objects
from experiments.data.objects import Boxes

CLASSES = (
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


Annotation = Mapping[str, Any]
"""One object of the JSON file."""
Mask = Any
"""Run lengths: `size`, height and width, and `counts`, which pycocotools packed into bytes."""


class Image(NamedTuple):
    """An image, and its objects that have a box."""

    path: Path
    height: int
    width: int
    boxes: Boxes
    annotations: Sequence[Annotation]  # of the boxes


class Part(NamedTuple):
    """One of the parts of COCO."""

    path: Path  # of the JSON file
    value: Mapping[str, Any]
    images: Sequence[Image]


def read(
    data_dir: Path, part: str, kind: str = "instances", classes: Sequence[str] = CLASSES
) -> Part:
    """Returns what `coco/annotations/KIND_PART2017.json` says of the images in `coco/PART2017`.

    Raises:
      ValueError: the file is missing or damaged, or has an object that is none of the classes.
    """
    folder = files.required(data_dir / "coco", "COCO 2017")
    path = folder / "annotations" / f"{kind}_{part}2017.json"
    value = files.json_object(path, "boxes")
    try:
        return Part(path, value, images(value, folder / f"{part}2017", classes))
    except (KeyError, TypeError, ValueError) as error:
        raise files.damaged(path, f"a file of {kind} of COCO", repr(error)) from error


def images(value: Mapping[str, Any], folder: Path, classes: Sequence[str]) -> list[Image]:
    """Returns the images of a JSON value; a crowd is neither to be found nor missed."""
    label = {item["id"]: objects.number(item["name"], classes) for item in value["categories"]}
    of_image, found = defaultdict(list), []
    for item in value["annotations"]:
        if min(item["bbox"][2:]) > 0:  # a few are empty
            of_image[item["image_id"]].append(item)
    for image in value["images"]:
        here, pairs = of_image[image["id"]], []
        for item in here:
            left, top, width, height = item["bbox"]
            sign = -1 if item["iscrowd"] else 1
            box = (top, left, top + height, left + width)
            pairs.append((box, sign * label[item["category_id"]]))
        size = image["height"], image["width"]
        found.append(Image(folder / image["file_name"], *size, objects.boxes(pairs), here))
    return found


def mask(annotation: Annotation, height: int, width: int, size: int) -> Mask:
    """Returns the mask of an object in its image, which is scaled to a square.

    Args:
      annotation: with polygons or run lengths.
      height: of the image, in pixels.
      width: likewise.
      size: height and width of the square.

    Raises:
      ValueError: there are none, they are no polygons, or run lengths of another size.
    """
    import cv2
    from pycocotools import mask as masks

    shape = annotation.get("segmentation")
    if not shape:
        raise ValueError(f"annotation {annotation['id']} has no segmentation")
    if isinstance(shape, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
            raise ValueError(f"annotation {annotation['id']} has a polygon of less than 3 points")
        factor = np.array([size / width, size / height])
        scaled = [(np.reshape(polygon, (-1, 2)) * factor).ravel().tolist() for polygon in shape]
        return masks.merge(masks.frPyObjects(scaled, size, size))
    if list(shape["size"]) != [height, width]:
        raise ValueError(
            f"annotation {annotation['id']} has run lengths of {shape['size'][0]} x "
            f"{shape['size'][1]}, in an image of {height} x {width}"
        )
    if isinstance(shape["counts"], list):
        shape = masks.frPyObjects(shape, height, width)
    if (height, width) == (size, size):
        return shape
    return encoded(cv2.resize(pixels(shape), (size, size), interpolation=cv2.INTER_NEAREST))


def pixels(mask: Mask) -> np.ndarray:
    """Returns the pixels of a mask, u8[height, width], 0 and 1."""
    from pycocotools import mask as masks

    with warnings.catch_warnings():  # it gives arrays in the way of NumPy 1
        warnings.simplefilter("ignore", DeprecationWarning)
        return masks.decode(mask)


def encoded(pixels: np.ndarray) -> Mask:
    """Returns the run lengths of pixels, [height, width], of which those count that are not 0."""
    from pycocotools import mask as masks

    return masks.encode(np.asfortranarray(pixels, np.uint8))


def keypoints(
    annotation: Annotation, height: int, width: int, size: int, *, count: int
) -> np.ndarray:
    """Returns the keypoints of an object in its image, which is scaled to a square.

    Args:
      annotation: its keypoints count pixels, x, y and v.
      height: of the image, in pixels.
      width: likewise.
      size: height and width of the square.
      count: of keypoints.

    Returns:
      f32[count, 3]: row, column and v: 0 not labeled, 1 hidden, 2 seen.

    Raises:
      ValueError: there are none, or others.
    """
    numbers = annotation.get("keypoints", ())
    if len(numbers) != 3 * count:
        raise ValueError(
            f"annotation {annotation['id']} has {len(numbers)} numbers of keypoints, expected "
            f"{3 * count}: x, y and v of {count}"
        )
    x, y, seen = np.reshape(np.asarray(numbers, np.float32), (count, 3)).T
    return np.stack([(y + 0.5) * (size / height), (x + 0.5) * (size / width), seen], axis=1)
