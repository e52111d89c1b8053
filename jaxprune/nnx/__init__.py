"""Flax NNX: a model object comes in; its channel graph, or the model at the kept widths, goes out.

The variables of a model are a nest of dicts, `variables(model)`, and its function of them is
`graph.fn(variables, *inputs) -> (outputs, updates)`. Everything in this library takes these two:
`jp.mask`, `jp.narrow`, `jp.gated`, `jp.verify`, the scores, `jp.save`. `nnx.update(model,
variables)` puts variables into a model of their widths.
"""

from jaxprune.nnx.pruning import prune
from jaxprune.nnx.pure_function import function, variables
from jaxprune.nnx.resizing import draws, follows, overrides, resize, resize_optimizer
from jaxprune.nnx.tracing import trace

__all__ = [
    "draws",
    "follows",
    "function",
    "overrides",
    "prune",
    "resize",
    "resize_optimizer",
    "trace",
    "variables",
]
