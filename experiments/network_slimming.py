"""`python -m experiments.network_slimming`: see `experiments.methods.network_slimming`."""

from experiments.methods.network_slimming import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
