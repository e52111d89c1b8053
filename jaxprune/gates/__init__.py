"""A network comes in; the same network with gates on its channels, or taps of them, goes out."""

from jaxprune.gates.bn import Decorated, decorate, melt
from jaxprune.gates.branch_gates import unit_branches
from jaxprune.gates.gate_laws import Law, gaussian, hard_concrete
from jaxprune.gates.learned_gates import Learned, kept, learned, unlearnable
from jaxprune.gates.multipliers import Lagrangian, expected_widths, lagrangian
from jaxprune.gates.stream_changes import branch_changes
from jaxprune.gates.unit_gates import fold, gated, refused, tap, unit

__all__ = [
    "Decorated",
    "Lagrangian",
    "Law",
    "Learned",
    "branch_changes",
    "decorate",
    "expected_widths",
    "fold",
    "gated",
    "gaussian",
    "hard_concrete",
    "kept",
    "lagrangian",
    "learned",
    "melt",
    "refused",
    "tap",
    "unit",
    "unit_branches",
    "unlearnable",
]
