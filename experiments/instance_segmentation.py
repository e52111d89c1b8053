"""`python -m experiments.instance_segmentation`: see `experiments.tasks.instance_segmentation`."""

from experiments.runner.command import command
from experiments.tasks.instance_segmentation import EXPERIMENT

if __name__ == "__main__":
    command(EXPERIMENT)
