"""`python -m experiments.oicsr`: see `experiments.methods.oicsr`."""

from experiments.methods.oicsr import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
