"""What may be traced: a function of variables and inputs, and how."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprune.arguments import call_inputs
from jaxprune.arguments.checks import check_flag, is_array, kind_of
from jaxprune.arguments.numbers import is_integer
from jaxprune.arguments.paths import near
from jaxprune.errors import PatternError, TraceError

TRACE_OPTIONS = (
    "rules", "strict", "layers", "free_outputs", "free_constants", "state", "index_inputs",
)  # fmt: skip
"""The keywords of every `trace`."""


def check_function(fn: Any, what: str = "fn") -> None:
    """Raises TraceError unless `fn` is a function, as `fn(variables, *inputs)`; says what to call.

    A module can be called too, but holds its variables or finds them elsewhere.
    """
    if way_out := _module(fn):
        name, fix = way_out
        raise TraceError(
            f"{what} must be a function of variables and inputs, got {name}.\nFix: {fix}"
        )
    if not callable(fn):
        raise TraceError(
            f"{what} must be a function of variables and inputs, got {kind_of(fn)}.\n"
            "Fix: lambda v, x: model.apply(v, x), for example."
        )


def check_inputs(inputs: Any, keywords: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raises TraceError unless inputs are trees of arrays, numbers or shapes."""
    named = call_inputs.named(inputs, keywords)
    bad = [f"input {path!r} is {kind_of(leaf)}" for path, leaf in named if not is_array(leaf)]
    if bad:
        raise TraceError(
            "\n".join([*bad[:8], "Fix: pass arrays, or jax.ShapeDtypeStructs of their shapes."])
        )


def check_tracing(fn: Any, rules: Any, layers: Any, flags: tuple[Any, Any]) -> None:
    """Raises unless the arguments of a trace have the right types, `flags` its two bools."""
    check_function(fn)
    check_flag(flags[0], "strict")
    check_flag(flags[1], "free_constants")
    fits = isinstance(rules, Mapping) and all(map(callable, _axes(rules)))
    if not fits:
        raise TraceError(
            "rules must be {primitive or its name: jp.Rule, or the function of its axes}, got "
            f"{kind_of(rules)}.\nFix: rules=jp.RULES | {{'name': rule}}."
        )
    if not isinstance(layers, Mapping) or not all(isinstance(pattern, str) for pattern in layers):
        raise PatternError(
            f"layers must be {{pattern of variable paths: axis}}, got {kind_of(layers)}.\n"
            "Fix: layers={'blocks/*': 0}."
        )
    bad = [f"layers of {p!r}: the axis is {n!r}" for p, n in layers.items() if not is_integer(n)]
    if bad:
        raise TraceError("\n".join([*bad, "Fix: an int, such as layers={'blocks/*': 0}."]))


def check_keywords(method: Any, name: str, given: Any, others: Sequence[str]) -> None:
    """Raises TraceError for a keyword that a method does not take, such as a misspelled option.

    Args:
      method: a bound method of a module, or a function.
      name: of the module.
      given: the keywords that go to it.
      others: the keywords that go elsewhere, beside the options of a trace.
    """
    try:
        taken = inspect.signature(method).parameters
    except (TypeError, ValueError):  # it does not say what it takes
        return
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in taken.values()):
        return
    known = [*taken, *others, *TRACE_OPTIONS]
    bad = [f"{word!r}; near: {near(word, known)}" for word in given if word not in taken]
    if bad:
        raise TraceError(
            "\n".join([f"{name} takes no keyword {why}" for why in bad]) + f"\nFix: one of {known}."
        )


def _axes(rules: Mapping[Any, Any]) -> list[Any]:
    """The functions of a table of rules."""
    return [getattr(rule, "axes", rule) for rule in rules.values()]


def _module(fn: Any) -> tuple[str, str] | None:
    """What a module or a class is called, and what to pass in its place."""
    if isinstance(fn, type):
        name = f"the class {fn.__name__}"
        if issubclass(fn, nnx.Module):
            return name, "jp.nnx.trace(model, *inputs), of a model object."
        return name, "a function of variables, such as model.apply of an object of the class."
    name = f"an object of {type(fn).__name__}"
    if isinstance(fn, nn.Module):
        return (
            name,
            "jp.linen.trace(module, variables, *inputs), or lambda v, x: module.apply(v, x).",
        )
    if isinstance(fn, nnx.Module):
        return name, "jp.nnx.trace(model, *inputs), and graph.fn for what takes a function."
    equinox, keras = sys.modules.get("equinox"), sys.modules.get("keras")
    held = equinox is not None and isinstance(fn, equinox.Module)
    wraps = hasattr(fn, "__wrapped__") or hasattr(fn, "__self__")  # a function, a method
    if held and not wraps and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fn)):
        return name, (
            "v, static = eqx.partition(model, eqx.is_array), and the function "
            "lambda v, x: eqx.combine(v, static)(x)."
        )
    if keras is not None and isinstance(fn, getattr(keras, "Layer", ())):
        return name, "jp.keras.trace(model, *inputs), and graph.fn for what takes a function."
    return None
