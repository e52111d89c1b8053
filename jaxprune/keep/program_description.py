"""What a spec says of the traced program, so that code which was edited since is found.

A description names the call and its inputs, the spaces of every variable's axes, and every
contraction: the variables in it, its parameters, and the operations before it with their
constants. It is a JSON value of some ten bytes for an operation; what is bulky is a digest. Blocks
that are the same stand in it once.
"""

import functools
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from threading import Lock
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import flax
import jax

from jaxprune.arguments.stable_words import shown
from jaxprune.graph import ChannelGraph
from jaxprune.keep import plain_program
from jaxprune.keep.plain_program import Operation
from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.spaces import Atom, Space, Sum


class Kind(TypedDict):
    """What can be read of a contraction and of what stands before it."""

    operation: str
    parameters: Mapping[str, Any]
    before: str  # names of operations, or the digest of many
    constants: list[float] | str  # or the digest of many


class Description(TypedDict):
    """What a spec says of the traced program."""

    call: list[str]
    inputs: list[str]
    unread: list[str]
    groups: list[str]
    variables: Mapping[str, list[str]]  # for every axis its size or its groups
    program: list[list[str]]  # [name, key of its kind, digest of all of it]
    kinds: Mapping[str, Kind]


_MADE: MutableMapping[ChannelGraph, Description] = WeakKeyDictionary()
_LOCK = Lock()
_LONG = 80
GROUP = re.compile(r"g(\d+)(?=:)")
"""A group in the words of an axis."""


def describe(graph: ChannelGraph) -> Description:
    """Returns the description of a graph, a JSON value; the same at every batch size.

    The function is traced once more at twice the batch: what differs there follows the batch.
    """
    with _LOCK:
        if graph in _MADE:
            return _MADE[graph]
    inputs, segments = _segments(graph)
    kinds: dict[str, Kind] = {}
    program: list[list[str]] = []
    for segment in segments:
        kind = _kind(segment)
        key = plain_program.digest(kind)
        kinds[key] = kind
        whole = [[item.name, item.parameters, item.reads] for item in segment]
        program.append([_name(segment[-1]), key, plain_program.digest(whole)])
    described: Description = {
        "call": _call(graph),
        "inputs": inputs,
        "unread": list(graph.unread),
        "groups": list(graph.groups),
        "variables": _variables(graph),
        "program": program,
        "kinds": kinds,
    }
    with _LOCK:
        return _MADE.setdefault(graph, described)


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Returns the versions of what makes the program."""
    from jaxprune import __version__

    return {"jax": jax.__version__, "flax": flax.__version__, "jaxprune": __version__}


def problem(description: Any) -> str | None:
    """Returns why a value cannot be a description, None if it can."""
    match description:
        case {
            "call": [*call],
            "inputs": [*inputs],
            "unread": [*unread],
            "groups": [*groups],
            "variables": dict(variables),
            "program": [*program],
            "kinds": dict(kinds),
        }:
            axes = [axis for row in variables.values() for axis in row]
            words = [*call, *inputs, *unread, *groups, *variables, *axes]
            if not all(isinstance(word, str) for word in words):
                return "it holds other than words where words belong"
            if any(int(number) >= len(groups) for axis in axes for number in GROUP.findall(axis)):
                return "an axis has a group that is not listed"
            if not all(map(_is_kind, kinds.values())):
                return "a kind of contraction is not complete"
            if not all(_is_entry(entry, kinds) for entry in program):
                return "a contraction is not a name, a kind that is listed, and a digest"
            return None
    return "it has not call, inputs, unread, groups, variables, program and kinds"


def _is_kind(kind: Any) -> bool:
    match kind:
        case {
            "operation": str(),
            "parameters": dict(),
            "before": str(),
            "constants": list() | str(),
        }:
            return True
    return False


def _is_entry(entry: Any, kinds: Mapping[str, Any]) -> bool:
    match entry:
        case [str(), str(kind), str()]:
            return kind in kinds
    return False


def _segments(graph: ChannelGraph) -> tuple[list[str], list[list[Operation]]]:
    """The inputs in words, and the operations up to every contraction and to the results."""
    variables = list(graph.variables)
    ours = plain_program.Reader().read(graph.walk.program, variables).segments
    given = graph.inputs, dict(graph.keywords)
    shapes = [_words(leaf) for leaf in jax.tree.leaves(given)]
    for other in _other_batches(given):
        inputs, keywords = other
        try:
            program, _ = jaxpr.trace(graph.fn, graph.abstract, *inputs, **keywords)
            theirs = plain_program.Reader().read(program, variables).segments
        except Exception:  # the function takes no other batch
            continue
        if _names(ours) == _names(theirs):
            others = [_words(leaf) for leaf in jax.tree.leaves(other)]
            pairs = zip(ours, theirs, strict=True)
            segments = [[*map(_apart, *pair)] for pair in pairs]
            return [*map(_input, shapes, others)], segments
    return [*map(_input, shapes, shapes)], ours


def _state_path(name: str, path: str) -> str:
    """How the description names an array of the state of the call."""
    return f"state {name}/{path}" if path else f"state {name}"


def _names(segments: Sequence[Sequence[Operation]]) -> list[list[str]]:
    return [[item.name for item in segment] for segment in segments]


def _apart(ours: Operation, theirs: Operation) -> Operation:
    """An operation without what follows the batch."""
    parameters = plain_program.without_batch(ours.parameters, theirs.parameters)
    reads = plain_program.without_batch(ours.reads, theirs.reads)
    return ours._replace(parameters=parameters, reads=reads)


def _other_batches(inputs: Any) -> Iterator[Any]:
    """Yields the inputs at twice the batch: of all that have it, else of the first alone."""
    leaves, treedef = jax.tree.flatten(inputs)
    shapes: list[tuple[int, ...]] = [getattr(leaf, "shape", ()) for leaf in leaves]
    first = next((shape[0] for shape in shapes if len(shape)), 0)
    batched = [i for i, shape in enumerate(shapes) if len(shape) and shape[0] == first]
    for chosen in dict.fromkeys((tuple(batched), tuple(batched[:1]))):
        if chosen:
            yield jax.tree.unflatten(
                treedef, [_twice(leaf) if i in chosen else leaf for i, leaf in enumerate(leaves)]
            )


def _twice(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct((2 * leaf.shape[0], *leaf.shape[1:]), leaf.dtype)


def _words(leaf: Any) -> list[Any]:
    return [*map(str, getattr(leaf, "shape", ())), str(getattr(leaf, "dtype", type(leaf).__name__))]


def _input(ours: list[Any], theirs: list[Any]) -> str:
    *shape, dtype = plain_program.without_batch(ours, theirs)
    return f"{dtype}[{', '.join(shape)}]"


def _call(graph: ChannelGraph) -> list[str]:
    """What is called, in words."""
    if graph.calls:
        return [call.text for call in graph.calls]
    fn = graph.fn
    if isinstance(called := getattr(fn, "called", None), str):
        return [called]
    if isinstance(fn, functools.partial):
        named = (f"{name}={shown(fn.keywords[name])}" for name in sorted(fn.keywords))
        return [f"({', '.join([*map(shown, fn.args), *named])})"]
    return []


def _kind(segment: Sequence[Operation]) -> Kind:
    """What can be read of a segment: its last operation, and what stands before it."""
    *before, last = segment
    names = " ".join(item.name for item in before)
    constants = [read for item in segment for read in item.reads if isinstance(read, float)]
    return {
        "operation": last.name,
        "parameters": last.parameters,
        "before": names if len(before) < _LONG else f"{len(before)} {plain_program.digest(names)}",
        "constants": constants if len(constants) < _LONG else plain_program.digest(constants),
    }


def _name(last: Operation) -> str:
    return " ".join(last.kernels) or (f"{last.name} at {last.place}" if last.place else last.name)


def _variables(graph: ChannelGraph) -> dict[str, list[str]]:
    """{path: for every axis its size or its groups, `g0:out + g1:out` or `g0:in * 4`}."""
    numbers = {name: f"g{i}" for i, name in enumerate(graph.groups)}
    roles = {
        (slot.path, slot.axis, group.name): slot.role
        for group in graph.groups.values()
        for slot in group.slots
    }

    def words(space: Space, here: tuple[str, int], names: Mapping[str, str]) -> str:
        if isinstance(space, Atom):
            role = roles.get((*here, space.name or ""))
            return f"{names[space.name or '']}:{role}" if role else str(space.size)
        sign, items = (" + ", space.parts) if isinstance(space, Sum) else (" * ", space.factors)
        return f"({sign.join(words(item, here, names) for item in items)})" if items else "1"

    def short(space: Space, here: tuple[str, int]) -> str:
        text = words(space, here, numbers)
        if len(text) < _LONG:
            return text
        return plain_program.digest(words(space, here, dict(zip(numbers, numbers, strict=True))))

    def state(space: Space, _here: tuple[str, int]) -> str:
        names = dict.fromkeys(atom.name for atom in ax.atoms(space) if atom.name is not None)
        return " ".join(f"{numbers[name]}:state" for name in names) or "any"

    arrays = [(path, variable, short) for path, variable in graph.variables.items()]
    arrays += [
        (_state_path(name, path), variable, state)
        for name, item in graph.state.items()
        for path, variable in item.variables.items()
    ]
    return {
        path: [words_of(space, (path, axis)) for axis, space in enumerate(variable.axes)]
        for path, variable, words_of in arrays
    }
