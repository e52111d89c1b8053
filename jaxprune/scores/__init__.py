"""A graph and variables come in; scores of channels, {group: f32[n]}, higher means keep, go out.

They are f32[layers, n] for a group whose stacked layers have their own channels, and f64 where the
variables are. Complex weights count by their modulus, integers by their size. A score that covers
no group at all is an error. `normalized` makes them comparable between groups.
"""

from jaxprune.scores.bn import bn_scale
from jaxprune.scores.branches import block_influence, removal_loss, taylor_branch
from jaxprune.scores.energy import channel_energy
from jaxprune.scores.first_order import (
    taylor,
    taylor_activation,
    taylor_bn,
    taylor_gate,
)
from jaxprune.scores.norm import l1, l2
from jaxprune.scores.normalizing import (
    euclidean,
    lamp,
    max,
    mean,
    min_max,
    none,
    normalized,
    standard,
    sum,
)
from jaxprune.scores.uninformed import random

__all__ = [
    "block_influence",
    "bn_scale",
    "channel_energy",
    "euclidean",
    "l1",
    "l2",
    "lamp",
    "max",
    "mean",
    "min_max",
    "none",
    "normalized",
    "random",
    "removal_loss",
    "standard",
    "sum",
    "taylor",
    "taylor_activation",
    "taylor_bn",
    "taylor_branch",
    "taylor_gate",
]
