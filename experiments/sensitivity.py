"""`python -m experiments.sensitivity`: see `experiments.methods.sensitivity`."""

from experiments.methods.sensitivity import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
