"""A pruned network comes in; the same widths with the accuracy that needs no training go out."""

from jaxprune.recover.absorb import Absorbed, absorb_constants
from jaxprune.recover.batch_norm import recalibrate
from jaxprune.recover.shifts import Outcome

__all__ = [
    "Absorbed",
    "Outcome",
    "absorb_constants",
    "recalibrate",
]
