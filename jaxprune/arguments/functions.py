"""What may be traced: a function of variables and inputs, and how."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

from jaxprune.arguments import call_inputs
from jaxprune.arguments.checks import check_flag, is_array, kind_of
from jaxprune.arguments.models import model_of
from jaxprune.arguments.numbers import is_integer
from jaxprune.arguments.paths import near
from jaxprune.errors import BudgetError, PatternError, TraceError

TRACE_OPTIONS = (
    "rules", "strict", "layers", "free_outputs", "free_constants", "state", "index_inputs",
)  # fmt: skip
"""The keywords of every `trace`."""

RATIOS = ("ratio", "prune_ratio", "pruning_ratio", "sparsity", "amount", "keep_ratio")
"""What a share of the channels is called elsewhere."""


def check_function(fn: Any, what: str = "fn") -> None:
    """Raises TraceError unless `fn` is a function, as `fn(variables, *inputs)`; says what to call.

    A module can be called too, but holds its variables or finds them elsewhere.
    """
    if model := model_of(fn):
        raise TraceError(
            f"{what} must be a function of variables and inputs, got {model.name}.\n"
            f"Fix: {model.traced}.",
            page=model.page,
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
    ratios = [word for word in given if word in RATIOS and word not in taken]
    if ratios and "keep_macs" in others:
        raise BudgetError(
            f"{name} takes no keyword {ratios[0]!r}.\nFix: keep_macs=0.5, the share of the "
            "multiply-accumulates that stays; of the channels, jp.select.global_ratio(graph, "
            "scores, prune_ratio=0.5) between the single steps."
        )
    if bad:
        raise TraceError(
            "\n".join([f"{name} takes no keyword {why}" for why in bad]) + f"\nFix: one of {known}."
        )


def _axes(rules: Mapping[Any, Any]) -> list[Any]:
    """The functions of a table of rules."""
    return [getattr(rule, "axes", rule) for rule in rules.values()]


F = TypeVar("F", bound=Callable[..., Any])


def by_name(call: str) -> Callable[[F], F]:
    """Makes a function of a graph and scores that says what has a name, such as a ratio.

    A warning from the function must look one level further up.

    Args:
      call: how it is called.
    """

    def named(fn: F) -> F:
        @functools.wraps(fn)
        def checked(*args: Any, **keywords: Any) -> Any:
            if len(args) > 2:
                raise BudgetError(
                    f"{fn.__name__} takes a graph and scores, and everything else by its name; got "
                    f"{kind_of(args[2])} behind them.\nFix: {call}."
                )
            return fn(*args, **keywords)

        return cast(F, checked)

    return named
