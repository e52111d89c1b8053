"""Structured pruning for JAX: trace, score, cut, and hand back a smaller network."""

from jaxprune import errors as errors
from jaxprune.graph import ChannelGraph as ChannelGraph
from jaxprune.graph import Group as Group
from jaxprune.graph import Slot as Slot
from jaxprune.graph import trace as trace
from jaxprune.rules import RULES as RULES
from jaxprune.rules import Rule as Rule

__version__ = "0.1.0"
