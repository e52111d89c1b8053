"""In what a network at the kept sizes may differ from the traced one, and how near another came."""

from typing import Any, NamedTuple

from jaxprune.program.jaxpr import Op


class Changed(NamedTuple):
    """A constant that follows a pruned size.

    `operand` counts those of the operation `op`; it is None where the program returns the constant,
    and `op` the last operation before that, if there is one.
    """

    op: Op | None
    operand: int | None
    before: float
    after: float

    def __str__(self) -> str:
        """Where it stands, before and after."""
        where = f"{self.op!r} at {self.op.place}" if self.op else "the function"
        return f"{where}: {self.before:.6g} became {self.after:.6g}"


class Compared(NamedTuple):
    """What may differ: constants that follow a pruned size, and what is drawn over one."""

    changed: list[Changed]
    draws: tuple[str, ...]

    @property
    def follows(self) -> tuple[str, ...]:
        """The constants, before and after, as text."""
        return tuple(map(str, self.changed))


class Attempt(NamedTuple):
    """How far a network is the traced one.

    Attributes:
      steps: how many operations agree.
      op: the first that differs, of the traced program; None for what it returns.
      text: what differs there, or what the code of the network raised.
      compared: in what the whole network may differ, None if it is another one.
      raised_in: the objects whose methods raised, innermost first.
    """

    steps: int
    op: Op | None
    text: str
    compared: Compared | None
    raised_in: tuple[Any, ...] = ()
