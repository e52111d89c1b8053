"""`python -m experiments.super_resolution`: see `experiments.tasks.super_resolution`."""

from experiments.runner.command import command
from experiments.tasks.super_resolution import EXPERIMENT

if __name__ == "__main__":
    command(EXPERIMENT)
