"""What brings back accuracy after pruning without training."""

from jaxprune.recover.absorb import Absorbed as Absorbed
from jaxprune.recover.absorb import Outcome as Outcome
from jaxprune.recover.absorb import absorb_constants as absorb_constants
from jaxprune.recover.batch_norm import recalibrate as recalibrate
