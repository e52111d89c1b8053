"""The top-level Linen modules that a function calls, and the same function with another module.

Flax binds a copy of the module for every `apply`. What is called on such a copy, and not from
inside of another call, is a call of the function: it is noted while the function is traced, and
can go to another module in the same scope.
"""

import dataclasses
import functools
import os
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import numpy as np
from flax.core import DenyList

_LIBRARIES = tuple(
    f"{Path(found).parent}{os.sep}" for found in (__file__, flax.__file__, jax.__file__)
)
_APPLY = "scope_fn"
"""Flax's function that calls the method of a bound copy."""


class Call(NamedTuple):
    """A call of a top-level Linen module, or of a part of it, from the function itself.

    module: a copy of the top-level module.
    number: which top-level module of the function it is; every `apply` binds one.
    text: the part, the method, and the arguments that are constants, in words.
    direct: whether Flax's `apply` called the method, with nothing of the function's between.
    """

    module: nn.Module
    number: int
    text: str
    direct: bool


Redirect = Callable[[nn.Module, str, tuple[Any, ...], Mapping[str, Any]], Any]


class _Outermost:
    """An interceptor of the calls that come from the function itself."""

    def __init__(self, handle: Callable[..., Any]):
        self.handle = handle
        self.roots: list[nn.Module] = []
        self.inside = False

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if self.inside or module.scope is None:
            return call(*args, **kwargs)
        root = _root(module)
        if all(root is not other for other in self.roots):
            self.roots.append(root)
        number = next(i for i, other in enumerate(self.roots) if other is root)
        self.inside = True
        try:
            run = functools.partial(call, *args, **kwargs)
            return self.handle(number, run, args, kwargs, context)
        finally:
            self.inside = False


@contextmanager
def noted() -> Iterator[list[Call]]:
    """Gives the list to which every call of a top-level module inside is added."""
    found: list[Call] = []

    def note(number: int, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "setup":
            root = _root(context.module)
            direct = context.module is root and _is_direct()
            text = _text(context.module, context.method_name, args, kwargs)
            found.append(Call(root.copy(parent=None), number, text, direct))
        return call()

    with nn.intercept_methods(_Outermost(note)):
        yield found


@contextmanager
def redirected(numbers: Collection[int], redirect: Redirect) -> Iterator[None]:
    """The calls of the top-level modules `numbers` go to `redirect`.

    It is called with the bound module, the name of the method and the arguments.
    """

    def handle(number: int, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if number not in numbers:
            return call()
        if context.method_name == "setup":  # the other module sets itself up
            return None
        return redirect(context.module, context.method_name, args, kwargs)

    with nn.intercept_methods(_Outermost(handle)):
        yield


def _root(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module


def _is_direct() -> bool:
    """True if no function of the user's stands between Flax's `apply` and the method."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        if frame.f_code.co_name == _APPLY:
            return True
        frame = frame.f_back
    return False


def _text(module: nn.Module, method: str, args: Any, kwargs: Any) -> str:
    scope = module.scope
    assert scope is not None
    given = [*map(shown, args), *(f"{name}={shown(kwargs[name])}" for name in sorted(kwargs))]
    words = ["/".join((*scope.path, method)) + f"({', '.join(given)})"]
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


def shown(value: Any) -> str:
    """Returns an argument in words, the same in every process and for every batch."""
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)
        case list() | tuple():
            return f"({', '.join(map(shown, value))})"
        case Mapping():
            return f"{{{', '.join(f'{key}: {shown(value[key])}' for key in sorted(value))}}}"
        case type() | types.FunctionType():
            return value.__qualname__
        case jax.Array() | np.ndarray() | np.generic() | jax.ShapeDtypeStruct():
            return "array"
    return type(value).__name__


def difference(ours: Any, theirs: Any, name: str = "") -> str | None:
    """Returns what first differs between two modules, in words; None if they are built alike."""
    return _difference(ours, theirs, name, set())


def _difference(ours: Any, theirs: Any, name: str, seen: set[tuple[int, int]]) -> str | None:
    if ours is theirs or (id(ours), id(theirs)) in seen:
        return None
    seen.add((id(ours), id(theirs)))
    if type(ours) is type(theirs) and (parts := _parts(ours)) is not None:
        others = _parts(theirs) or {}
        if parts.keys() == others.keys():
            below = (
                _difference(part, others[key], f"{name}.{key}" if name else str(key), seen)
                for key, part in parts.items()
            )
            found = next(filter(None, below), None)
            if found is None or not callable(ours) or isinstance(ours, nn.Module):
                return found
    elif type(ours) is type(theirs) and _equal(ours, theirs):
        return None
    what = f"its {name} is" if name else "it is"
    return f"{what} {_brief(theirs)}, that of the traced module is {_brief(ours)}"


def _parts(value: Any) -> dict[str, Any] | None:
    """What a value is made of, {name: part}; None for a value without parts."""
    match value:
        case nn.Module():
            names = value.__dataclass_fields__.keys() - {"parent", "name"}
            return {name: getattr(value, name, None) for name in sorted(names)}
        case functools.partial():
            return {"func": value.func, "args": value.args, "keywords": value.keywords}
        case types.FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            same = (value.__defaults__, value.__kwdefaults__, value.__globals__.get("__name__"))
            return {"code": value.__code__, "closure": cells, "defaults": same}
        case list() | tuple():
            return {str(i): item for i, item in enumerate(value)}
        case Mapping():
            return {str(key): item for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.compare)
        return {field.name: getattr(value, field.name) for field in fields}
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | jax.Array):
        return a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    try:
        return bool(a == b)
    except Exception:  # a value that cannot be compared is another one
        return False


def _brief(value: Any) -> str:
    if isinstance(value, nn.Module | types.FunctionType | type):
        return getattr(value, "__qualname__", None) or f"a {type(value).__qualname__}"
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]}..."
