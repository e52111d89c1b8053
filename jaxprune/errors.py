"""The exceptions that jaxprune raises, every one a `ValueError`, and its warnings."""


class JaxpruneError(ValueError):
    """Base of all errors of this library."""


class TraceError(JaxpruneError):
    """A function cannot be analyzed as asked, for example under `strict=True`."""


class KeepError(JaxpruneError):
    """A keep names an unknown group, has the wrong length, or empties a group."""


class ScoreError(JaxpruneError):
    """Scores contain NaN, have the wrong length, or name an unknown group."""


class BudgetError(JaxpruneError):
    """A ratio or a budget lies outside what can be reached."""


class PatternError(JaxpruneError):
    """A pattern matches no name."""


class TreeError(JaxpruneError):
    """A pytree does not mirror the variables of the graph, or two of its leaves have one path."""


class ResizeError(JaxpruneError):
    """A network at the kept widths is not the same network."""


class GateError(JaxpruneError):
    """Gates or taps are asked for where there can be none."""


class CheckpointError(JaxpruneError):
    """A checkpoint is missing, broken, foreign, or written by a newer version."""


class UncountedWarning(UserWarning):
    """A budget is of a cost that leaves out operations (`jp.cost.uncounted`)."""


class SpecError(JaxpruneError):
    """A spec was written for another network."""


class SpecWarning(UserWarning):
    """A spec was written by another JAX or for another call, whose program differs."""


class UnreadWarning(UserWarning):
    """What is pruned may be read by variables that the traced call does not read."""
