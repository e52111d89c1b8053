"""`python -m experiments.gate_decorator`: see `experiments.methods.gate_decorator`."""

from experiments.methods.gate_decorator import EXPERIMENT
from experiments.runner.command import command

if __name__ == "__main__":
    command(EXPERIMENT)
