"""The sizes that a function closes over, and the function with others in their place.

They stand in its cells, in the arguments of partials, and in the static fields of dataclasses
there, such as Equinox's modules. Nothing of it is changed: what lies on the way to a new size is
copied. Where the variables are modules too, as `eqx.partition` makes them, their static fields
follow.
"""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn

from jaxprune.arguments import integers
from jaxprune.graph import ChannelGraph
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.running.attribute_search import Holder, Overrides, parts_of

Function = Callable[..., Any]
DEPTH = 24


class ClosedOver:
    """What a function closes over.

    All but the function itself is looked for only if something must be tried.
    """

    def __init__(self, fn: Function, graph: ChannelGraph):
        self.fn = fn
        self.graph = graph

    @cached_property
    def holders(self) -> dict[str, Holder]:
        """{path: a function, or a module below it}; the function itself has the path ""."""
        return {"/".join(way): holder for way, holder in self._ways.items()}

    @cached_property
    def _ways(self) -> dict[tuple[str, ...], Holder]:
        return dict(_holders(self.fn, ()))

    @cached_property
    def _roots(self) -> list[str]:
        """Where the paths of the modules begin."""
        return sorted({way[0] for way in self._ways if way})

    @cached_property
    def _variables(self) -> dict[int, tuple[str, ...]]:
        """For every operation the path of the variable that was read last."""
        return dict(_near(self.graph))

    def with_sizes(self, extra: Overrides) -> Function:
        """Returns the function with other sizes: {path: {way: size}}."""
        if not extra:
            return self.fn
        changes = {tuple(filter(None, path.split("/"))): dict(v) for path, v in extra.items()}
        fn = _changed(self.fn, changes)
        below = {way[1:]: values for way, values in changes.items() if way}

        def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
            return fn(_twin(variables, below), *inputs, **keywords)

        return run

    def around(self, op: Op) -> list[str]:
        """Returns the modules that hold the variable that was read last, innermost first.

        After each what it is made of: a module computes before it reads a variable of its own.
        """
        names = self._variables.get(id(op), ())
        ends = range(len(names), 0, -1)
        runs = [*(names[start:end] for end in ends for start in range(end)), ()]
        ways = ("/".join((root, *run)) for run in runs for root in self._roots)
        holders = [path for path in dict.fromkeys(ways) if path in self.holders]
        near = (path for each in holders for path in (each, *parts_of(self.holders, each)))
        return list(dict.fromkeys((*near, *(p for p in self.holders if self._is_function(p)))))

    def path_of(self, module: Any) -> str | None:
        """Returns the path of a module of the same class."""
        kind = type(module).__name__
        same = (path for path, held in self.holders.items() if held.kind == kind)
        return next(same, None) if _is_module(module) else None

    def _is_function(self, path: str) -> bool:
        return self.holders[path].kind == _FUNCTION


_FUNCTION = "function"


def _is_module(value: Any) -> bool:
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type | nn.Module)
    return is_data and callable(value)


def _near(graph: ChannelGraph) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields for every operation the path of the variable that was read last."""
    paths, near = list(graph.variables), ()
    for op in every_op(graph.walk):
        for source in op.sources:
            if source is not None and len(source) == 1:
                near = tuple(paths[min(source)].split("/"))
        yield id(op), near


def _parts(value: Any) -> dict[str, Any]:
    """What a value is made of."""
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    if isinstance(value, functools.partial):
        given = {str(i): item for i, item in enumerate(value.args)}
        return {"func": value.func, **given, **value.keywords}
    if isinstance(value, tuple | list):
        return {str(i): item for i, item in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if _is_module(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {}


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a function that is closed over before it is defined
        return False


def _holders(value: Any, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Holder]]:
    if len(way) > DEPTH:
        return
    parts = _parts(value)
    if _is_module(value):
        yield way, Holder(type(value).__name__, parts)
        parts = {name: part for name, part in parts.items() if not _is_function(part)}
    elif _is_function(value):
        yield way, Holder(_FUNCTION, parts)
    for name, part in parts.items():
        if not any(part is other for other in (value,)):
            yield from _holders(part, (*way, name))


def _is_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType | functools.partial)


def _changed(value: Any, changes: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Any:
    """Returns a copy of a value with changes below it: {way: {attribute: size}}."""
    if not changes:
        return value
    parts = _parts(value)
    new: dict[str, Any] = {}
    for name in dict.fromkeys(way[0] for way in changes if way):
        if name in parts:
            below = {way[1:]: v for way, v in changes.items() if way[:1] == (name,)}
            new[name] = _changed(parts[name], below)
    held = types.SimpleNamespace(**{**parts, **new})
    return _put(value, new | integers.resolved(held, changes.get((), {})))


def _put(value: Any, new: Mapping[str, Any]) -> Any:
    """Returns a copy of a value with other parts."""
    if isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        cells = zip(names, value.__closure__ or (), strict=True)
        closure = tuple(types.CellType(new[n]) if n in new else cell for n, cell in cells)
        copied = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
        )
        copied.__kwdefaults__ = value.__kwdefaults__
        return copied
    if isinstance(value, functools.partial):
        given = [new.get(str(i), item) for i, item in enumerate(value.args)]
        words = {name: new.get(name, item) for name, item in value.keywords.items()}
        return functools.partial(new.get("func", value.func), *given, **words)
    if isinstance(value, tuple | list):
        items = [new.get(str(i), item) for i, item in enumerate(value)]
        kind: Any = type(value)
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, Mapping):
        kind = type(value)
        return kind({key: new.get(str(key), item) for key, item in value.items()})
    copied = copy.copy(value)
    for name, part in new.items():
        object.__setattr__(copied, name, part)  # modules are frozen
    return copied


def _twin(variables: Any, changes: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Any:
    """Returns variables whose modules have the static fields of those that they are put into."""
    here = {way: values for way, values in changes.items() if _leads(variables, way)}
    if here:
        return _changed(variables, here)
    if isinstance(variables, Mapping | tuple | list):
        return _put(variables, {k: _twin(part, changes) for k, part in _parts(variables).items()})
    return variables


def _leads(value: Any, way: Sequence[str]) -> bool:
    """True if there is a module at the end of a way."""
    for name in way:
        value = _parts(value).get(name)
    return _is_module(value)
