"""Flax NNX: a model object comes in; its channel graph, or the model at the kept widths, goes out.

The variables of a model are a nest of dicts, `variables(model)`, and its function of them is
`graph.fn(variables, *inputs) -> (outputs, updates)`. Everything in this library takes these two:
`jp.mask`, `jp.narrow`, `jp.gated`, `jp.verify`, the scores, `jp.save`. `nnx.update(model,
variables)` puts variables into a model of their widths.

>>> import jax.numpy as jnp, numpy as np, optax, jaxprune as jp
>>> from flax import nnx
>>> class Net(nnx.Module):
...     def __init__(self, rngs):
...         self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
...         self.dropout = nnx.Dropout(0.5, rngs=rngs)
...     def __call__(self, x):
...         return self.last(self.dropout(nnx.relu(self.first(x))))
>>> model, x = Net(nnx.Rngs(0)), jnp.ones((1, 3))
>>> graph = jp.nnx.trace(model, x)
>>> outputs, updates = jp.nnx.function(model)(jp.nnx.variables(model), x)
>>> keep = {"first/kernel": np.arange(8) < 5}
>>> small = jp.nnx.resize(model, graph, keep)
>>> jp.nnx.overrides(graph, keep), jp.nnx.follows(graph, keep), len(jp.nnx.draws(graph, keep))
({}, (), 1)
>>> optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
>>> optimizer = jp.nnx.resize_optimizer(optimizer, small, graph, keep)
>>> optimizer.opt_state[0].mu["first"]["kernel"].shape
(3, 5)
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
