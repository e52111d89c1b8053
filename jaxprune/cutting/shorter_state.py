"""State that lost entries with branches, such as the cache of a decoder without some layers.

A call takes it without them and gives it back so. Where code needs the whole state, something of
the right shapes stands in their place; the sizes that are not pruned, such as batch and length, are
those of what came.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxprune.arguments import call_inputs, paths
from jaxprune.cutting.absent import with_rows, without_leaves
from jaxprune.errors import TreeError
from jaxprune.graph import ChannelGraph, Variable
from jaxprune.inspecting.carried import twins
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.check import Widths
from jaxprune.keep.kept import state_places
from jaxprune.program import jaxpr, stacked_layers
from jaxprune.program import spaces as ax

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Those by position, and by keyword."""
Make = Callable[[tuple[int, ...], Any], Any]
"""`(shape, dtype) -> ` what stands in the place of an entry."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shorter:
    """What the state of a call lost.

    entries: {paths of a state among the inputs: {path in it: (size of every axis, None where it is
    that of the call; dtype)}}. call: the inputs as they were traced, as shapes. outputs: the paths
    of what is not returned.
    """

    entries: Mapping[tuple[str, ...], Mapping[str, tuple[tuple[int | None, ...], Any]]]
    call: Inputs
    outputs: frozenset[str]

    @classmethod
    def of(
        cls, graph: ChannelGraph, gone: Without, size: Callable[[ax.Space], int], prefix: str = ""
    ) -> "Shorter":
        """Returns what went of the state of a graph, `size` being that of its pruned axes.

        `prefix` is that of what a module gives among the outputs of the graph.
        """
        entries = {
            graph.state[name].inputs: {
                path: _entry(graph.state[name].variables[path], size) for path in item.variables
            }
            for name, item in gone.state.items()
            if item.variables
        }
        names = [paths.name(key) for key, _ in paths.keyed(graph.output)[0]]
        ours = {i for i, place in enumerate(twins(graph)) if (place or 0) >= len(graph.variables)}
        call = jax.eval_shape(lambda *xs: xs, graph.inputs, dict(graph.keywords))
        return cls(
            entries=entries,
            call=call,
            outputs=frozenset(names[i].removeprefix(prefix) for i in gone.outputs & ours),
        )

    def filled(self, inputs: Sequence[Any], keywords: Mapping[str, Any], make: Make) -> Inputs:
        """Returns the inputs of a call with something in the place of what the state lost.

        Raises:
          TreeError: the state has what it lost.
        """
        whole: dict[int | str, Any] = {**dict(enumerate(inputs)), **keywords}
        for ways, entries in self.entries.items():
            key, rest = _argument(ways, inputs, keywords)
            if key is None:
                continue
            given = _place(self.call, ways)
            leaves, (full, treedef) = paths.flatten(whole[key])[0], paths.flatten(given)
            lost = {f"{rest}/{path}".strip("/"): entry for path, entry in entries.items()}
            if there := sorted(leaves.keys() & lost.keys()):
                raise TreeError(
                    f"state {there[:5]} went with branches.\nFix: jp.slice(graph, state, keep, "
                    "state=its name) gives what this network takes."
                )
            if leaves.keys() | lost.keys() != full.keys():
                continue  # another call, such as one without a cache
            sizes = self._sizes((tuple(inputs), dict(keywords))) | _sizes(full, leaves)
            every = [
                leaves[path] if path in leaves else _made(lost[path], leaf.shape, sizes, make)
                for path, leaf in full.items()
            ]
            whole[key] = jax.tree.unflatten(treedef, every)
        return tuple(whole[i] for i in range(len(inputs))), {name: whole[name] for name in keywords}

    def without(self, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Inputs:
        """Returns the inputs of a call with whole state without what it lost."""
        less: dict[int | str, Any] = {**dict(enumerate(inputs)), **keywords}
        for ways, entries in self.entries.items():
            key, rest = _argument(ways, inputs, keywords)
            if key is not None:
                lost = {f"{rest}/{path}".strip("/") for path in entries}
                less[key] = without_leaves(less[key], lost)
        return tuple(less[i] for i in range(len(inputs))), {name: less[name] for name in keywords}

    def called(self, fn: Callable[..., Any], *inputs: Any, **keywords: Any) -> Any:
        """Returns what a function of whole state gives, without the entries that the state lost."""
        inputs, keywords = self.filled(inputs, keywords, jaxpr.zeros)
        return without_leaves(fn(*inputs, **keywords), self.outputs)

    def _sizes(self, call: Inputs) -> dict[tuple[int, int], int]:
        return _sizes(*(dict(call_inputs.named(*item)) for item in (self.call, call)))


def whole(
    graph: ChannelGraph,
    gone: Without,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    counts: Widths = MappingProxyType({}),
) -> Inputs:
    """Returns the inputs of a call as the graph takes them.

    Shapes at `counts` stand in the place of entries that went, zeros in that of rows of stacks.

    Raises:
      TreeError: the state has what it lost.
    """
    if not gone.state:
        return tuple(inputs), dict(keywords)
    lost = Shorter.of(graph, gone, lambda space: ax.count(space, counts))
    filled = lost.filled(inputs, keywords, jax.ShapeDtypeStruct)
    return _with_rows(graph, gone, *filled, with_rows)


def less(
    graph: ChannelGraph, gone: Without, inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> Inputs:
    """Returns the inputs of a call with whole state without what it lost."""
    lost = Shorter.of(graph, gone, lambda space: space.size)
    return _with_rows(graph, gone, *lost.without(inputs, keywords), lambda leaf, kept: leaf[kept])


def _with_rows(
    graph: ChannelGraph,
    gone: Without,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    change: Callable[[Any, np.ndarray], Any],
) -> Inputs:
    """Returns the inputs of a call with `change(leaf, kept)` in the place of stacks."""
    leaves, treedef = jax.tree.flatten((tuple(inputs), dict(keywords)))
    for place, (name, path) in state_places(graph, inputs, keywords).items():
        if name in gone.state and path in gone.state[name].rows:
            leaves[place] = change(leaves[place], gone.state[name].rows[path])
    return jax.tree.unflatten(treedef, leaves)


def empty(graph: ChannelGraph, name: str, leaves: Mapping[str, Any]) -> Any:
    """Returns a state of zeros, its batch and length being those of some of its leaves."""
    ways, known = graph.state[name].inputs, graph.state[name].variables
    tree = _place((graph.inputs, dict(graph.keywords)), ways)
    for key in filter(None, _argument(ways, graph.inputs, graph.keywords)[1].split("/")):
        tree = tree[int(key)] if isinstance(tree, Sequence) else tree[key]
    sizes = _sizes({path: array.struct(array.shape) for path, array in known.items()}, leaves)
    entries = ((_entry(array, lambda space: space.size), array.shape) for array in known.values())
    zeros = [_made(entry, shape, sizes, np.zeros) for entry, shape in entries]
    return jax.tree.unflatten(jax.tree.structure(tree), zeros)


def _entry(array: Variable, size: Callable[[ax.Space], int]) -> tuple[tuple[int | None, ...], Any]:
    """The sizes of an array of a state, None where it is that of the call; its dtype."""
    fixed = [space if _is_fixed(space) else None for space in array.axes]
    return tuple(None if space is None else size(space) for space in fixed), array.dtype


def _is_fixed(space: ax.Space) -> bool:
    """True of an axis that is pruned, or counts layers."""
    return stacked_layers.stack(space) is not None or any(a.name for a in ax.atoms(space))


def _argument(
    ways: Sequence[str], inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[int | str | None, str]:
    """The argument that holds a state, None if the call has none, and the path in it."""
    for way in ways:
        head, _, rest = way.partition("/")
        if head in keywords:
            return head, rest
        if head.isdigit() and int(head) < len(inputs):
            return int(head), rest
    return None, ""


def _place(call: Inputs, ways: Sequence[str]) -> Any:
    key, _ = _argument(ways, *call)
    return None if key is None else call[0][key] if isinstance(key, int) else call[1][key]


def _sizes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """{axis, its size when it was traced: its size now}."""
    pairs = ((np.shape(before[path]), np.shape(now[path])) for path in before.keys() & now.keys())
    return {
        (axis, old): new
        for a, b in pairs
        if len(a) == len(b)
        for axis, (old, new) in enumerate(zip(a, b, strict=True))
    }


def _made(
    entry: tuple[tuple[int | None, ...], Any],
    traced: tuple[int, ...],
    sizes: Mapping[tuple[int, int], int],
    make: Make,
) -> Any:
    fixed, dtype = entry
    pairs = enumerate(zip(fixed, traced, strict=True))
    shape = (sizes.get((i, old), old) if size is None else size for i, (size, old) in pairs)
    return make(tuple(shape), dtype)
