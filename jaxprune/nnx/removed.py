"""What of an NNX model goes with branches: modules that give zeros in the place of others.

A module goes if nothing needs what its calls give, once the branches are taken out of their sums,
and if no variable below it stays. It is replaced where it stands, so that lists keep their places
and all other variables their paths. A variable that goes of a module that stays is zero.
"""

import functools
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprune.cutting.shorter_state import Shorter
from jaxprune.graph import ChannelGraph
from jaxprune.nnx.names import calling, modules
from jaxprune.nnx.pure_function import Function, hollow
from jaxprune.program import jaxpr, removed_values
from jaxprune.running import removed_calls
from jaxprune.running.kept_depth import KeptDepth
from jaxprune.running.removed_calls import is_part


class Gone(NamedTuple):
    """What goes: paths of modules, and of variables of modules that stay."""

    calls: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class Static:
    """A value that NNX does not look into."""

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return getattr(self.value[0], "__name__", "") if isinstance(self.value, tuple) else "shape"


class Removed(nnx.Module):
    """Stands where a module was that branches alone had use for; it gives zeros.

    Methods give zeros of the shapes of the module's, attributes are those of the module.
    """

    def __init__(self, module: nnx.Module):
        graphdef, rngs, state = nnx.split(module, nnx.RngState, ...)
        shapes = jax.eval_shape(lambda x: x, state)
        settings = {n: v for n, v in vars(module).items() if not n.startswith("_")}
        plain = {n: v for n, v in settings.items() if not nnx.is_data(v)}
        self.of = Static((type(module), graphdef, rngs, shapes, plain))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns zeros in the place of what the module gave."""
        return self._zeros("__call__", *args, **kwargs)

    def _zeros(self, method: str, *args: Any, **kwargs: Any) -> Any:
        _, graphdef, rngs, shapes, _ = self.of.value

        def call() -> Any:
            module: Any = nnx.merge(graphdef, rngs, jax.tree.map(_writable, shapes), copy=True)
            return getattr(module, method)(*args, **kwargs)

        return removed_values.zeros_like(call)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "of" not in vars(self):
            raise AttributeError(name)
        kind, plain = self.of.value[0], self.of.value[-1]
        if name in plain:
            return plain[name]
        if callable(getattr(kind, name, None)):
            return functools.partial(self._zeros, name)
        raise AttributeError(f"{name!r} of {kind.__name__} went with a branch")


def _writable(shape: jax.ShapeDtypeStruct) -> Any:
    """Stands for an array of a shape, into which a method may write."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.extended):
        return hollow(shape)
    return jnp.zeros(shape.shape, shape.dtype)


class Zero:
    """Stands where a variable was: zeros of its shape, for code that computes with it."""

    def __init__(self, like: Any):
        self._like = Static(like)

    @property
    def value(self) -> Any:
        """The zeros."""
        return jaxpr.zeros(self._like.value.shape, self._like.value.dtype)

    def get_value(self) -> Any:
        """The zeros, as of a variable."""
        return self.value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value, name)


def _computing(name: str) -> Any:
    return lambda self, *args: getattr(self.value, name)(*args)


for _name in "add radd sub rsub mul rmul matmul rmatmul truediv neg getitem len".split():
    setattr(Zero, f"__{_name}__", _computing(f"__{_name}__"))


def gone_of(graph: ChannelGraph, kept: KeptDepth, fn: Function) -> Gone:
    """Returns what goes of the modules of a graph."""
    gone = kept.without.variables
    alive = graph.variables.keys() - gone
    candidates = [
        path
        for path in modules(fn.model())
        if any(is_part(name, path) for name in gone) and not any(is_part(p, path) for p in alive)
    ]
    around = functools.partial(_marked, candidates)
    calls = removed_calls.of(graph, kept, fn.within(around))
    alone = [name for name in sorted(gone) if not any(is_part(name, call) for call in calls)]
    return Gone(tuple(calls), tuple(alone))


@contextmanager
def _marked(paths: Iterable[str], model: nnx.Module) -> Generator[None, None, None]:
    """What the modules of these paths give has their name."""

    def mark(path: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        return removed_calls.marked(outputs, path) if path in paths else outputs

    with calling(model, mark):
        yield


def replace_gone(model: nnx.Module, gone: Gone) -> None:
    """Replaces what goes of a model of our own, wherever it stands."""
    by_path = dict(modules(model))
    named = {"/".join(map(str, path)): path for path, _ in nnx.iter_graph(model)}
    new = {id(by_path[path]): Removed(by_path[path]) for path in gone.calls}
    for path in gone.variables:
        *above, last = named[path]
        holder = _at(model, above)
        like = holder[last] if _is_item(holder, last) else getattr(holder, str(last))
        _put(holder, last, Zero(jax.eval_shape(lambda x: x, like.get_value())))
    old = [by_path[path] for path in gone.calls]
    for path, value in list(nnx.iter_graph(model)):
        if any(value is module for module in old):
            _put(_at(model, path[:-1]), path[-1], new[id(value)])
    for holder in [
        m for path, m in by_path.items() if not any(is_part(path, c) for c in gone.calls)
    ]:
        for name, value in list(vars(holder).items()):  # at its other places too
            if any(value is module for module in old):
                setattr(holder, name, new[id(value)])


def with_less_state(model: nnx.Module, method: Any, lost: Shorter) -> None:
    """Lets a method of a model of our own take and give back state without what it lost."""
    if lost.entries and isinstance(method, str):
        object.__setattr__(model, "__class__", _taking_less(type(model), method, lost))


@functools.lru_cache(maxsize=64)  # NNX remembers every class
def _taking_less(kind: type, method: str, lost: Shorter) -> type:
    """Returns a subclass, a method of which takes and gives back less state."""
    whole = getattr(kind, method)

    @functools.wraps(whole)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return lost.called(functools.partial(whole, self), *args, **kwargs)

    space = {method: run, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), space)


def _at(node: Any, path: Iterable[Any]) -> Any:
    for key in path:
        node = node[key] if _is_item(node, key) else getattr(node, key)
    return node


def _is_item(node: Any, key: Any) -> bool:
    return not isinstance(key, str) or not hasattr(node, key)


def _put(node: Any, key: Any, value: Any) -> None:
    if _is_item(node, key):
        node[key] = value
    else:
        delattr(node, key)  # NNX notes whether an attribute holds arrays
        setattr(node, key, value)
