"""Draws the picture of the README again: `python docs/readme_picture.py`, with matplotlib."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "extensions"), str(HERE.parent)]

from figures import residual_block  # noqa: E402

import drawn  # noqa: E402

if __name__ == "__main__":
    for mode, ink in drawn.INKS.items():
        path = HERE / "_static" / f"residual_block-{mode}.svg"
        path.write_bytes(drawn.svg(residual_block, ink))
        print(path)
