"""A run in progress: what it made already is read, and what is missing is made and kept."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax

from experiments.runner import checkpoints, directory, processes
from experiments.runner.config import C
from experiments.runner.fit import DivergedError, Journal
from experiments.runner.task import Network, Task
from jaxprune.errors import JaxpruneError
from jaxprune.keep.check import Keep

Make = Callable[[Journal], Network]
"""The journal of the training -> the network after it."""


class Run(NamedTuple, Generic[C]):
    """Where a run is kept, and what is learned in it."""

    path: Path
    task: Task[C]

    def network(self, name: str, make: Make, keep: Keep | None = None) -> Network:
        """Returns what `make` gives; a second time it is read, not made.

        Args:
          name: of the phase and of its checkpoint.
          make: trains, or cuts; it hears of its training by the journal.
          keep: of the network that trains, of the unpruned model's channels.
        """
        if checkpoints.metadata(self.path, name):
            return checkpoints.load(self.path, self.task, name)
        with self.journal(name, keep or {}) as journal:
            network = make(journal)
        checkpoints.save(self.path, self.task, name, network)
        if jax.process_count() > 1:  # what process 0 chose is what all go on with
            return checkpoints.load(self.path, self.task, name)
        return network

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the JSON value that `make` gives; a second time it is read, not made."""
        file = self.path / f"{name}.json"
        if not processes.shared(file.exists):
            value = make()
            processes.shared(lambda: directory.write_json(file, value))
        return processes.shared(lambda: directory.read_json(file))

    @contextmanager
    def journal(self, name: str, keep: Keep, before: str | None = None) -> Iterator[Journal]:
        """Yields the journal of a phase; an error says where it came, and where the network is.

        Args:
          name: of the phase.
          keep: of the network that trains.
          before: the checkpoint of the network before the phase, if there is one.
        """
        try:
            with checkpoints.journal(self.path, self.task, name, keep) as journal:
                yield journal
        except (DivergedError, JaxpruneError) as error:
            where = checkpoints.path(self.path, before) if before else None
            there = f"the network before it is in {where}" if where else "none was"
            error.add_note(f"This was in {name}, of which nothing is kept; {there}.")
            raise

    @contextmanager
    def going_on(self, finished: Iterable[str] | None = None) -> Iterator[None]:
        """Drops what no checkpoint holds first, and the state of the running phase in the end.

        Args:
          finished: the phases that are; those that have a checkpoint by default.
        """
        done = checkpoints.finished(self.path) if finished is None else finished
        checkpoints.rewind(self.path, done)
        yield
        checkpoints.drop(self.path, checkpoints.RUNNING)
