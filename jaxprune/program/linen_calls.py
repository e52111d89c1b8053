"""The top-level Linen modules that a function calls, and the same function with another module.

Flax binds a copy of the module for every `apply`. What is called on such a copy, and not from
inside of another call, is a call of the function: it is noted while the function is traced, and
can go to another module in the same scope.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
from flax.core import DenyList

from jaxprune.arguments.stable_words import shown
from jaxprune.program import jaxpr

_LIBRARIES = (
    f"{Path(__file__).parents[1]}{os.sep}",
    *(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (flax, jax)),
    contextlib.__file__,
)
_APPLY = "scope_fn"
"""Flax's function that calls the method of a bound copy."""


class Call(NamedTuple):
    """A call of a top-level Linen module, or of a part of it, from the function itself.

    module: a copy of the top-level module.
    number: which top-level module of the function it is; every `apply` binds one.
    text: the part, the method, and the arguments that are constants, in words.
    direct: whether Flax's `apply` called the method, with nothing of the function's between.
    plain: whether it is in the trace of the function itself. What a `jit` or the like traces stays
      in a cache, and is not called another time.
    """

    module: nn.Module
    number: int
    text: str
    direct: bool
    plain: bool


Function = Callable[..., Any]
Redirect = Callable[[nn.Module, str, tuple[Any, ...], Mapping[str, Any]], Any]


class _Outer(NamedTuple):
    """A call that comes from the function itself."""

    module: nn.Module
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Outermost:
    """An interceptor of the calls that come from the function itself."""

    def __init__(self, handle: Callable[..., Any]):
        self.handle = handle
        self.roots: list[nn.Module] = []
        self.inside = False

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if module.scope is not None:
            declare_quickly(module.scope)
        method = None if self.inside or module.scope is None else _method(context)
        if method is None:
            return call(*args, **kwargs)
        root = _root(module)
        if all(root is not other for other in self.roots):
            self.roots.append(root)
        number = next(i for i, other in enumerate(self.roots) if other is root)
        self.inside = True
        try:
            run = functools.partial(call, *args, **kwargs)
            return self.handle(number, run, _Outer(module, method, args, kwargs))
        finally:
            self.inside = False


@contextlib.contextmanager
def noted(fn: Function) -> Generator[tuple[Function, list[Call]], None, None]:
    """Gives the function, and the list to which its calls of top-level modules are added."""
    calls: list[Call] = []
    began: list[Any] = []

    def begun(*args: Any, **keywords: Any) -> Any:
        began.append(jaxpr.current_trace())
        return fn(*args, **keywords)

    def note(number: int, run: Callable[[], Any], call: _Outer) -> Any:
        if call.method != "setup":
            root = _root(call.module)
            direct = call.module is root and _is_direct()
            plain = jaxpr.current_trace() == began[-1]
            calls.append(Call(root.copy(parent=None), number, _text(call), direct, plain))
        return run()

    with nn.intercept_methods(_Outermost(note)):
        yield begun, calls


@contextlib.contextmanager
def redirected(numbers: Collection[int], redirect: Redirect) -> Generator[None, None, None]:
    """The calls of the top-level modules `numbers` go to `redirect`.

    It is called with the bound module, the name of the method and the arguments.
    """

    def handle(number: int, run: Callable[[], Any], call: _Outer) -> Any:
        if number not in numbers:
            return run()
        if call.method == "setup":  # the other module sets itself up
            return None
        return redirect(*call)

    with nn.intercept_methods(_Outermost(handle)):
        yield


def declare_quickly(scope: Any) -> None:
    """Makes a scope give parameters that are there, where Flax would trace their initializers.

    It does so to compare shapes; a parameter of another shape, or whose initializer is given none,
    is left to it.
    """
    if "param" in vars(scope):
        return
    declare = scope.param

    def param(name: str, init_fn: Any, *args: Any, unbox: bool = True, **kwargs: Any) -> Any:
        shape = args[0] if args and isinstance(args[0], tuple | list) else None
        if shape is not None and scope.has_variable("params", name):
            value = scope.get_variable("params", name)
            if getattr(value, "shape", None) == tuple(shape):
                scope.reserve(name, "params")
                return value
        return declare(name, init_fn, *args, unbox=unbox, **kwargs)

    scope.param = param


def _method(context: Any) -> str | None:
    """The name of the method that is called; what transforms make of a method may have another.

    None if it is not a method of the module's class, but one of Flax's checks.
    """
    kind, function = type(context.module), context.orig_method.func
    for name in (context.method_name, *dir(kind)):
        if getattr(getattr(kind, name, None), "__wrapped__", None) is function:
            return name
    return None


def _root(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module


def _is_direct() -> bool:
    """True if no function of the user's stands between Flax's `apply` and the method."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        if frame.f_code.co_name == _APPLY:
            return True
        frame = frame.f_back
    return False


def _text(call: _Outer) -> str:
    scope = call.module.scope
    assert scope is not None
    named = (f"{name}={shown(call.kwargs[name])}" for name in sorted(call.kwargs))
    given = ", ".join([*map(shown, call.args), *named])
    words = [f"{'/'.join((*scope.path, call.method))}({given})"]
    if mutable := _names(scope.root.mutable):
        words.append(f"mutable={mutable}")
    if scope.root.rngs:
        words.append(f"rngs={sorted(scope.root.rngs)}")
    return " ".join(words)


def _names(mutable: Any) -> Any:
    """What an `apply` may write, in one form; nothing is an empty list."""
    if isinstance(mutable, bool):
        return "all" if mutable else []
    if isinstance(mutable, DenyList):
        return f"all but {_names(mutable.deny)}"
    return [mutable] if isinstance(mutable, str) else sorted(mutable)
