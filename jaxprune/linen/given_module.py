"""The module that is given to `resize`, in the place of the one that was traced.

What is compared with the graph is the program of the module that is returned. A graph of
`jp.linen.trace` knows its module and its call. Of any other function the calls of its top-level
modules are known: they go to the module given. Where a function of the user's stands between
`apply` and the module, it may read the module itself; then the modules must be built alike.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxprune.arguments import call_inputs
from jaxprune.arguments.models import not_a
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.linen.alike import difference, is_transformed
from jaxprune.linen.plan import Resized, Resizing, applied, call, resized, scope_of
from jaxprune.program import linen_calls
from jaxprune.running import same_program

At = Callable[..., Callable[..., Any]]
"""`(*plans) -> fn`: the function of the graph with the module given, at the widths of the plans."""
Modules = dict[str, list[nn.Module]]

_OTHER = "the module is not the one that was traced"
_WAY_OUT = "Fix: pass the module that was traced, or trace this one: jp.linen.trace(module, ...)."
HIDDEN = (
    "the traced function calls no Linen module, or hides it in a cached jit.\nFix: trace the plain "
    "function, for example lambda v, x: model.apply(v, x), or jp.linen.trace(module, variables, x)."
)


@dataclass(frozen=True, eq=False)  # so that it can be jitted: its call holds what has no hash
class Function:
    """A call of a module as a pure function of its variables: `graph.fn` of `jp.linen.trace`."""

    module: nn.Module
    call: Any

    def __call__(self, variables: Any, *inputs: Any, **keywords: Any) -> Any:
        """Returns `module.apply(variables, *inputs, **call)`, with keywords of now."""
        return self.module.apply(variables, *inputs, **{**self.call, **keywords})

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs by position."""
        method = self.call.get("method")
        if callable(method):
            return call_inputs.positional(method)[1:]
        return call_inputs.positional(getattr(self.module, method or "__call__"))


class _Top(NamedTuple):
    """A top-level module of the function: all its `apply`s."""

    module: nn.Module
    numbers: set[int]
    direct: bool


def as_traced(graph: ChannelGraph, module: nn.Module) -> At:
    """Returns the function of the graph with `module`.

    A module that is built like the traced one makes the same program, and is not traced, unless a
    cached `jit` of the function hides it.

    Raises:
      ResizeError: the program of `module` is not that of the graph; names the equation. Or a cache
        hides it.
    """
    failures: list[ResizeError] = []
    for way, differs in _ways(graph, module):
        if differs is None and all(call.plain for call in graph.calls):
            return way
        modules: Modules = {}
        way_out = f"The module given differs: {differs}.\n{_WAY_OUT}" if differs else _WAY_OUT
        try:
            fn = _recording(way(), modules)
            same_program.check(graph, Kept({}), fn, type(module).__name__, way_out, _OTHER)
        except ResizeError as error:
            failures.append(error)
        else:
            if not modules:  # the program at the kept widths would stay in the cache
                raise ResizeError(HIDDEN)
            return way
    raise failures[0]


def _ways(graph: ChannelGraph, module: nn.Module) -> Iterator[tuple[At, str | None]]:
    """Yields how `module` may take the place of what was traced, and how it is built otherwise."""
    if isinstance(fn := graph.fn, Function):
        yield (
            lambda *plans: replace(fn, module=reduce(resized, plans, module)),
            difference(fn.module, module),
        )
        return
    if not graph.calls:
        raise ResizeError(HIDDEN)
    differing = [(difference(top.module, module), top) for top in _tops(graph)]
    if not all(differs for differs, _ in differing):
        yield lambda *plans: _with(graph, plans), None
        return
    differing.sort(key=lambda pair: type(pair[1].module) is not type(module))
    ways = [(top.numbers, differs) for differs, top in differing if top.direct]
    if is_transformed(module):  # it would be transformed inside of itself
        ways = []
    for numbers, differs in ways:
        yield lambda *plans, numbers=numbers: _with(graph, plans, numbers, module), differs
    if not ways:
        raise ResizeError(f"{_OTHER}: {differing[0][0]}.\n{_WAY_OUT}")


def _tops(graph: ChannelGraph) -> list[_Top]:
    """The top-level modules of a function; those that are built alike are one."""
    tops: list[_Top] = []
    for noted in graph.calls:
        for i, top in enumerate(tops):
            if noted.number in top.numbers or difference(top.module, noted.module) is None:
                numbers = {*top.numbers, noted.number}
                tops[i] = _Top(top.module, numbers, top.direct and noted.direct)
                break
        else:
            tops.append(_Top(noted.module, {noted.number}, noted.direct))
    return tops


def _with(
    graph: ChannelGraph,
    plans: Sequence[Resizing],
    numbers: Collection[int] = (),
    module: nn.Module | None = None,
) -> Callable[..., Any]:
    """The function at the widths of the plans, its top-level modules `numbers` being `module`."""

    def redirect(bound: nn.Module, method: Any, args: Any, kwargs: Any) -> Any:
        assert module is not None
        assert bound.scope is not None
        if isinstance(bound, Resized) and method == "run":
            method, kwargs = kwargs["method"], {k: v for k, v in kwargs.items() if k != "method"}
        original, earlier = module, ()
        if isinstance(module, Resized):
            original, earlier = module.original.module, module.plans
        with applied(earlier):
            return call(original.clone(parent=bound.scope.rewound()), method, args, kwargs)

    def run(*args: Any, **keywords: Any) -> Any:
        if module is None:
            with applied(plans):
                return graph.fn(*args, **keywords)
        to_module = linen_calls.redirected(numbers, redirect)
        with applied(plans), to_module, linen_calls.noted(graph.fn) as (fn, calls):
            results = fn(*args, **keywords)
        if [noted.number for noted in calls] != [noted.number for noted in graph.calls]:
            raise ResizeError(HIDDEN)
        return results

    return run


def called_modules(graph: ChannelGraph, fn: Callable[..., Any]) -> Modules:
    """Returns {path: the modules that the function calls}; a wrapper has the path of its module."""
    modules: Modules = {}
    jax.eval_shape(_recording(fn, modules), graph.abstract, *graph.inputs, **graph.keywords)
    return modules


def _recording(fn: Callable[..., Any], modules: Modules) -> Callable[..., Any]:
    """The function; every module that it calls is added by path."""

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        where = scope_of(context.module)
        if where is not None:
            here = modules.setdefault("/".join(where), [])
            if all(module is not context.module for module in here):
                here.append(context.module)
        return call(*args, **kwargs)

    def recorded(*args: Any, **keywords: Any) -> Any:
        with nn.intercept_methods(record):
            return fn(*args, **keywords)

    return recorded


def check_module(module: Any) -> None:
    """Raises TraceError unless it is a Linen module."""
    if not isinstance(module, nn.Module):
        raise not_a("a flax.linen.Module", module, "howto/linen")
