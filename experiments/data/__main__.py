"""`python -m experiments.data`: prepares a data set, or shows the sizes of one."""

from pathlib import Path

import numpy as np
import tyro

from experiments.data import load
from experiments.data.prepared import prepare
from experiments.runner.command import one_line


def show(name: tyro.conf.Positional[str], /, data_dir: Path | None = None) -> None:
    """Prints the sizes of a data set.

    Args:
      name: one of `experiments.data.NAMES`.
      data_dir: where it is prepared; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.
    """
    dataset = load(name, data_dir=data_dir)
    sizes = [s.size for s in (dataset.train, dataset.validation, dataset.test)]
    print(f"{name}: {dataset.classes} classes, images {dataset.image_shape}")
    print("train {:,}, validation {:,}, test {:,}".format(*sizes))
    print(f"mean {np.round(dataset.mean, 2)}, deviation {np.round(dataset.std, 2)}")


if __name__ == "__main__":
    with one_line():
        tyro.extras.subcommand_cli_from_dict({"prepare": prepare, "show": show})
