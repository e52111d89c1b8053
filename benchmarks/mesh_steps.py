"""The first 20 steps in float32 on eight devices, beside what a single rounding does to them.

Training amplifies every difference. So each experiment takes the first steps of its first training
at its defaults three times: on one device, on eight, and on one from weights that are all one unit
in the last place higher.

Command:   python -m benchmarks.mesh_steps
Device:    CPU, 2 cores, which the devices share
CPU time:  5 minutes
Writes:    benchmarks/results/mesh_steps.md
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} " + (
    "--xla_force_host_platform_device_count=8"  # before JAX starts
)

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.mesh_spread import NAMES
from experiments.runner import directory, presets, registry, task, training
from experiments.runner.experiment import execute

STEPS, SHOWN = 20, (1, 2, 3, 5, 7, 10, 15, 20)
RUNS = {"8 devices": ("data=8", False), "weights one unit higher": ("", True)}
"""Name -> the mesh, and whether the weights are moved."""
OUT = Path(__file__).parent / "results" / "mesh_steps.md"


class Enough(BaseException):
    """Ends a run."""


def losses(name: str, mesh: str = "", *, moved: bool = False) -> np.ndarray:
    """Returns the loss of each of the first steps of an experiment, f64[STEPS]."""
    experiment, found = registry.load(name), []
    fresh, train_epoch = task.fresh, training.train_epoch

    def told(*args: Any, **options: Any) -> Any:
        state, history = train_epoch(*args, **options)
        found.extend(float(metrics.loss) for metrics in jax.device_get(history))
        if len(found) >= STEPS:
            raise Enough
        return state, history

    def begun(*args: Any) -> Any:
        return jax.tree.map(lambda leaf: np.nextafter(leaf, leaf + 1), fresh(*args))

    config = presets.config("digits", experiment.presets, experiment.config)
    with (
        tempfile.TemporaryDirectory() as root,
        mock.patch.object(training, "train_epoch", told),
        mock.patch.object(task, "fresh", begun if moved else fresh),
    ):
        try:
            execute(experiment, replace(config, root=Path(root), mesh=mesh))
        except Enough:
            return np.array(found[:STEPS])
    raise ValueError(f"{name} has no {STEPS} steps")


def page(made: Mapping[str, Any], found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Returns the page, in Markdown."""
    lines = [
        "# The first steps on a mesh",
        "",
        f"{directory.made(made)} Relative differences of the loss of a step from that on one "
        "device, in float32, of the first training of each experiment at its defaults on digits, "
        "seed 0. The second row of each is on one device too, from weights that are all one unit "
        "in the last place higher: what rounding alone does.",
        "",
        f"| | step {' | '.join(map(str, SHOWN))} |",
        "|---" * (len(SHOWN) + 1) + "|",
    ]
    for name, runs in found.items():
        for run, each in runs.items():
            cells = (f"{each[step - 1]:.0e}" for step in SHOWN)
            lines.append(f"| {name}, {run} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, and writes the page."""
    made, found = directory.provenance(), dict[str, dict[str, np.ndarray]]()
    for name in NAMES:
        one = losses(name)
        found[name] = {
            run: np.abs(losses(name, mesh, moved=moved) / one - 1)
            for run, (mesh, moved) in RUNS.items()
        }
        OUT.write_text(page(made, found), "utf-8")
    print(OUT.read_text("utf-8"))


if __name__ == "__main__":
    main()
