"""A procedure as a list of named steps, each a pure function from network to network."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from experiments.runner.fit import Journal
from experiments.runner.run import Run
from experiments.runner.task import Network


class Step(NamedTuple):
    """A step of a procedure."""

    name: str  # of the network that it gives
    run: Callable[[Network, Journal], Network]


def follow(run: Run[Any], steps: Iterable[Step], network: Network) -> dict[str, Network]:
    """Returns the network after each step; those that are finished are read, not run."""
    found: dict[str, Network] = {}
    with run.going_on():
        for step in steps:
            make = partial(step.run, network)
            found[step.name] = network = run.network(step.name, make, network.keep)
    return found
