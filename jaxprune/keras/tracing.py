"""The channel graph of a Keras model."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxprune.arguments import call_inputs
from jaxprune.arguments.models import check_no_variables
from jaxprune.graph import ChannelGraph
from jaxprune.keras.pure_function import check_call, function, shapes
from jaxprune.program.rules import RULES
from jaxprune.tracing import trace as tracing


def trace(
    model: Any,
    *inputs: Any,
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

    The variables of the graph are `variables(model)`; `graph.fn` is `function(model, **arguments)`.

    Args:
      model: a functional, sequential or subclassed `keras.Model`, or a layer, that is built.
      *inputs: arrays, shapes or pytrees of them.
      rules: as in `jp.trace`.
      strict: as in `jp.trace`.
      layers: as in `jp.trace`.
      free_outputs: as in `jp.trace`; the outputs of the model are `0` or under `0/`.
      free_constants: as in `jp.trace`.
      state: as in `jp.trace`.
      index_inputs: as in `jp.trace`.
      **arguments: keyword arguments of the call: arrays and shapes are inputs, others constants,
        such as `training=True`.

    Raises:
      TraceError: `model` is not a Keras model that is built, or as in `jp.trace`.
      JaxpruneError: Keras is not installed, or has another backend than JAX.

    Example:
      >>> import os
      >>> os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
      >>> import keras, numpy as np, jaxprune as jp
      >>> first = keras.layers.Dense(8, "relu", use_bias=False, name="first")
      >>> last = keras.layers.Dense(2, use_bias=False)
      >>> model = keras.Sequential([keras.Input((3,)), first, last])
      >>> graph = jp.keras.trace(model, np.ones((1, 3), np.float32))
      >>> small = jp.keras.resize(model, graph, {"first/kernel": np.arange(8) < 5})
      >>> small.get_layer("first").units, small(np.ones((1, 3))).shape
      (5, (1, 2))
    """
    check_call(model, arguments)
    keywords, constants = call_inputs.split(arguments)
    fn, abstract = function(model, **constants), shapes(model)
    check_no_variables(inputs, abstract, "jp.keras.trace(model, *inputs)", "howto/keras")
    options: Any = {
        "layers": layers,
        "free_outputs": free_outputs,
        "free_constants": free_constants,
        "state": state,
        "index_inputs": index_inputs,
    }
    options |= {"rules": rules, "strict": strict}
    return tracing.trace(fn, abstract, *inputs, **options, **keywords)
