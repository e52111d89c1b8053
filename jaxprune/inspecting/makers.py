"""What makes the channels of a group from other channels, and what is only added to them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from jaxprune.graph import ChannelGraph, Slot
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.parameters import each_contraction
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Atom, atoms


@once
def makers(graph: ChannelGraph) -> Mapping[str, tuple[Slot, ...]]:
    """Returns {group: its `out` slots in kernels that make its channels}, for groups with some.

    A kernel that only passes the channels on, as that of a depthwise convolution, makes none.
    """
    passing = set(_passing(graph))
    made = {
        name: tuple(s for s in group.slots if s.role == "out" and (s.path, s.atom) not in passing)
        for name, group in graph.groups.items()
    }
    return MappingProxyType({name: slots for name, slots in made.items() if slots})


@once
def added(graph: ChannelGraph) -> Mapping[str, tuple[Slot, ...]]:
    """Returns {group: its `vector` slots in variables that are added to its channels}.

    They are the biases, and the running means, which are subtracted. Scales are not among them,
    nor are running variances.
    """
    norms = batch_norms(graph).values()
    places = list(graph.variables)
    paths = {places[i] for op in every_op(graph.walk) for i in _added(op)}
    paths |= {path for norm in norms for path in (norm.bias, norm.mean) if path}
    paths -= {path for norm in norms for path in (norm.scale, norm.var) if path}
    return MappingProxyType(
        {
            name: tuple(s for s in group.slots if s.role == "vector" and s.path in paths)
            for name, group in graph.groups.items()
        }
    )


def _passing(graph: ChannelGraph) -> Iterator[tuple[str, Atom]]:
    """Yields (kernel, group of channels) where a contraction has the channels before it too."""
    places = list(graph.variables)
    for op in (term.op for term in each_contraction(graph.contractions)):
        if None not in op.sources:
            continue
        activation = op.sources.index(None)
        summed = {a for pair in contraction.pairs(op) for a in atoms(op.ins[1][pair[1]])}
        before = {a for space in op.ins[activation] for a in atoms(space)} - summed
        for source in op.sources:
            yield from ((places[i], atom) for i in source or () for atom in before)


def _added(op: Op) -> Iterator[int]:
    """Yields the variables that an operation adds to an activation, each alone."""
    if op.rule is not None and op.rule.weights in ((1, 1), (1, -1)) and None in op.sources:
        yield from (next(iter(source)) for source in op.sources if source and len(source) == 1)
