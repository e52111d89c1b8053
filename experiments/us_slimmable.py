"""`python -m experiments.us_slimmable`: see `experiments.methods.us_slimmable`."""

from experiments.methods.us_slimmable import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
