"""`python -m experiments.segmentation`: see `experiments.tasks.segmentation`."""

from experiments.runner.command import command
from experiments.tasks.segmentation import EXPERIMENT

if __name__ == "__main__":
    command(EXPERIMENT)
