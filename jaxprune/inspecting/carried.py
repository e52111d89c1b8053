"""What a call takes and gives back: variables and state, by their places among its inputs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxprune.arguments import paths
from jaxprune.graph import ChannelGraph, Variable
from jaxprune.inspecting.cached import once
from jaxprune.keep.kept import state_places
from jaxprune.program import outputs, states


class Carried(NamedTuple):
    """An input that an output may be the next of: a variable, or a part of the state of a name."""

    state: str | None
    path: str
    array: Variable


@once
def carried(graph: ChannelGraph) -> Mapping[int, Carried]:
    """Returns {place among the inputs of the program: what is there}."""
    found = {i: Carried(None, *item) for i, item in enumerate(graph.variables.items())}
    for place, (name, path) in sorted(state_places(graph, graph.inputs, graph.keywords).items()):
        array = graph.state[name].variables[path]
        found[len(graph.variables) + place] = Carried(name, path, array)
    return MappingProxyType(found)


@once
def twins(graph: ChannelGraph) -> outputs.Twins:
    """Returns for every output the place of the input that it is the next of, if it is one."""
    places = {(item.state, item.path): place for place, item in carried(graph).items()}
    named = [(paths.name(key), leaf) for key, leaf in paths.keyed(graph.output)[0]]
    next_of = {
        i: places[name, path]
        for name, state in graph.state.items()
        if state.output is not None
        for path, i in states.below(state.output, named).items()
    }
    return outputs.twins(graph.output, graph.variables, next_of)


@once
def results(graph: ChannelGraph) -> list[bool]:
    """Returns for every output whether it counts: not if it is the next of an input.

    State counts where a call gives nothing else back, as one that fills a cache.
    """
    places = twins(graph)
    counts = [place is None for place in places]
    if any(counts):
        return counts
    return [place is not None and place >= len(graph.variables) for place in places]
