"""Text for language models: windows of bytes, each with the bytes that come one later.

The default is `alice.txt.xz` beside this file: "Alice's Adventures in Wonderland" by Lewis Carroll
(1865; the author died in 1898), in the public domain everywhere. It is the etext "Millennium
Fulcrum Edition 2.9" as in the Canterbury corpus (`alice29.txt`, SHA-256 7467306e...), with the line
ends of Unix and without the blank lines around it: 148,476 bytes of ASCII, SHA-256 cc660e04....
"""

import lzma
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.data.split import Split

FILE = Path(__file__).parent / "alice.txt.xz"
LENGTH = 128
"""Bytes of a window."""
HELD_OUT = 0.1
"""Share of the text, at its end, that is for test; as much before it is for validation."""


def read(path: Path | None = None) -> bytes:
    """Returns a text.

    Args:
      path: a file, or a directory, whose files `*.txt` follow each other by name; the default text
        without one.

    Raises:
      ValueError: there is no such file, or no text in the directory.
    """
    if path is None:
        return lzma.decompress(FILE.read_bytes())
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        text = b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise ValueError(
            f"cannot read the text {path}: {error}.\nFix: --data-dir FILE, or a folder of *.txt."
        ) from error
    if not files:
        raise ValueError(f"{path} has no *.txt.\nFix: --data-dir FILE, or a folder of *.txt.")
    return text


def parts(text: bytes, *, length: int = LENGTH) -> tuple[Split, Split, Split]:
    """Returns the windows of three stretches of the text: training, validation, test.

    No byte is in two of them; what fills no window at the end of a stretch is left out.

    Args:
      text: all of it.
      length: bytes of a window.

    Raises:
      ValueError: a stretch does not fill one window.
    """
    held = int(HELD_OUT * len(text))
    if held < length + 1:
        raise ValueError(
            f"a text of {len(text)} bytes is too short: {held} held-out bytes fill no window of "
            f"{length} and its next byte.\nFix: a text of {10 * (length + 2)} bytes or more."
        )
    ends = (0, len(text) - 2 * held, len(text) - held, len(text))
    data = np.frombuffer(text, np.uint8)
    train, validation, test = (_windows(data[a:b], length) for a, b in pairwise(ends))
    return train, validation, test


def _windows(stretch: np.ndarray, length: int) -> Split:
    count = (len(stretch) - 1) // length
    inputs, targets = stretch[: count * length], stretch[1 : count * length + 1]
    shape = (count, length)
    return Split(inputs.reshape(shape).copy(), targets.reshape(shape).astype(np.int32))
