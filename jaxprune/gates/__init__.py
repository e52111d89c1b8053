"""A network comes in; the same network with gates on its channels, or taps of them, goes out."""

from jaxprune.gates.bn import Decorated, decorate, melt
from jaxprune.gates.branch_gates import unit_branches
from jaxprune.gates.stream_changes import branch_changes
from jaxprune.gates.unit_gates import fold, gated, refused, tap, unit

__all__ = [
    "Decorated",
    "branch_changes",
    "decorate",
    "fold",
    "gated",
    "melt",
    "refused",
    "tap",
    "unit",
    "unit_branches",
]
