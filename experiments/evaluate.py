"""Evaluates the pruned network of a run from its directory alone.

Command:   python -m experiments.evaluate runs/network_slimming, or another run that classifies
Expected:  the accuracy of the run, to the last digit; exit status 1 otherwise
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments import (
    autoslim,
    gate_decorator,
    oicsr,
    procedures,
    results,
    resume,
    runs,
    slimmable,
    us_slimmable,
)
from experiments import config as configuration

KINDS = {
    "network_slimming": configuration.Config,
    gate_decorator.NAME: gate_decorator.Config,
    oicsr.NAME: oicsr.Config,
    slimmable.NAME: slimmable.Config,
    us_slimmable.NAME: us_slimmable.Config,
    autoslim.NAME: autoslim.Config,
}
"""Experiment -> its configuration."""


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
    value, summary = runs.read_json(run / runs.CONFIG), runs.read_json(run / runs.SUMMARY)
    experiment = value.pop("experiment", "network_slimming")
    if experiment not in KINDS:
        raise ValueError(f"{run} is of {experiment!r}.\nFix: a run of one of {sorted(KINDS)}.")
    config = configuration.from_json(value, KINDS[experiment])
    setup = procedures.setup(replace(config, data_dir=data_dir or config.data_dir))
    dataset, name = setup.dataset, summary["final"]
    accuracy = results.accuracy(setup, resume.load(run, setup, name), dataset.test)
    expected = summary["accuracy"][name]
    print(f"accuracy {accuracy!r} on {dataset.test.size} test images of {dataset.name}")
    print(f"summary  {expected!r}: {'the same' if accuracy == expected else 'DIFFERENT'}")
    return accuracy == expected


if __name__ == "__main__":
    sys.exit(0 if tyro.cli(main, prog="python -m experiments.evaluate") else 1)
