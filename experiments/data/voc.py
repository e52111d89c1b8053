"""PASCAL VOC as it is published: `VOCdevkit/VOC2012` with JPEGImages, ImageSets and labels.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010.
"""

from pathlib import Path

from experiments.data import files

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
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
