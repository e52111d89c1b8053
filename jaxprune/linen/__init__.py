"""Flax Linen: a module comes in; its channel graph, or the module at the kept widths, goes out."""

from jaxprune.linen.plan import Plan, Resized
from jaxprune.linen.pruning import prune
from jaxprune.linen.resizing import resize
from jaxprune.linen.tracing import select_inputs, trace

__all__ = [
    "Plan",
    "Resized",
    "prune",
    "resize",
    "select_inputs",
    "trace",
]
