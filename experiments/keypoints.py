"""`python -m experiments.keypoints`: see `experiments.tasks.keypoints`."""

from experiments.runner.command import command
from experiments.tasks.keypoints import EXPERIMENT

if __name__ == "__main__":
    command(EXPERIMENT)
