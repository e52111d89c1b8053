"""What every axis keeps under one keep."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxprune.arguments import call_inputs
from jaxprune.graph import ChannelGraph, Variable
from jaxprune.keep.check import Keep, count
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers, states


class Kept:
    """What every space keeps under one keep, each mask computed once."""

    without: Any = None
    """What goes with branches; see `jaxprune.running.kept_depth`."""
    cuts: Mapping[Any, int] = MappingProxyType({})
    """{sum: the operand that is taken out}."""
    torn: str = ""
    """What code can hardly keep apart, for the error of a program that is another one."""

    def __init__(self, keep: Keep):
        self.keep = {name: np.asarray(value) for name, value in keep.items()}
        self.counts = {name: count(value) for name, value in self.keep.items()}
        self._masks: dict[int, np.ndarray | None] = {}
        self._spaces: list[ax.Space] = []  # holds the ids in use

    def other(self, keep: Keep) -> "Kept":
        """Returns what another keep of channels keeps."""
        return Kept(keep)

    def mask(self, space: ax.Space) -> np.ndarray | None:
        """bool[n] or bool[layers, n], which positions stay; None if all do."""
        if id(space) not in self._masks:
            chosen = ax.select(space, self.keep) if touched(space, self.keep) else None
            self._masks[id(space)] = None if chosen is None or chosen.all() else chosen
            self._spaces.append(space)
        return self._masks[id(space)]

    def indices(self, space: ax.Space) -> np.ndarray | None:
        """int[k] or int[layers, k], the kept positions along an axis; None if it stays whole."""
        mask = self.mask(space)
        return None if mask is None else stacked_layers.rows(mask)

    def places(self, space: ax.Space) -> np.ndarray | None:
        """int[n] or int[layers, n], of every position the place of the nearest kept one."""
        mask = self.mask(space)
        return None if mask is None else np.maximum(np.cumsum(mask, axis=-1) - 1, 0)

    def size(self, space: ax.Space) -> int:
        """The kept size of an axis."""
        return ax.count(space, self.counts)

    def length(self, scan: Any) -> int:
        """How many steps of a scan stay."""
        return scan.params["length"]

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The kept shape of a variable."""
        return tuple(map(self.size, variable.axes))

    def abstract(self, graph: ChannelGraph) -> Any:
        """The variables of a graph at the kept widths, as a pytree of `jax.ShapeDtypeStruct`."""
        small = [v.struct(self.shape(v)) for v in graph.variables.values()]
        return jax.tree.unflatten(graph.treedef, small)

    def call(self, graph: ChannelGraph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the traced call at the kept widths: `(variables, *inputs)`, keywords."""

        def small(leaf: Any, variable: Variable) -> Any:
            shape = self.shape(variable)
            return leaf if np.shape(leaf) == shape else variable.struct(shape)

        inputs, keywords = with_state(graph, graph.inputs, graph.keywords, small)
        return (self.abstract(graph), *inputs), keywords


def with_state(
    graph: ChannelGraph,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    change: Callable[[Any, Variable], Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the inputs of a call with `change(leaf, variable)` in the place of state.

    State that the call does not have, such as the cache of a decoder without one, is left out.
    """
    if not graph.state:
        return tuple(inputs), dict(keywords)
    leaves = [leaf for _, leaf in call_inputs.named(inputs, keywords)]
    for place, (name, path) in state_places(graph, inputs, keywords).items():
        leaves[place] = change(leaves[place], graph.state[name].variables[path])
    treedef = jax.tree.structure((tuple(inputs), dict(keywords)))
    return jax.tree.unflatten(treedef, leaves)


def state_places(
    graph: ChannelGraph, inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[int, tuple[str, str]]:
    """Returns {place among the leaves of a call: name of a state, path in it}."""
    named, found = call_inputs.named(inputs, keywords), {}
    for name, state in graph.state.items():
        ways = (states.below(path, named) for path in state.inputs)
        for path, place in next(filter(None, ways), {}).items():
            if path in state.variables:
                found[place] = name, path
    return found


def touched(space: ax.Space, keep: Keep) -> bool:
    """Returns whether a keep names any group of a space."""
    return any(atom.name in keep for atom in ax.atoms(space))
