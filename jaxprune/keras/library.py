"""Keras, imported when it is used, and what of it is not public.

Names with an underscore are those of Keras 3.15; `tests/test_keras.py` says when one is gone.
"""

import importlib
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from jaxprune.arguments.models import not_a
from jaxprune.errors import JaxpruneError, TraceError

_WAITING = "uninitialized_variables"


def keras() -> Any:
    """Returns Keras.

    Raises:
      JaxpruneError: it is not installed, or runs on another backend than JAX.
    """
    try:
        module = importlib.import_module("keras")
    except ImportError as error:
        raise JaxpruneError(
            f"jp.keras needs Keras 3 and its backend, and importing it failed: {error}.\n"
            "Fix: pip install keras, and set the environment variable KERAS_BACKEND=jax."
        ) from error
    backend = getattr(getattr(module, "config", None), "backend", lambda: "an old Keras")()
    if backend != "jax":
        raise JaxpruneError(
            f"jp.keras needs Keras on the backend 'jax', it runs on {backend!r}.\nFix: set the "
            "environment variable KERAS_BACKEND=jax before Keras is imported for the first time."
        )
    return module


def check_model(model: Any) -> None:
    """Raises TraceError unless `model` is a Keras model or layer that has its variables."""
    if not isinstance(model, keras().Layer):
        raise not_a("a keras.Model", model, "howto/keras")
    if not model.built:
        raise TraceError(
            f"the model {model.name!r} is not built, so that its variables are not there yet.\n"
            "Fix: call it on a batch, or model.build(input_shape), before it is traced."
        )


def children(layer: Any) -> list[Any]:
    """Returns the layers that a layer holds, without the inputs of a graph of layers."""
    layers = layer._flatten_layers(include_self=False, recursive=False)
    return [child for child in layers if not isinstance(child, keras().layers.InputLayer)]


def is_graph(layer: Any) -> bool:
    """True for a model that is a graph of layers: a functional or a sequential one."""
    return isinstance(layer, keras().Function | keras().Sequential)


def context_arguments(layer: Any) -> set[str]:
    """Returns the keywords that every call of a layer takes and hands on, `training` among them."""
    return {"training", *getattr(layer, "_call_context_args", ())}


def graph_of(model: Any) -> Any:
    """Returns the functional model that a sequential one runs, None where it runs none."""
    return model._functional if isinstance(model, keras().Sequential) else model


def through(graph: Any, inputs: Any, call: Callable[..., Any]) -> Any:
    """Returns the outputs of a functional model that calls `call(operation, *args, **kwargs)`."""
    return graph._run_through_graph(inputs, call_fn=call)


def standardized(graph: Any, inputs: Any) -> Any:
    """Returns the inputs of a functional model as it converts them."""
    return graph._standardize_inputs(inputs)


def operations(graph: Any) -> Iterable[Any]:
    """Yields the operations of a functional model that are not layers, such as `keras.ops`."""
    graph = graph_of(graph)
    return [op for op in graph.operations if not isinstance(op, keras().Layer)] if graph else []


def has_constructor(model: Any) -> bool:
    """True for a model whose class has a constructor of its own."""
    theirs = [kind for kind in type(model).__mro__ if not kind.__module__.startswith("keras.")]
    return any("__init__" in vars(kind) for kind in theirs if kind is not object)


@contextmanager
def unfiltered() -> Generator[None, None, None]:
    """Errors of Keras keep their text and their frames, and it does not warn."""
    config = keras().config
    filtered = config.is_traceback_filtering_enabled()
    config.disable_traceback_filtering()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if filtered:
            config.enable_traceback_filtering()


@contextmanager
def without_values() -> Generator[None, None, None]:
    """Variables that are made inside have shapes alone; Keras would give them values later."""
    state = importlib.import_module("keras.src.backend.common.global_state")
    waiting = state.get_global_attribute(_WAITING)
    state.set_global_attribute(_WAITING, [])
    try:
        with keras().StatelessScope(initialize_variables=False):
            yield
    finally:
        state.set_global_attribute(_WAITING, waiting)


def scope(value_of: Callable[[Any], Any]) -> Any:
    """Returns a `StatelessScope` in which a variable without a value has `value_of(variable)`."""

    class Scope(keras().StatelessScope):
        def get_current_value(self, variable: Any) -> Any:
            value = super().get_current_value(variable)
            return value_of(variable) if value is None else value

    return Scope(initialize_variables=False)
