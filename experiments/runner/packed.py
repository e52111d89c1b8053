"""Dense networks that are committed: trained once, read by whatever begins with them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax import traverse_util

from experiments import models
from experiments.runner import config as configuration
from experiments.runner import registry
from experiments.runner.config import Common
from experiments.runner.fit import Variables
from experiments.runner.task import Task

ROOT = Path(__file__).parents[2] / "benchmarks" / "results" / "dense"


class Dense(NamedTuple):
    """A trained network that nothing was pruned from.

    about: what NAME.json holds: `config` of the run, `loss` in nats and `accuracy` on the test
    images, `sha256`, and how it was made.
    """

    module: nn.Module
    variables: Variables  # NumPy arrays
    about: dict[str, Any]


def load(name: str, *, root: Path = ROOT) -> Dense:
    """Returns a committed network.

    Args:
      name: of its files.
      root: where they are.

    Raises:
      ValueError: there is none of that name, or the file is not the one that was packed.
    """
    file = root / f"{name}.npz"
    if not file.exists():
        known = sorted(path.stem for path in root.glob("*.npz"))
        raise ValueError(f"no network {name!r} in {root}.\nFix: one of {known}.")
    about = json.loads(file.with_suffix(".json").read_text("utf-8"))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise ValueError(
            f"{file} has the SHA-256 {found}, {about['sha256']} was expected.\n"
            "Fix: check out both files of one commit."
        )
    with np.load(file) as arrays:
        variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
    config = about["config"]
    module = models.build(config["model"], classes=about["classes"], widths=tuple(config["widths"]))
    return Dense(module, variables, about)


def config(dense: Dense) -> Common:
    """Returns the configuration that a network was trained with; `data_dir` is of that machine."""
    experiment = registry.load(dense.about["experiment"])
    return configuration.from_json(dense.about["config"], type(experiment.config))


def task(dense: Dense, data_dir: Path | None) -> Task[Any]:
    """Returns the data, the model and the graph that a network was trained with.

    Args:
      dense: what `load` returned.
      data_dir: where the data are on this machine.
    """
    experiment = registry.load(dense.about["experiment"])
    return experiment.task(replace(config(dense), data_dir=data_dir))
