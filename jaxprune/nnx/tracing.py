"""The channel graph of an NNX model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from flax import nnx

from jaxprune.arguments import call_inputs
from jaxprune.arguments.models import check_no_variables
from jaxprune.graph import ChannelGraph
from jaxprune.nnx.names import named
from jaxprune.nnx.pure_function import Method, check_call, function
from jaxprune.program.rules import RULES
from jaxprune.tracing import trace as tracing


def trace(
    model: nnx.Module,
    *inputs: Any,
    method: Method = "__call__",
    rules: Mapping[Any, Any] = RULES,
    strict: bool = False,
    layers: Mapping[str, int] = MappingProxyType({}),
    free_outputs: Sequence[str] = (),
    free_constants: bool = False,
    state: Any = (),
    index_inputs: Mapping[Any, int] = MappingProxyType({}),
    **arguments: Any,
) -> ChannelGraph:
    """Returns the channel graph of `model(*inputs, **arguments)`, found without running it.

    The variables of the graph are `variables(model)`; `graph.fn` is `function(model)`. The mode of
    the model, `model.train()` or `model.eval()`, is the one that is traced.

    Args:
      model: the model; one from `nnx.eval_shape(lambda: Model(...))` is never allocated.
      *inputs: arrays, shapes or pytrees of them.
      method: the name of a method, or a function `(model, *inputs, **arguments)`.
      rules: as in `jp.trace`.
      strict: as in `jp.trace`.
      layers: as in `jp.trace`.
      free_outputs: as in `jp.trace`; the outputs of the model are `0` or under `0/`.
      free_constants: as in `jp.trace`.
      state: as in `jp.trace`; a cache among the variables of the model needs none.
      index_inputs: as in `jp.trace`.
      **arguments: keyword arguments of the method: arrays and shapes are inputs, such as
        `mask=mask`, others constants, such as `train=True`.

    Raises:
      TraceError: `model` is not an `nnx.Module`, or as in `jp.trace`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> class Net(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.first = nnx.Linear(3, 8, rngs=rngs)
      ...         self.last = nnx.Linear(8, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.last(nnx.relu(self.first(x)))
      >>> model = Net(nnx.Rngs(0))
      >>> graph = jp.nnx.trace(model, jnp.ones((1, 3)))
      >>> small = jp.nnx.resize(model, graph, {"first/kernel": np.arange(8) < 5})
      >>> small.first.out_features, small(jnp.ones((1, 3))).shape
      (5, (1, 2))
    """
    keywords, constants = call_inputs.split(arguments)
    check_call(model, method, arguments)
    fn = function(model, method=method, **constants)
    abstract = nnx.to_pure_dict(fn.state)
    check_no_variables(inputs, abstract, "jp.nnx.trace(model, *inputs)", "howto/nnx")
    seen = replace(fn, around=named)
    options: Any = {
        "layers": layers,
        "free_outputs": free_outputs,
        "free_constants": free_constants,
        "state": state,
        "index_inputs": index_inputs,
    }
    options |= {"rules": rules, "strict": strict}
    graph = tracing.trace(seen, abstract, *inputs, **options, **keywords)
    return replace(graph, fn=fn)
