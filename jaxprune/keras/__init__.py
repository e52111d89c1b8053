"""Keras on JAX: a model comes in; its channel graph, or the model at the kept widths, goes out.

The variables of a model are a nest of dicts by the names of its layers, `variables(model)`, and its
function of them is `graph.fn(variables, *inputs) -> (outputs, updates)`. Everything in this library
takes these two: `jp.mask`, `jp.narrow`, `jp.gated`, `jp.verify`, the scores, `jp.save`.
`assign(model, variables)` puts variables into a model of their widths. Keras is imported when one
of these functions is called, and must run on JAX: KERAS_BACKEND=jax.
"""

from jaxprune.keras.optimizers import resize_optimizer
from jaxprune.keras.pruning import prune
from jaxprune.keras.pure_function import assign, function, variables
from jaxprune.keras.resizing import draws, follows, overrides, resize
from jaxprune.keras.tracing import trace

__all__ = [
    "assign",
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
