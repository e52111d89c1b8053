"""Small data sets in the layouts in which their authors publish them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.data import voc

PALETTE = [channel for i in range(256) for channel in (i, 255 - i, i // 2)]

PERSON = [4, 12, 2, 15, 11, 1, *[0, 0, 0] * 15]
"""Keypoints: one that is seen, one that is hidden, others that are not labeled."""


def picture(path: Path, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Writes a smooth image and returns its pixels as they were before any compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    smooth = Image.fromarray(corners).resize(shape[::-1], Image.Resampling.BILINEAR)
    smooth.save(path)
    return np.asarray(smooth)


def mask(path: Path, labels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(PALETTE)
        image.putdata(labels.ravel().tolist())
    image.save(path)


def numbers(shape: tuple[int, int], classes: int, void: int, seed: int) -> np.ndarray:
    """Blocks of 4 x 4 pixels with one label each, a row of void ones at the top."""
    height, width = shape
    blocks = np.random.default_rng(seed).integers(0, classes, (height // 4, width // 4))
    labels = blocks.repeat(4, 0).repeat(4, 1)
    labels[:4] = void
    return labels


def camvid(path: Path, counts: dict[str, int], *, apart: bool = True) -> dict[str, list]:
    """Writes parts of CamVid; returns the images and labels of each."""
    made = {}
    for part, count in counts.items():
        folder = path / "camvid" / part
        made[part] = []
        for i in range(count):
            name = f"{part}_{i:03}"
            image = picture(folder / f"{name}.{'png' if apart else 'jpg'}", (32, 64), i)
            labels = numbers((32, 64), 11, 11, i)
            mask((folder.with_name(f"{part}annot") if apart else folder) / f"{name}.png", labels)
            made[part].append((image, labels))
    return made


def voc_folder(path: Path, year: int) -> Path:
    return path / "VOCdevkit" / f"VOC{year}"


def listed(folder: Path, task: str, part: str, names: list[str]) -> None:
    file = folder / "ImageSets" / task / f"{part}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names))


def voc_masks(path: Path, counts: dict[str, int], year: int = 2012) -> dict[str, list]:
    """Writes parts of VOC with label images that have a palette; returns images and labels."""
    folder, made = voc_folder(path, year), {}
    for place, (part, count) in enumerate(counts.items()):
        names = [f"2007_{place}{i:05}" for i in range(count)]
        listed(folder, "Segmentation", part, names)
        made[part] = []
        for i, name in enumerate(names):
            image = picture(folder / "JPEGImages" / f"{name}.jpg", (32, 40), 100 * place + i)
            labels = numbers((32, 40), len(voc.CLASSES) + 1, voc.VOID, 100 * place + i)
            mask(folder / "SegmentationClass" / f"{name}.png", labels, palette=True)
            made[part].append((image, labels))
    return made


def annotation(path: Path, objects: list[tuple[str, tuple[int, int, int, int], bool]]) -> None:
    """Writes the XML of PASCAL VOC; boxes are xmin, ymin, xmax, ymax, from 1 to the last pixel."""
    each = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox><part><name>head</name></part></object>"
        for name, box, difficult in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{each}</annotation>")


def voc_boxes(path: Path, year: int = 2012) -> Path:
    """Writes two images of a dog and a difficult cat, one for each part, and one of nothing."""
    folder = voc_folder(path, year)
    listed(folder, "Main", "train", ["2008_000001", "2008_000003"])
    listed(folder, "Main", "val", ["2008_000002"])
    for i in (1, 2, 3):
        name = f"2008_00000{i}"
        picture(folder / "JPEGImages" / f"{name}.jpg", (40, 80), i)
        objects = [("dog", (1, 11, 20, 40), False), ("cat", (41, 1, 80, 20), True)]
        annotation(folder / "Annotations" / f"{name}.xml", objects if i < 3 else [])
    return folder


def coco(path: Path) -> Path:
    """Writes a person, as a polygon with keypoints, and a crowd of zebras, as run lengths."""
    folder, here = path / "coco", {"image_id": 9}
    columns = [1600, *[20] * 79]  # the upper half of each of the last 40 columns
    runs = {"size": [40, 80], "counts": columns}
    corners = {"segmentation": [[0, 10, 20, 10, 0, 40]], "keypoints": PERSON, "num_keypoints": 2}
    person = here | corners | {"id": 1, "category_id": 1, "iscrowd": 0, "area": 300.0}
    crowd = here | {"id": 2, "iscrowd": 1, "area": 800.0, "segmentation": runs}
    nothing = {"keypoints": [0] * 51, "num_keypoints": 0}
    person, crowd = person | {"bbox": [0, 10, 20, 30]}, crowd | {"bbox": [40, 0, 40, 20]}
    empty = person | {"id": 3, "bbox": [40, 0, 0, 20]}
    for part in ("train", "val"):
        picture(folder / f"{part}2017" / "000000000009.jpg", (40, 80), 0)
        images = [{"id": 9, "file_name": "000000000009.jpg", "height": 40, "width": 80}]
        for kind, other in (("instances", 24), ("person_keypoints", 1)):
            names = [{"id": 1, "name": "person"}, {"id": 24, "name": "zebra"}]
            value = {
                "images": images,
                "annotations": [person, crowd | nothing | {"category_id": other}, empty],
                "categories": names if other == 24 else names[:1],
            }
            file = folder / "annotations" / f"{kind}_{part}2017.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(value))
    return folder


def raccoons(path: Path, count: int, *, xml: bool) -> None:
    """Writes images with one raccoon each, its box in XML or in one file for all."""
    folder, each = path / "raccoon", {}
    for i in range(count):
        name = f"raccoon-{i}"
        picture(folder / ("images" if xml else "") / f"{name}.jpg", (40, 80), i)
        each[name] = {"boxes": [[10 + i, 10, 40 + i, 30]], "labels": ["raccoon"]}
        if xml:
            box = (11 + i, 11, 40 + i, 30)
            annotation(folder / "annotations" / f"{name}.xml", [("raccoon", box, False)])
    if not xml:
        (folder / "boxes.json").write_text(json.dumps(each))


def birds(path: Path, counts: dict[str, int]) -> dict[str, dict[str, int]]:
    """Writes CUB-200-2011, the number of an image its color; returns its classes by part."""
    folder, rows, made = path / "CUB_200_2011", [], {}
    for part, count in counts.items():
        made[part] = {}
        for i in range(count):
            number, label = len(rows) + 1, (7 * len(rows)) % 200 + 1
            name = f"{label:03}.Bird_{label}/Bird_{number:04}.jpg"
            picture(folder / "images" / name, (30 + i, 40), number)
            rows.append((number, name, label, int(part == "train")))
            made[part][name] = label - 1
    for name, column in (("images", 1), ("image_class_labels", 2), ("train_test_split", 3)):
        text = "".join(f"{row[0]} {row[column]}\n" for row in rows)
        (folder / f"{name}.txt").write_text(text)
    return made


def div2k(path: Path, counts: dict[str, int]) -> dict[str, list]:
    """Writes parts of DIV2K, all of unlike sizes; returns halves and images of each."""
    made = {}
    for place, (part, count) in enumerate(counts.items()):
        made[part] = []
        for i in range(count):
            name, shape = f"{place * 800 + i + 1:04}", (24 + 2 * i, 36 - 2 * i)
            high = picture(path / f"DIV2K_{part}_HR" / f"{name}.png", shape, i)
            low = path / f"DIV2K_{part}_LR_bicubic" / "X2" / f"{name}x2.png"
            half = (shape[0] // 2, shape[1] // 2)
            made[part].append((picture(low, half, 100 + i), high))
    return made


def pairs(path: Path, name: str, shapes: list[tuple[int, int]]) -> list:
    """Writes a test set of super-resolution with halves of its own; returns both of each."""
    folder, made = path / name / "image_SRF_2", []
    for i, (height, width) in enumerate(shapes):
        high = picture(folder / f"img_{i:03}_SRF_2_HR.png", (height, width), i)
        low = picture(folder / f"img_{i:03}_SRF_2_LR.png", (height // 2, width // 2), 50 + i)
        made.append((low, high))
    return made


def prepared(
    path: Path, name: str, version: str, features: dict, rows: dict[str, list], config: str = ""
) -> None:
    """Writes a data set as TFDS prepares it, `rows` of each split; bytes need no TensorFlow."""
    import tensorflow_datasets as tfds

    made = tfds.core.Version(version)
    members: dict[str, Any] = {
        "VERSION": made,
        "_info": lambda self: tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        ),
        "_split_generators": lambda self, _: {
            part: self._generate_examples(found) for part, found in rows.items()
        },
        "_generate_examples": lambda _, found: enumerate(found),
    }
    if config:
        members["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=config, version=made)]
    with tfds.core.registered.skip_registration():
        builder = type(name, (tfds.core.GeneratorBasedBuilder,), members)
    how = {"config": config} if config else {}
    builder(data_dir=path, file_format="array_record", **how).download_and_prepare()
