"""Evaluates the pruned network of a run from its directory alone.

Command:   python -m experiments.evaluate runs/network_slimming, or another run that classifies
Expected:  the accuracy of the run, to the last digit; exit status 1 otherwise
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.report import results
from experiments.runner import checkpoints, directory, registry
from experiments.runner import config as configuration
from experiments.runner.command import one_line


def main(run: Annotated[Path, tyro.conf.Positional], data_dir: Path | None = None) -> bool:
    """Rebuild the pruned network of a run and compare its accuracy with what the run wrote.

    Args:
      run: directory of a finished run.
      data_dir: where its data set is prepared, if not where it was.

    Returns:
      True if both are the same.

    Raises:
      ValueError: it is a run of another experiment.
    """
    value = directory.read_json(run / directory.CONFIG)
    summary = directory.read_json(run / directory.SUMMARY)
    experiment = registry.load(value.get("experiment", "network_slimming"))
    if not experiment.classifies:
        raise ValueError(
            f"{run} is of {experiment.name!r}, which does not classify.\n"
            "Fix: a run of an experiment that does, such as network_slimming."
        )
    config = configuration.from_json(directory.read_config(run), type(experiment.config))
    task = experiment.task(replace(config, data_dir=data_dir or config.data_dir))
    dataset, name = task.dataset, summary["final"]
    accuracy = results.accuracy(task, checkpoints.load(run, task, name), dataset.test)
    expected = summary["accuracy"][name]
    print(f"accuracy {accuracy!r} on {dataset.test.size} test images of {dataset.name}")
    print(f"summary  {expected!r}: {'the same' if accuracy == expected else 'DIFFERENT'}")
    return accuracy == expected


if __name__ == "__main__":
    with one_line():
        same = tyro.cli(main, prog="python -m experiments.evaluate")
    sys.exit(0 if same else 1)
