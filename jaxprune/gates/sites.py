"""Where channels leave their group: the contractions that sum over it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph, Slot
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Form, Trait


class Site(NamedTuple):
    """One contraction that sums over channel groups.

    op: the `dot_general` or the convolution.
    operand, axis: the activation among its operands (the first where both are) and the axis of it
      that is summed over; the gate multiplies there.
    space: the index space of that axis. groups: the names of the groups that are summed over; in
      a grouped convolution `space` holds more, whose channels only pass through.
    """

    op: Op
    operand: int
    axis: int
    space: Space
    groups: frozenset[str]

    def scaled(self, x: jax.Array, gates: Mapping[str, Any]) -> jax.Array:
        """Returns the operand `x` times the gates of its channels, in the dtype of `x`."""
        gate = _spread(self.space, {name: gates[name] for name in self.groups & gates.keys()})
        gate = stacked_layers.aligned(gate, self.op.ins[self.operand], self.axis)
        return (x * gate).astype(x.dtype)

    def channels(self, x: jax.Array, group: str) -> jax.Array:
        """Returns [..., n] or [..., m, n]: the operand `x`, the channels of a group moved last."""
        x = jnp.moveaxis(x, self.axis, -1)
        atom = next(atom for atom in ax.atoms(self.space) if atom.name == group)
        places = ax.positions(self.space, atom).T
        if places.shape == (1, x.shape[-1]):
            return x
        return jnp.take(x, places[0] if len(places) == 1 else places, axis=-1)

    @property
    def variables(self) -> frozenset[int]:
        """The variables that the contraction reads, as places in the tree."""
        return frozenset().union(*(source or () for source in self.op.sources))


def _spread(space: Space, gates: Mapping[str, Any]) -> Any:
    """Returns the gates of an axis, f32[*layers, size]; one where there is no gate."""
    space = ax.find(space)
    if isinstance(space, ax.Atom):
        gate = None if space.name is None else gates.get(space.name)
        return np.ones(space.size, np.float32) if gate is None else gate
    if isinstance(space, ax.Sum):
        return ax.side_by_side([_spread(p, gates) for p in space.parts], np.ones(0, np.float32))
    return ax.outer([_spread(item, gates) for item in space.factors], np.ones(1, np.float32))


def find_sites(walk: Walk) -> Iterator[Site]:
    """Yields the sites of a program in its order, inner programs too."""
    for op in every_op(walk):
        if Trait.CONTRACTS not in op.traits:
            continue
        operand = 1 if op.sources[0] and op.sources[1] is None else 0
        for pair in contraction.pairs(op):
            summed = op.ins[1][pair[1]]  # of a grouped convolution, the channels within one group
            groups = frozenset(atom.name for atom in ax.atoms(summed) if atom.name is not None)
            if groups:
                axis = pair[operand]
                yield Site(op, operand, axis, op.ins[operand][axis], groups)


CLOSED = {
    Form.SHARD_MAP: "which is evaluated as a whole",
    Form.CUSTOM_JVP: "which brings its own derivative",
    Form.CUSTOM_VJP: "which brings its own derivative",
}
"""Forms of operations whose programs can hold no gate, and why."""

UNTAPPED = CLOSED | {
    Form.WHILE: "whose number of steps is not known",
    Form.COND: "which may not come to it",
}
"""Forms of operations whose programs hand no activation out, and why."""


def refusals(
    graph: ChannelGraph, sites: Collection[Site], closed: Mapping[Form, str]
) -> dict[str, str]:
    """Returns {group: why no contraction can carry its gate, or hand out its activation}."""
    names = list(graph.variables)
    refused = {}
    for name, group in graph.groups.items():
        here = [site for site in sites if name in site.groups]
        read = {names[i] for site in here for i in site.variables}
        unseen = [s.path for s in group.slots if s.role == "in" and s.path not in read]
        reasons = [why for site in here if (why := _refusal(site, closed))]
        if unseen:
            reasons = [f"{unseen[0]} is read by neither a dot_general nor a convolution"]
        if reasons or not here:
            refused[name] = reasons[0] if reasons else "no contraction sums over its channels"
    return refused


def _refusal(site: Site, closed: Mapping[Form, str]) -> str | None:
    dtype = site.op.eqn.invars[site.operand].aval.dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return f"its channels are {dtype} in {site.op!r} at {site.op.place}"
    for op in site.op.around:
        if op.form is not None and op.form in closed:
            return f"its channels are summed inside of a {op.name} at {op.place}, {closed[op.form]}"
    return None


def read_once(graph: ChannelGraph) -> set[Slot]:
    """Returns the in slots of the groups of which every contraction reads one in slot.

    Of kernels that are joined before they are contracted only the first has an in slot: then there
    is no such slot, nor where a variable with the channels multiplies the kernel.
    """
    names = list(graph.variables)
    readers = {
        name: {slot for slot in group.slots if slot.role == "in"}
        for name, group in graph.groups.items()
    }
    for site in find_sites(graph.walk):
        variables = {names[i] for i in site.variables}
        for name in site.groups:
            held = {s.path for s in graph.groups[name].slots if s.role != "out"} & variables
            if len(held) != 1 or not held & {slot.path for slot in readers.get(name, ())}:
                readers.pop(name, None)
    return {slot for slots in readers.values() for slot in slots}
