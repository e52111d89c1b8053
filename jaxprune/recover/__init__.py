"""A pruned network comes in; the same widths with the accuracy that needs no training go out."""

from jaxprune.recover.absorb import Absorbed as Absorbed
from jaxprune.recover.absorb import absorb_constants as absorb_constants
from jaxprune.recover.batch_norm import recalibrate as recalibrate
from jaxprune.recover.shifts import Outcome as Outcome
