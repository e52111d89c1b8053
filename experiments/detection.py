"""`python -m experiments.detection`: see `experiments.tasks.detection`."""

from experiments.runner.command import command
from experiments.tasks.detection import EXPERIMENT

if __name__ == "__main__":
    command(EXPERIMENT)
