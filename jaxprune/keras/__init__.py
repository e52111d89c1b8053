"""Keras on JAX: a model comes in; its channel graph, or the model at the kept widths, goes out.

The variables of a model are a nest of dicts by the names of its layers, `variables(model)`, and its
function of them is `graph.fn(variables, *inputs) -> (outputs, updates)`. Everything in this library
takes these two: `jp.mask`, `jp.narrow`, `jp.gated`, `jp.verify`, the scores, `jp.save`.
`assign(model, variables)` puts variables into a model of their widths. Keras is imported when one
of these functions is called, and must run on JAX: KERAS_BACKEND=jax.

>>> import os
>>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
>>> import keras, numpy as np, jaxprune as jp
>>> layers = [keras.layers.Dense(8, activation="relu", name="first"), keras.layers.Dense(2)]
>>> model = keras.Sequential([keras.Input((3,)), *layers])
>>> x = np.ones((1, 3), np.float32)
>>> graph = jp.keras.trace(model, x)
>>> outputs, updates = jp.keras.function(model)(jp.keras.variables(model), x)
>>> (group,) = graph.groups
>>> keep = {group: np.arange(8) < 5}
>>> small = jp.keras.resize(model, graph, keep)
>>> jp.keras.overrides(graph, keep), jp.keras.follows(graph, keep), jp.keras.draws(graph, keep)
({}, (), ())
>>> jp.keras.assign(small, jp.slice(graph, jp.keras.variables(model), keep))
>>> optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
>>> optimizer.build(model.trainable_variables)
>>> optimizer = jp.keras.resize_optimizer(optimizer, small, graph, keep)
>>> small(x).shape
(1, 2)
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
