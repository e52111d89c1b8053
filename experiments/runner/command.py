"""The command line of an experiment: flags over a preset; errors of users are one line."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

import tyro

from experiments.runner import presets
from experiments.runner.config import C
from experiments.runner.experiment import Experiment, execute
from experiments.runner.fit import DivergedError
from experiments.runner.presets import Presets
from jaxprune.errors import JaxpruneError

WRONG = 2
"""The exit status of an error that the user can fix."""


def command(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> None:
    """Runs an experiment with the flags of the command line, or with `arguments`."""
    with one_line():
        program = f"python -m experiments {experiment.name}"
        execute(experiment, parsed(program, experiment.presets, experiment.config, arguments))


def parsed(program: str, known: Presets, start: C, arguments: Sequence[str] | None = None) -> C:
    """Returns the configuration that flags give, over that of the preset which they name."""
    chosen = presets.chosen(known, start, arguments)
    kind, values = type(start), {each.name: getattr(chosen, each.name) for each in fields(start)}
    text = f"Settings to start from; every other flag overrides them: {', '.join(known)}."
    preset = (
        "preset",
        Annotated[str, tyro.conf.arg(help=text)],
        field(default=chosen.preset, kw_only=True),
    )
    unchecked: Any = {"__post_init__": lambda _: None}  # `kind` checks, and its errors are one line
    helped: Any = make_dataclass(
        kind.__name__, [preset], bases=(kind,), namespace=unchecked, frozen=True, slots=True
    )
    helped.__doc__ = kind.__doc__
    given = tyro.cli(helped, prog=program, default=helped(**values), args=arguments)
    return kind(**{each.name: getattr(given, each.name) for each in fields(start)})


@contextmanager
def one_line() -> Iterator[None]:
    """Prints errors that say how to fix them as one line, and ends with the status `WRONG`.

    Others are faults of the program, and keep their traceback.
    """
    try:
        yield
    except (ValueError, JaxpruneError, DivergedError) as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        if "Fix: " not in text:
            raise
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(WRONG)


def guarded(run: Callable[[], Any]) -> Any:
    """Returns what a command gives; its errors are one line."""
    with one_line():
        return run()
