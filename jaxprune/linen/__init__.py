"""Flax Linen: a module comes in; its channel graph, or the module at the kept widths, goes out."""

from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.linen.plan import Resized, Resizing
from jaxprune.linen.pruning import prune
from jaxprune.linen.resizing import resize
from jaxprune.linen.tracing import mark_readers, trace

__all__ = [
    "Resized",
    "Resizing",
    "mark_readers",
    "prune",
    "resize",
    "trace",
]

__getattr__ = _absent(
    "jaxprune.linen",
    {
        "select_inputs": "jp.linen.mark_readers(fn, readers=nn.BatchNorm)",
        "Plan": "jp.linen.Resizing",
    },
)
