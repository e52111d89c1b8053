"""Draws the networks of several runs with slimmable networks in one picture.

Command:   python -m experiments.spectrum runs/slimmable runs/us_slimmable runs/autoslim
Writes:    spectrum.png, the accuracy against the MACs of all networks of these runs
"""

from pathlib import Path
from typing import Annotated

import tyro

from experiments.procedures.curves import points
from experiments.report import plots
from experiments.runner import directory
from experiments.runner.command import one_line


def main(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path = Path("spectrum.png")
) -> None:
    """Draw the networks of several runs in one picture.

    Args:
      paths: directories of finished runs.
      out: the picture.

    Raises:
      ValueError: one of them is not a finished run of slimmable networks.
    """
    curves = {}
    names = [path.name for path in paths]
    for path in paths:
        summary = directory.read_json(path / directory.SUMMARY)
        if "curves" not in summary:
            raise ValueError(
                f"{path} has no curves.\nFix: runs of slimmable, us_slimmable or autoslim."
            )
        name = path.name if names.count(path.name) == 1 else str(path)
        curves |= {f"{label}, {name}": curve for label, curve in points(summary).items()}
    plots.spectrum(out, curves)
    print(f"{len(curves)} curves in {out}")


if __name__ == "__main__":
    with one_line():
        tyro.cli(main, prog="python -m experiments.spectrum")
