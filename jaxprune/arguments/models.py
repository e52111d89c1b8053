"""Whose model a value is, and what is called with one where a function is expected."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import nnx

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.paths import flatten
from jaxprune.errors import TraceError


class Model(NamedTuple):
    """A model that is no function of its variables.

    Attributes:
      name: what it is, in words.
      traced: how to trace it.
      page: of the docs.
      package: of `jaxprune` that takes it; None where it is `jaxprune` itself.
    """

    name: str
    traced: str
    page: str
    package: str | None = None


def model_of(value: Any) -> Model | None:
    """Returns what is known of a model or its class; None for what is neither."""
    if isinstance(value, type):
        return _class(value)
    name = f"an object of {type(value).__name__}"
    if isinstance(value, nn.Module):
        call = "jp.linen.trace(module, variables, *inputs), or lambda v, x: module.apply(v, x)"
        return Model(name, call, "howto/linen", "linen")
    if isinstance(value, nnx.Module):
        call = "jp.nnx.trace(model, *inputs), and graph.fn for what takes a function"
        return Model(name, call, "howto/nnx", "nnx")
    if _is_equinox(value):
        call = (
            "v, static = eqx.partition(model, eqx.is_array), and the function "
            "lambda v, x: eqx.combine(v, static)(x)"
        )
        return Model(name, call, "howto/equinox")
    if isinstance(value, _classes("haiku", "Transformed", "TransformedWithState")):
        call = "lambda v, x: model.apply(v, None, x), for example"
        return Model(name, call, "howto/haiku")
    if isinstance(value, _classes("keras", "Layer")):
        call = "jp.keras.trace(model, *inputs), and graph.fn for what takes a function"
        return Model(name, call, "howto/keras", "keras")
    return None


def not_a(expected: str, value: Any, page: str) -> TraceError:
    """Returns the error for what is not the model that a package takes, whose page it is."""
    model = model_of(value)
    found = f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)
    way_out = "pass the model object; jp.trace takes any function"
    if model is not None and not isinstance(value, type):
        found, page = type(value).__name__, model.page
        way_out = model.traced
    return TraceError(f"expected {expected}, got {found}.\nFix: {way_out}.", page=page)


def check_no_variables(inputs: Sequence[Any], variables: Any, call: str, page: str) -> None:
    """Raises TraceError where the variables of a model that holds them stand before the inputs."""
    if inputs and flatten(inputs[0])[0].keys() == flatten(variables)[0].keys():
        raise TraceError(
            f"the first input has the names of the variables, which the model holds.\nFix: {call}.",
            page=page,
        )


def _class(value: type) -> Model:
    name = f"the class {value.__name__}"
    if issubclass(value, nnx.Module):
        return Model(name, "jp.nnx.trace(model, *inputs), of a model object", "howto/nnx", "nnx")
    linen = issubclass(value, nn.Module)
    return Model(
        name,
        "a function of variables, such as model.apply of an object of the class",
        "howto/linen" if linen else "howto/errors",
        "linen" if linen else None,
    )


def _is_equinox(value: Any) -> bool:
    """True for a module that holds arrays, and is not a function or a method that is wrapped."""
    wraps = hasattr(value, "__wrapped__") or hasattr(value, "__self__")
    held = isinstance(value, _classes("equinox", "Module")) and not wraps
    return held and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))


def _classes(package: str, *names: str) -> tuple[type, ...]:
    """The classes of a package; none where it is not imported."""
    module = sys.modules.get(package)
    return tuple(kind for name in names if (kind := getattr(module, name, None)) is not None)
