"""What of a Linen module goes with branches: calls that give zeros, and variables without a scope.

A module call goes if nothing needs what it gives, once the branches are taken out of their sums,
and if no variable below it stays. What is left of a branch, such as the scale of a layer in the
module around, is multiplied by zero and declares nothing.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.core import meta

from jaxprune.cutting.shorter_state import Shorter
from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr, removed_values
from jaxprune.running import removed_calls
from jaxprune.running.kept_depth import KeptDepth
from jaxprune.running.removed_calls import is_part


class Removed(NamedTuple):
    """What goes: `calls`, paths of modules whose calls give zeros, `variables`, and of the `state`.

    A variable is the pair of its collection and its path.
    """

    calls: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    state: Shorter | None = None

    def below(self, path: str) -> "Removed":
        """Returns what goes of the module at a path, for that module by itself."""
        start = f"{path}/" if path else ""
        calls = ["" if c == path else c[len(start) :] for c in self.calls if is_part(c, path)]
        variables = [(kind, name) for kind, name in self.variables if name.startswith(start)]
        return Removed(tuple(calls), tuple((kind, name[len(start) :]) for kind, name in variables))

    def has(self, collection: str, path: str, name: str) -> bool:
        """True of a variable that goes."""
        key = f"{path}/{name}" if path else name
        return (collection, key) in self.variables or any(
            is_part(path, call) for call in self.calls
        )


NOTHING = Removed()


def state_of(graph: ChannelGraph, kept: KeptDepth, *, mutable: bool) -> Shorter | None:
    """Returns what the state of a module's call lost; `mutable` calls give variables back too."""
    lost = Shorter.of(graph, kept.without, kept.size, "0/" if mutable else "")
    return lost if lost.entries else None


def removed_of(
    graph: ChannelGraph,
    kept: KeptDepth,
    marked: Callable[[list[str]], Callable[..., Any]],
) -> Removed:
    """Returns what goes of the modules of a graph.

    Args:
      graph: the channel graph.
      kept: what stays.
      marked: the function of the graph, `marked` for these paths.
    """
    gone = kept.without.variables
    every = {path: _parts(path, graph) for path in graph.variables}
    dead = {path for key, (_, path) in every.items() if key in gone}
    alive = {path for key, (_, path) in every.items() if key not in gone}
    modules = sorted({above for path in dead for above in _above(path)})
    candidates = [path for path in modules if not any(is_part(other, path) for other in alive)]
    calls = removed_calls.of(graph, kept, marked(candidates))
    return Removed(tuple(calls), tuple(every[path] for path in sorted(gone)))


def marked(fn: Callable[..., Any], paths: list[str]) -> Callable[..., Any]:
    """Returns a function in which what the modules of these paths give has their name."""

    def mark(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        outputs, scope = call(*args, **kwargs), context.module.scope
        path = None if scope is None else "/".join(scope.path)
        if path not in paths or context.method_name == "setup":
            return outputs
        return removed_calls.marked(outputs, path)

    def run(*args: Any, **keywords: Any) -> Any:
        with nn.intercept_methods(mark):
            return fn(*args, **keywords)

    return run


def zeros_of(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Returns zeros in the place of what a module gives, of which only the shapes are computed."""
    return removed_values.zeros_like(lambda: call(*args, **kwargs))


def parameter(init_fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Returns zeros in the place of a parameter that is not declared."""
    zeros = _zeros(init_fn, (jax.random.key(0), *args), kwargs)
    return meta.unbox(zeros) if kwargs.get("unbox", True) else zeros


def variable(init_fn: Callable[..., Any] | None, args: Any, kwargs: Any) -> Any:
    """Returns what stands in the place of a variable that is not declared."""
    value = None if init_fn is None else meta.unbox(_zeros(init_fn, args, kwargs))
    return SimpleNamespace(value=value)


def _zeros(init_fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Zeros in the place of an initial value, in its boxes."""
    options = {key: value for key, value in kwargs.items() if key != "unbox"}
    shapes = jax.eval_shape(lambda: init_fn(*args, **options))
    return jax.tree.map(lambda x: jaxpr.zeros(x.shape, x.dtype), shapes)


def declare_nothing(module: nn.Module, path: str, removed: Removed) -> None:
    """Lets an instance declare nothing that goes."""
    if not removed.variables:
        return
    declare, keep = module.param, module.variable

    def param(name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if removed.has("params", path, name):
            return parameter(init_fn, args, kwargs)
        return declare(name, init_fn, *args, **kwargs)

    def variable_of(collection: str, name: str, init_fn: Any = None, *args: Any, **kw: Any) -> Any:
        if removed.has(collection, path, name):
            return variable(init_fn, args, kw)
        return keep(collection, name, init_fn, *args, **kw)

    object.__setattr__(module, "param", param)
    object.__setattr__(module, "variable", variable_of)


def _parts(path: str, graph: ChannelGraph) -> tuple[str, str]:
    """The collection of a variable, and its path in it; a tree without collections is of params."""
    if not any(other.startswith("params/") for other in graph.variables):
        return "params", path
    kind, _, rest = path.partition("/")
    return kind, rest


def _above(path: str) -> Iterator[str]:
    """Yields the paths of the modules that may hold a variable."""
    names = path.split("/")[:-1]
    yield from ("/".join(names[:end]) for end in range(1, len(names) + 1))
