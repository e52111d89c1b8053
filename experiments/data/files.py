"""Files of data sets in folders, as their authors publish them; what is missing or damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def required(path: Path, what: str) -> Path:
    """Returns the path.

    Args:
      path: a file or a folder of a data set.
      what: that it should hold.

    Raises:
      ValueError: there is none.
    """
    if not path.exists():
        raise ValueError(
            f"{path} is not there, expected {what}.\n"
            "Fix: --data-dir, the folder in which the data set lies as it is published."
        )
    return path


def damaged(path: Path, expected: str, came: object) -> ValueError:
    """Returns the error of a file that does not hold what it should."""
    return ValueError(f"{path} is not {expected}: {came}.\nFix: replace this file.")


def image(path: Path) -> np.ndarray:
    """Returns the pixels of an image in RGB, u8[height, width, 3].

    Raises:
      ValueError: it is missing or damaged.
    """
    import cv2

    pixels = cv2.imread(str(required(path, "an image")), cv2.IMREAD_COLOR)
    if pixels is None:
        raise damaged(path, "an image", f"OpenCV cannot decode its {path.stat().st_size} bytes")
    return pixels[..., ::-1]


def label_image(path: Path) -> np.ndarray:
    """Returns the numbers in an image of one channel, u8[height, width]: of a palette its places.

    Raises:
      ValueError: it is missing or damaged, or has colors.
    """
    from PIL import Image  # OpenCV would give the colors of a palette

    try:
        with Image.open(required(path, "an image of labels")) as opened:
            opened.load()
            mode, labels = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError) as error:
        raise damaged(path, "an image of labels", error) from error
    if mode not in ("L", "P"):
        raise damaged(path, "an image of labels, of one channel of bytes or a palette", mode)
    return labels


def lines(path: Path) -> list[str]:
    """Returns the first word of every line that has one.

    Raises:
      ValueError: the file is missing or has none.
    """
    text = required(path, "a list of images").read_text("utf-8", errors="replace")
    if not (found := [line.split()[0] for line in text.splitlines() if line.strip()]):
        raise damaged(path, "a list of images", "it is empty")
    return found


def json_object(path: Path, what: str) -> dict[str, Any]:
    """Returns the JSON value of a file.

    Args:
      path: of the file.
      what: that it should hold.

    Raises:
      ValueError: it is missing or damaged, or no object.
    """
    try:
        value = json.loads(required(path, what).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, "JSON", error) from error
    if not isinstance(value, dict):
        raise damaged(path, "a JSON object", f"it is a {type(value).__name__}")
    return value
