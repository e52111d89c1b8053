"""A pruned network comes in; the same widths with the accuracy that needs no training go out.

`least_squares` fits what reads pruned channels to what it wrote before; `obs`, `lasso` and `dcp`
also choose them; `absorb_constants` keeps what constant channels add, and `recalibrate` measures
BatchNorms afresh:

    found = jp.recover.least_squares(graph, variables, keep, batches)
    small = jp.slice(graph, found.variables, keep)

`distillation` and `feature_loss` are losses for the training after that, from the dense network.
"""

from jaxprune.recover.absorb import Absorbed, absorb_constants
from jaxprune.recover.auxiliary_heads import Head
from jaxprune.recover.batch_norm import recalibrate
from jaxprune.recover.coefficients import Shrunk, lasso
from jaxprune.recover.discrimination import Discriminating, dcp
from jaxprune.recover.distilling import distillation, feature_loss
from jaxprune.recover.fits import Form
from jaxprune.recover.fitting import Fit, Order, Recovered
from jaxprune.recover.reconstruction import least_squares
from jaxprune.recover.removal import Removal, obs
from jaxprune.recover.shifts import Outcome

__all__ = [
    "Absorbed",
    "Discriminating",
    "Fit",
    "Form",
    "Head",
    "Order",
    "Outcome",
    "Recovered",
    "Removal",
    "Shrunk",
    "absorb_constants",
    "dcp",
    "distillation",
    "feature_loss",
    "lasso",
    "least_squares",
    "obs",
    "recalibrate",
]
