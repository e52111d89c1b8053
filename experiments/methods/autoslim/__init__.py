"""AutoSlim: a slimmable supernet shows, without further training, where a network can be narrow.

Paper:     Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers",
           2019, https://arxiv.org/abs/1903.11728
Command:   python -m experiments.autoslim
           python -m experiments.autoslim --retrain jointly
           python -m experiments.autoslim --preset resnet20-cifar10 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  560 s, with compilation
Expected:  mean test accuracy over five folds and two trainings of what each search gave, in
           percent, the searches judged by the loss of the supernet (python -m benchmarks.searches,
           benchmarks/results/searches.md, with the intervals of their differences):

           target  greedy  uniform  random
           0.25     98.22    97.86   98.39
           0.15     97.38    97.52   97.11
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from experiments import data
from experiments.data import Dataset, Split, Stream
from experiments.methods.autoslim import searches
from experiments.methods.autoslim.config import Config as Config
from experiments.methods.autoslim.presets import PRESETS as PRESETS
from experiments.procedures import curves, supernet
from experiments.procedures.curves import Curves
from experiments.procedures.rounds import scaled
from experiments.procedures.supernet import Keeps, Method
from experiments.runner import training
from experiments.runner.experiment import Experiment, execute
from experiments.runner.run import Run
from experiments.runner.task import Network, Task
from experiments.tasks import classification
from jaxprune import slimmable
from jaxprune.schedule import Training


def procedure(config: Config, run: Run[Config]) -> Curves:
    """Returns the networks of the run."""
    whole = run.task
    train, batch = apart(config, whole.dataset)
    run = run._replace(task=whole._replace(dataset=replace(whole.dataset, train=train)))
    (first, second), task = scaled(config, config.supernet, config.training), run.task
    searches.aims(config, task)  # out of reach, they are an error before any training
    trains = method(config, task)
    trained = curves.trained(run, trains, first)
    variables = supernet.cut(task, trained, *next(iter(trains.fixed.items()))).variables
    found = run.value("search", partial(searches.search, config, task, variables, batch))
    again = run._replace(task=whole)
    networks: dict[str, dict[str, Network]] = {}
    for label, each in found.items():
        widths = {
            str(share): slimmable.prefix(task.graph, one["widths"])
            for share, one in zip(config.keep_macs, each, strict=True)
        }
        networks[label] = retrained(config, again, label, widths, second)
    return networks


def apart(config: Config, dataset: Dataset) -> tuple[Split | Stream, Split]:
    """Returns the training images that the supernet sees, and the batch of the search.

    Of a stream that batch is from the validation images, which the supernet does not see either.

    Raises:
      ValueError: the batch would be all of the training images.
    """
    train, validation = dataset.train, dataset.validation
    if isinstance(train, Split):
        if config.held_out >= train.size:
            raise ValueError(
                f"held_out={config.held_out} leaves none of {train.size} training images.\n"
                "Fix: a lower --held-out, or a higher --limit."
            )
        rest, batch = data.shuffled(train, config.held_out)
        return rest, batch
    assert isinstance(validation, Stream)
    return train, next(validation.batches(config.held_out, None))


def method(config: Config, task: Task) -> Method:
    """Returns how the supernet trains."""
    multipliers = np.linspace(config.low, config.widest, 28)
    prefix = partial(slimmable.prefix, task.graph, **config.rounding(config.widest))
    grid = [prefix(float(width)) for width in multipliers]
    fixed = {str(config.widest): grid[-1], str(config.low): grid[0]}
    draw = supernet.draws(grid, config.number - 2, nonuniform=True)
    distill = slimmable.distillation()
    return Method(fixed, slimmable.statistics, draw=draw, distill=distill)


def retrained(
    config: Config, run: Run[Config], label: str, widths: Keeps, how: Training
) -> dict[str, Network]:
    """Returns networks of these widths, trained from new weights."""
    loss = training.smoothed(config.smoothing)
    if config.retrain == "alone":
        return curves.alone(run, label, widths, how, loss=loss)
    joint = Method(widths, slimmable.switchable, loss=loss)
    return curves.cut(run, label, curves.trained(run, joint, how, f"{label}-jointly"), widths)


EXPERIMENT = Experiment(
    name="autoslim",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=curves.procedure(procedure),
    report=curves.report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
