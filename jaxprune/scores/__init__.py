"""A graph and variables come in; scores of channels, {group: f32[n]}, higher means keep, go out.

They are f32[layers, n] for a group whose stacked layers have their own channels, and f64 where the
variables are. Complex weights count by their modulus, integers by their size. A score that covers
no group at all is an error.
"""

from jaxprune.scores.bn import bn_scale
from jaxprune.scores.energy import channel_energy
from jaxprune.scores.first_order import (
    normalized,
    taylor,
    taylor_activation,
    taylor_bn,
    taylor_gate,
)
from jaxprune.scores.norm import l1, l2
from jaxprune.scores.uninformed import random

__all__ = [
    "bn_scale",
    "channel_energy",
    "l1",
    "l2",
    "normalized",
    "random",
    "taylor",
    "taylor_activation",
    "taylor_bn",
    "taylor_gate",
]
