"""The paths of NNX modules as the names of their operations, as Linen gives them by itself."""

import functools
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import jax
from flax import nnx

_LOCK = RLock()
_PLACE = "This happened in module"


def place_of(error: Exception) -> str:
    """Returns the note of the innermost `named` module whose call raised, or nothing."""
    notes = getattr(error, "__notes__", ())
    return next((note for note in notes if note.startswith(_PLACE)), "")


def modules(model: nnx.Module) -> dict[str, nnx.Module]:
    """Returns the modules of a model by their path; a shared module has its first path."""
    return {path_name(path): module for path, module in nnx.iter_modules(model)}


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a path of NNX as it is written everywhere: `layers/0/kernel`."""
    return "/".join(map(str, path))


@contextmanager
def named(model: nnx.Module) -> Generator[None, None, None]:
    """Operations of a module of `model` carry its path, and so does an exception from its call.

    Python looks `__call__` up in the class, so it is the classes that are wrapped, and unwrapped
    at the end; calls of all other instances pass through. Transforms such as `nnx.scan` make their
    own instances: one goes by the path of the only module of its class, or if there are several,
    what it calls goes by the path of the module that calls the transform.
    """
    inside: list[str] = []

    def scoped(path: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not path or (inside and inside[-1] == path):
            return call(*args, **kwargs)
        around = f"{inside[-1]}/" if inside else ""
        inside.append(path)
        try:
            with jax.named_scope(path.removeprefix(around)):
                return call(*args, **kwargs)
        except Exception as error:
            if not place_of(error):
                kind = type(getattr(call, "__self__", None)).__name__
                error.add_note(f"{_PLACE} {path!r} ({kind}).")
            raise
        finally:
            inside.pop()

    with calling(model, scoped):
        yield


@contextmanager
def calling(model: nnx.Module, by: Callable[..., Any]) -> Generator[None, None, None]:
    """Calls of the modules of `model` are `by(path, call, *args, **kwargs)`, as in `named`."""
    names = _Names(model)
    owners = {owner for kind in names.kinds if (owner := _owner(kind)) is not None}
    with _LOCK:
        originals = {owner: vars(owner)["__call__"] for owner in owners}
        try:
            for owner, call in originals.items():
                owner.__call__ = _handled(call, names, by)
            yield
        finally:
            for owner, call in originals.items():
                owner.__call__ = call


class _Names:
    """The path of every module of `model`, and of those that transforms make of them."""

    def __init__(self, model: nnx.Module):
        by_path = modules(model)
        self.paths = {id(module): path for path, module in by_path.items()}
        self.kinds = Counter(map(type, by_path.values()))
        self.only = {type(m): path for path, m in by_path.items() if self.kinds[type(m)] == 1}
        self.made: list[nnx.Module] = []  # held, so that no other object has one of these ids

    def __call__(self, module: nnx.Module) -> str:
        """The path, empty for the model itself and for what is unknown."""
        if id(module) not in self.paths and (root := self.only.get(type(module))):
            self.made.append(module)
            for path, inner in modules(module).items():
                self.paths[id(inner)] = f"{root}/{path}" if path else root
        return self.paths.get(id(module), "")


def _owner(kind: type) -> Any:
    """The class that defines the `__call__` of `kind`."""
    return next((base for base in kind.__mro__ if "__call__" in vars(base)), None)


def _handled(call: Callable[..., Any], names: _Names, by: Callable[..., Any]) -> Any:
    @functools.wraps(call)
    def handled(self: Any, *args: Any, **kwargs: Any) -> Any:
        return by(names(self), call.__get__(self, type(self)), *args, **kwargs)

    return handled
