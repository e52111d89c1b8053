"""Photographs of any size and their halves: DIV2K, and folders such as Set5 and Set14.

DIV2K is read as it is published, from `DIV2K_train_HR`, `DIV2K_train_LR_bicubic/X2` and the same of
`valid`, or as TensorFlow Datasets (TFDS) has prepared it:

    python -m experiments.data prepare div2k/bicubic_x2 --data-dir DIR

Images are decoded once, and mapped into memory: see `experiments.data.cache`. They take as many
bytes there as they have pixels and colors.

Source: Agustsson and Timofte, "NTIRE 2017 Challenge on Single Image Super-Resolution: Dataset and
Study", CVPR Workshops 2017.
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from experiments.data import cache, files, pictures, prepared
from experiments.data.pictures import SCALE, Dataset, Photos, Pictures

NAME, PREPARED = "div2k", f"div2k/bicubic_x{SCALE}"
HELD_OUT = 10
"""Training images to make choices on, of 800; the published validation images are for test."""
TILE = 192
"""Height and width in pixels of what is enlarged at once of a picture."""
TAPS = 4
"""Pixels beyond its own place that a bicubic resizing by `SCALE` reads, at most."""

Pair = tuple[np.ndarray, np.ndarray]


def div2k(*, data_dir: Path | None = None, limit: int | None = None) -> Dataset:
    """Returns DIV2K with its own bicubic halves.

    The first `HELD_OUT` training images are for validation: those of TFDS as it has shuffled them.

    Args:
      data_dir: where its folders lie, or where TFDS has prepared it; `TFDS_DATA_DIR` or
        `~/tensorflow_datasets` by default.
      limit: at most that many training images.

    Raises:
      ValueError: neither is there, or a file is missing or damaged, or a half is none.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} leaves no training images.\nFix: 1 or more, or none.")
    if data_dir is not None and any(data_dir.glob("DIV2K_*")):
        read = partial(_published, data_dir)
    else:
        builder = prepared.builder(PREPARED, data_dir, published="the folders of DIV2K")
        read = partial(_prepared, builder)
    return Dataset(
        train=read("train", slice(HELD_OUT, limit and HELD_OUT + limit)),
        validation=read("train", slice(HELD_OUT)),
        test=read("valid", slice(None)),
    )


def folder(data_dir: Path | None, name: str) -> Photos:
    """Returns the pictures of a folder, such as `Set5/*.png`.

    If there is `Set5/image_SRF_2`, it gives both, `*_HR.png` and `*_LR.png`; else the halves are
    made here, of pictures cut to even size at the bottom and at the right. Gray ones count as
    pictures of three equal colors.

    Args:
      data_dir: where it lies.
      name: that of the folder.

    Raises:
      ValueError: it is not there or empty, or a file is missing or damaged, or a half is none.
    """
    root = files.required((data_dir or Path()) / name, f"the pictures of {name}")
    pairs = root / f"image_SRF_{SCALE}"
    if pairs.exists():
        high = _listed(pairs, "*_HR.png")
        low = [path.with_name(path.name.removesuffix("_HR.png") + "_LR.png") for path in high]
        return _photos(map(_pair, low, high), len(high), name)
    high = _listed(root, "*.png", "*.bmp")
    return _photos(map(_halved, high), len(high), name)


def half(image: np.ndarray) -> np.ndarray:
    """Returns the bicubic half of an image of even size, u8[height / 2, width / 2, c].

    Edges are mirrored, and the kernel is widened against aliasing, as of MATLAB's `imresize`, with
    which the field makes its halves.
    """
    inside = slice(TAPS // SCALE, -TAPS // SCALE)
    mirrored = np.pad(image, ((TAPS, TAPS), (TAPS, TAPS), (0, 0)), "symmetric")
    return pictures.halved(mirrored[None])[0, inside, inside]


def doubled(image: np.ndarray) -> np.ndarray:
    """Returns the bicubic enlargement of an image, u8[2 height, 2 width, c]; as of `half`."""
    return enlarged(lambda tile, _: pictures.doubled(tile), image, margin=TAPS, mode="symmetric")


def enlarged(
    enlarge: Callable[[np.ndarray, np.ndarray], Any],
    image: np.ndarray,
    *,
    margin: int,
    size: int = TILE,
    mode: Any = "constant",
) -> np.ndarray:
    """Returns a whole picture that was enlarged tile by tile, u8[SCALE height, SCALE width, c].

    All tiles of all pictures have one size, so `enlarge` is compiled once. What it gives of the
    margin is thrown away: where it reads no further than that, the result is that of one piece.

    Args:
      enlarge: (u8[1, height, width, c], f32[1, height, width, 1]) -> u8[1, SCALE height, SCALE
        width, c]. The second is 1 inside of the picture and 0 beyond its edges.
      image: u8[height, width, c].
      margin: pixels around a tile that it reads too; 1 or more.
      size: of a tile, without the margin.
      mode: what stands beyond the edges, as of `np.pad`; zeros by default.
    """
    height, width, colors = image.shape
    rows, columns = (-(-length // size) * size for length in (height, width))
    beyond = ((margin, margin + rows - height), (margin, margin + columns - width), (0, 0))
    padded = np.pad(image, beyond, mode)
    inside = np.pad(np.ones((height, width, 1), np.float32), beyond)
    found = np.empty((SCALE * rows, SCALE * columns, colors), np.uint8)
    kept = slice(SCALE * margin, -SCALE * margin)
    for top, left in product(range(0, rows, size), range(0, columns, size)):
        window = np.s_[None, top : top + size + 2 * margin, left : left + size + 2 * margin]
        tile = np.asarray(enlarge(padded[window], inside[window]))[0, kept, kept]
        y, x = SCALE * top, SCALE * left
        found[y : y + SCALE * size, x : x + SCALE * size] = tile
    return found[: SCALE * height, : SCALE * width]


def patches(photos: Photos, rows: np.ndarray, size: int, rng: np.random.Generator) -> Pictures:
    """Returns a random part of each of these photographs.

    Args:
      photos: where they are cut from.
      rows: places in it, i64[n].
      size: pixels of a part of the half, along height and width.
      rng: of the places in each.
    """
    low = np.empty((len(rows), size, size, 3), np.uint8)
    high = np.empty((len(rows), SCALE * size, SCALE * size, 3), np.uint8)
    for place, row in enumerate(rows):
        image = photos.low[row]
        top, left = (int(rng.integers(n - size, endpoint=True)) for n in image.shape[:2])
        y, x = SCALE * top, SCALE * left
        low[place] = image[top : top + size, left : left + size]
        high[place] = photos.high[row][y : y + SCALE * size, x : x + SCALE * size]
    return Pictures(low, high)


def _published(data_dir: Path, part: str, which: slice) -> Photos:
    what = f"the images of {NAME}"
    root = files.required(data_dir / f"DIV2K_{part}_HR", what)
    halves = files.required(data_dir / f"DIV2K_{part}_LR_bicubic" / f"X{SCALE}", f"{what}, halved")
    high = _listed(root, "*.png")[which]
    low = [halves / f"{path.stem}x{SCALE}.png" for path in high]
    return _photos(map(_pair, low, high), len(high), root)


def _prepared(builder: Any, part: str, which: slice) -> Photos:
    split = {"valid": "validation"}.get(part, part)

    def pair(row: int) -> Pair:
        low, high = (
            cache.mapped((NAME, made, row, name), lambda name=name: source[row][name])
            for name in ("lr", "hr")
        )
        if wrong := _unlike(low, high):
            raise ValueError(f"the half {row} is not {wrong[0]}: it is {wrong[1]}")
        return low, high

    with prepared.reading(builder, split):
        made, source = prepared.identity(builder, split), builder.as_data_source(split)
        rows = range(len(source))[which]
        return _photos(map(pair, rows), len(rows), builder.data_path)


def _photos(pairs: Iterable[Pair], count: int, where: object) -> Photos:
    shown = {"total": count, "transient": True, "disable": not sys.stdout.isatty()}
    found = list(track(pairs, f"Reading {where}", **shown))
    if not found:
        raise ValueError(f"{where} has no images for a part.\nFix: the whole data set.")
    low, high = zip(*found, strict=True)
    return Photos(low, high)


def _pair(low: Path, high: Path) -> Pair:
    """Returns a half and its image from their files."""
    small, large = _image(low), _even(_image(high))
    if wrong := _unlike(small, large):
        raise files.damaged(low, f"the half of {high}, {wrong[0]}", f"it is {wrong[1]}")
    return small, large


def _halved(path: Path) -> Pair:
    """Returns the half that is made here, and its image."""
    large = _even(_image(path))
    return half(large), large


def _unlike(low: np.ndarray, high: np.ndarray) -> tuple[str, str] | None:
    """Returns what a half should be and what it is, if they differ."""
    expected = (*(length // SCALE for length in high.shape[:2]), 3)
    if low.shape == expected:
        return None
    return "{}x{}x{}".format(*expected), "{}x{}x{}".format(*low.shape)


def _image(path: Path) -> np.ndarray:
    stat = files.required(path, "an image").stat()
    made = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    return cache.mapped(made, partial(files.image, path))


def _even(image: np.ndarray) -> np.ndarray:
    height, width = (length - length % SCALE for length in image.shape[:2])
    return image[:height, :width]


def _listed(root: Path, *patterns: str) -> list[Path]:
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    if not found:
        raise files.damaged(root, f"a folder of {' or '.join(patterns)}", "it has none")
    return found
