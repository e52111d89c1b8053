"""Network Slimming: an L1 penalty on the scales of BatchNorm says which channels can go.

Paper:     Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
           ICCV 2017, https://arxiv.org/abs/1708.06519
Command:   python -m experiments.network_slimming
           python -m experiments.network_slimming --preset vgg19-cifar10 --data-dir DIR
           python -m experiments.network_slimming --preset vgga-imagenet --data-dir DIR --workers 16
Device:    CPU, 2 cores
CPU time:  110 s, with compilation
Expected:  a quarter of the channels and 6.5 % of the MACs stay; test accuracy of seed 0, in
           percent: dense 99.50, pruned 14.75, recalibrated 99.25, fine-tuned 99.75
"""

from pathlib import Path
from typing import Any

import tyro

from experiments import config as configuration
from experiments import presets, procedures, results, resume, runs
from experiments.config import Config


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    run = resume.begin(config, configuration.to_json(config))

    def found() -> dict[str, Any]:
        setup = procedures.setup(config)
        phases = procedures.phases(setup)
        networks = resume.run_phases(run, setup, phases, procedures.initial(setup))
        summary = results.summarize(setup, networks)
        results.draw(run, summary, networks)
        return summary

    summary = runs.summarized(run, found)
    results.report(run, summary, results.as_in_the_paper(config, summary))
    return run


if __name__ == "__main__":
    program = "python -m experiments.network_slimming"
    main(tyro.cli(Config, prog=program, default=presets.chosen()))
