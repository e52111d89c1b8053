"""`python -m experiments.slimmable`: see `experiments.methods.slimmable`."""

from experiments.methods.slimmable import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
