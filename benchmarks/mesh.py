"""What it costs to divide a training over devices: its input pipeline and its step.

Command: python -m benchmarks.mesh
Writes benchmarks/results/mesh.md: the median time of a batch on its way to the devices, and of a
step on it, on 1, 2, 4 and 8 devices of one processor, over those of a run without a mesh. They
share its cores, so that a ratio is what dividing costs, never a speed-up. Rounds of all numbers of
devices take turns in one process.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} " + (
    "--xla_force_host_platform_device_count=8"  # before JAX starts
)

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from experiments import data, models
from experiments.data import Split
from experiments.runner import devices, directory, fit, training
from experiments.runner.config import Common

MESHES = ("", "data=1", "data=2", "data=4", "data=8")
BATCH, ROUNDS, WIDTHS = 256, 15, (16, 32)
OUT = Path(__file__).parent / "results" / "mesh.md"


def timed(run: Callable[[], Any]) -> float:
    """Returns the seconds until what `run` gives is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


class Training:
    """A network in training on one mesh."""

    def __init__(self, mesh: str, dataset: data.Dataset):
        self._config = Common(mesh=mesh, batch_size=BATCH)
        model = models.build("convnet", classes=10, widths=WIDTHS)
        image = np.zeros((1, *dataset.image_shape), np.float32)
        variables = jax.device_get(model.init(jax.random.key(0), image, train=False))
        tx = training.sgd(0.01)
        assert isinstance(dataset.train, Split)
        self._batch = Split(*(part[:BATCH] for part in dataset.train))
        with devices.using(self._config):
            self._step = training.train_step(model, tx, dataset, BATCH)
            self._state = devices.settled(fit.State(variables, tx.init(variables["params"])))
            self._key = devices.everywhere(jax.random.key(1))

    def times(self) -> tuple[float, float]:
        """Returns the seconds of one batch to the devices, and of one step."""

        def step() -> Any:
            self._state, metrics = self._step(self._state, batch, None, self._key)
            return self._state, metrics

        with devices.using(self._config):
            put = timed(lambda: devices.batch(self._batch, BATCH))
            batch = devices.batch(self._batch, BATCH)
            return put, timed(step)


def main() -> None:
    """Measures and writes the page."""
    facts, dataset = directory.provenance(), data.load("digits")
    trainings = {mesh: Training(mesh, dataset) for mesh in MESHES}
    for each in trainings.values():
        each.times()  # compiles
    rounds = [{mesh: each.times() for mesh, each in trainings.items()} for _ in range(ROUNDS)]
    rows = [
        "| devices | batch to the devices | step |",
        "|---|---|---|",
    ]
    base = np.array([each[""] for each in rounds])
    for mesh in MESHES[1:]:
        ratios = np.array([each[mesh] for each in rounds]) / base
        put, step = (median(column) for column in ratios.T.tolist())
        rows.append(f"| {mesh.removeprefix('data=')} | {put:.1f} | {step:.2f} |")
    text = (
        "# What a mesh costs\n\n"
        f"{directory.made(facts)}\n\nThe time over that of one device without a mesh, the median "
        f"of {ROUNDS} rounds that take turns: {BATCH} digits in a step of a convolutional network "
        f"of {WIDTHS} channels. The devices are of one processor and share its cores: this is what "
        "dividing costs, not a speed-up.\n\n"
    )
    OUT.write_text(text + "\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
