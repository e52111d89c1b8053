"""Haiku: a function that calls Haiku modules comes in; it at the kept widths goes out.

A transformed function is traced as it is, with what it takes first as variables:

  graph = jp.trace(lambda v, x: model.apply(v, None, x), variables, x)
  run = jp.haiku.resize(lambda v, x: model.apply(v, None, x), graph, keep)
"""

from jaxprune.arguments.absent_names import absent as _absent
from jaxprune.haiku.resizing import resize

__all__ = ["resize"]

__getattr__ = _absent(
    "jaxprune.haiku",
    expected={
        "trace": ("jp.trace(lambda v, x: model.apply(v, None, x), variables, x)", "howto/haiku"),
        "prune": ("jp.prune(lambda v, x: model.apply(v, None, x), variables, x)", "howto/haiku"),
    },
)
