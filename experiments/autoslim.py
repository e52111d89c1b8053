"""`python -m experiments.autoslim`: see `experiments.methods.autoslim`."""

from experiments.methods.autoslim import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
