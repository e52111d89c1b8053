"""Flax Linen: a module comes in; its channel graph, or the module at the kept widths, goes out."""

from jaxprune.linen.plan import Plan as Plan
from jaxprune.linen.plan import Resized as Resized
from jaxprune.linen.pruning import prune as prune
from jaxprune.linen.resizing import resize as resize
from jaxprune.linen.tracing import select_inputs as select_inputs
from jaxprune.linen.tracing import trace as trace
