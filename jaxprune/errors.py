"""The exceptions that jaxprune raises, every one a `ValueError`, and its warnings."""

__all__ = [
    "BudgetError",
    "CheckpointError",
    "GateError",
    "JaxpruneError",
    "KeepError",
    "PatternError",
    "ResizeError",
    "ScoreError",
    "SpecError",
    "SpecWarning",
    "TraceError",
    "TreeError",
    "UncountedWarning",
    "UnreadWarning",
]

SITE = "https://jaxprune.github.io/jaxprune/stable"
"""Where the pages are that errors name: `docs/` of the repository, built."""


def see(page: str) -> str:
    """Returns the line that leads to a page of the docs, such as `howto/nnx`."""
    return f"See {SITE}/{page}.html"


class JaxpruneError(ValueError):
    """Base of all errors of this library.

    Attributes:
      page: the page of the docs that explains what was asked for, if there is one. A traceback
        shows it as a note below the message.
    """

    page: str | None = None

    def __init__(self, *args: object, page: str | None = None):
        super().__init__(*args)
        self.page = page or self.page
        if self.page:
            self.add_note(see(self.page))


class TraceError(JaxpruneError):
    """A function cannot be analyzed as asked, for example under `strict=True`."""

    page = "howto/errors"


class KeepError(JaxpruneError):
    """A keep names an unknown group, has the wrong length, or empties a group."""

    page = "howto/errors"


class ScoreError(JaxpruneError):
    """Scores contain NaN, have the wrong length, or name an unknown group."""

    page = "reference/scores"


class BudgetError(JaxpruneError):
    """A ratio or a budget lies outside what can be reached."""

    page = "howto/budgets"


class PatternError(JaxpruneError):
    """A pattern matches no name."""

    page = "howto/errors"


class TreeError(JaxpruneError):
    """A pytree does not mirror the variables of the graph, or two of its leaves have one path."""

    page = "howto/errors"


class ResizeError(JaxpruneError):
    """A network at the kept widths is not the same network."""

    page = "howto/debugging"


class GateError(JaxpruneError):
    """Gates or taps are asked for where there can be none."""

    page = "howto/errors"


class CheckpointError(JaxpruneError):
    """A checkpoint is missing, broken, foreign, or written by a newer version."""

    page = "howto/errors"


class UncountedWarning(UserWarning):
    """A budget is of a cost that leaves out operations (`jp.cost.uncounted`)."""


class SpecError(JaxpruneError):
    """A spec was written for another network."""

    page = "howto/errors"


class SpecWarning(UserWarning):
    """A spec was written by another JAX or for another call, whose program differs."""


class UnreadWarning(UserWarning):
    """What is pruned may be read by variables that the traced call does not read."""
