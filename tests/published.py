"""Small data sets in the layouts in which their authors publish them."""

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data import voc

PALETTE = [channel for i in range(256) for channel in (i, 255 - i, i // 2)]


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
