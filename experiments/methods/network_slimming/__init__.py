"""Network Slimming: an L1 penalty on the scales of BatchNorm says which channels can go.

Paper:     Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
           ICCV 2017, https://arxiv.org/abs/1708.06519
Command:   python -m experiments.network_slimming
           python -m experiments.network_slimming --preset vgg19-cifar10 --data-dir DIR
           python -m experiments.network_slimming --preset vgga-imagenet --data-dir DIR --workers 16
Device:    CPU, 2 cores
CPU time:  110 s, with compilation
Expected:  a quarter of the channels stays; the ranges of the seeds 0 to 4, of which every run is in
           benchmarks/results/seeds/network_slimming.md: 5.8 to 8.4 % of the MACs; test accuracy in
           percent: dense 98.75 to 99.50, pruned 30.75 to 69.75, recalibrated 98.25 to 99.50,
           fine-tuned 99.00 to 99.75
"""

from pathlib import Path

from experiments.methods.network_slimming import report, stages
from experiments.methods.network_slimming.config import Config as Config
from experiments.methods.network_slimming.presets import PRESETS as PRESETS
from experiments.procedures import steps
from experiments.report import results
from experiments.runner.experiment import Experiment, Summary, execute
from experiments.runner.run import Run
from experiments.runner.task import initial
from experiments.tasks import classification


def method(run: Run[Config]) -> Summary:
    """Trains, prunes and retrains, and returns all that the run found."""
    networks = steps.follow(run, stages.steps(run.task), initial(run.task))
    summary = {
        **results.measured(run.task, networks),
        **report.first_pruning(run.task, networks),
        "curve": report.curve(run.task, networks["dense"]),
    }
    report.draw(run.path, summary, networks)
    return summary


EXPERIMENT = Experiment(
    name="network_slimming",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=method,
    report=report.report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
