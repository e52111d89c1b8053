"""One evaluation of a network with statistics at its places, gates, and probes of gradients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments.dtypes import wide
from jaxprune.errors import GateError
from jaxprune.gates.evaluation import NOTHING, Given, Marked, evaluate
from jaxprune.gates.sites import Site
from jaxprune.graph import ChannelGraph
from jaxprune.program.jaxpr import Op
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted
from jaxprune.stats.batch_calls import Call
from jaxprune.stats.places import Place, places
from jaxprune.stats.readings import Reading, by_channel
from jaxprune.stats.statistic import At, Statistic

Array = Any
Measured = dict[str, dict[str, list[Any]]]
"""{statistic: {group: [state of every place]}}."""


def measured(item: Statistic, reading: Reading) -> Any:
    """Returns the state that a statistic makes of a reading."""
    return item.of(jax.lax.stop_gradient(item.read(reading)))


class _Note(NamedTuple):
    """A place that a statistic reads as the program comes to it."""

    statistic: str
    number: int
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What hands the products of an activation and its gradient to a statistic, going backward.

    The activation passes as it is. The derivative by the slot, zeros in the shape of the state, is
    said to be the state that is measured: so autodiff adds it up over readers and steps, and no
    product outlives its place.
    """

    key: Any
    item: Statistic
    place: Place

    @property
    def operand(self) -> int:
        """Which operand it stands on."""
        assert self.place.site is not None
        return self.place.site.operand

    def shape(self) -> Any:
        """Returns the shapes of the slot at one visit."""
        aval = self.place.op.eqn.invars[self.operand].aval
        return jax.eval_shape(self._measured, jax.ShapeDtypeStruct(aval.shape, aval.dtype))

    def _measured(self, products: Array) -> Any:
        axes = self.place.op.ins[self.operand]
        channels = by_channel(products, axes, self.place.axis, self.place.group).real
        return measured(self.item, Reading(channels=channels, group=self.place.group))

    def on(self, x: Array, slot: Any) -> Array:
        """Returns `x`, whose gradient goes through `slot`."""

        @jax.custom_vjp
        def probe(x: Array, slot: Any) -> Array:
            del slot
            return x

        def forward(x: Array, slot: Any) -> tuple[Array, Array]:
            return probe(x, slot), x

        def backward(x: Array, slope: Array) -> tuple[Array, Any]:
            return slope, self._measured(wide(x) * wide(slope))

        probe.defvjp(forward, backward)
        return probe(x, slot)


class Visit:
    """The program at the shapes of a batch, and how it is evaluated."""

    def __init__(
        self,
        graph: ChannelGraph,
        retraced: evaluator.Retraced,
        groups: Sequence[str] | None,
        variables: Any,
        call: Call,
    ):
        inputs, keywords = call
        keywords = {**keywords, **graph.constants}
        self.graph = graph
        self.groups = groups
        self.here = retraced(evaluator.full(graph, variables, {}), inputs, keywords)
        self.args = evaluator.operands(variables, inputs, keywords)

    def places(self, at: At, *, weighted: bool = False) -> list[Place]:
        """Returns the places of the wanted groups.

        Raises:
          GateError: a wanted group has none.
        """
        known, without = places(self.here, at, weighted=weighted)
        there = dict.fromkeys(place.group for place in known)
        wanted = list(there if self.groups is None else self.groups)
        evaluator.check_groups(self.graph, self.here, wanted)
        missing = [
            f"group {name!r}: {without.get(name, 'it has no such place')}"
            for name in wanted
            if name not in there
        ]
        if missing:
            raise GateError(
                "\n".join([f"these groups have no place for {at.value}:", *missing])
                + "\nFix: leave them out; without groups= all that have one are measured."
            )
        return [place for place in known if place.group in wanted]

    def gates(self) -> dict[str, Array]:
        """Returns unit gates of the wanted groups that can carry one."""
        names = dict.fromkeys(place.group for place in self.places(At.GATES))
        return {name: jnp.ones(self.graph.groups[name].shape) for name in names}

    def run(
        self,
        statistics: Mapping[str, Statistic] = NOTHING,
        key: Array = None,
        *,
        gates: Given = NOTHING,
        slots: Given = NOTHING,
        probes: Mapping[Any, Probe] = NOTHING,
        variables: Any = None,
    ) -> tuple[Any, Measured]:
        """Returns the outputs, and what the statistics measured.

        Gates multiply what contractions read, and probes hand its gradient to their slots;
        `variables` take the place of those that the visit was made for.
        """
        notes = [
            _Note(name, i, place)
            for name, item in statistics.items()
            for i, place in enumerate(self.places(item.at, weighted=item.weighted))
        ]
        sites = {id(p.site): p.site for p in self.places(At.GATES) if gates and p.site}
        marks = [(note.place.op, note) for note in notes]
        marks += [(probe.place.op, probe) for probe in probes.values()]
        marked = Marked([*marks, *((site.op, site) for site in sites.values())])
        given = {**gates, **slots}
        owners = {k: probes[k].place.group if k in probes else k for k in given}
        stacks = {k: self._stack(name) for k, name in owners.items()}

        def leave(op: Op, args: list[Any], outs: list[Any]) -> Noted:
            return {
                (note.statistic, note.number): measured(
                    statistics[note.statistic],
                    note.place.reading(args, outs, jax.random.fold_in(key, note.number)),
                )
                for note in marked.at(op)
                if isinstance(note, _Note)
            }

        args = self.args
        if variables is not None:
            leaves = jax.tree.leaves(variables)
            args = [*leaves, *args[len(leaves) :]]
        enter = _enter(marked)
        outs, noted = evaluate(
            self.here, marked, args, enter=enter, leave=leave, given=given, stacks=stacks
        )
        states: Measured = {name: {} for name in statistics}
        for name, number, place in notes:
            state = self._folded(statistics[name], place, noted[name, number])
            states[name].setdefault(place.group, []).append(state)
        return outs, states

    def slot(self, probe: Probe) -> Any:
        """Returns the zeros that a probe fills, of all layers of its stack."""
        stack = self._stack(probe.place.group)
        inside = any(op is stack for op in probe.place.op.around)
        layers = (self.graph.groups[probe.place.group].layers,) if inside else ()
        return jax.tree.map(lambda s: jnp.zeros((*layers, *s.shape), s.dtype), probe.shape())

    def _stack(self, group: str) -> Any:
        return self.here.groups[group].slots[0].atom.layers

    def _folded(self, item: Statistic, place: Place, state: Any) -> Any:
        """The states of the steps of loops merged, but where layers have channels of their own."""
        kept = False
        for scan in place.op.scans:
            if scan is self._stack(place.group):
                kept = True
            else:
                state = jax.vmap(item.fold)(state) if kept else item.fold(state)
        return state


def _enter(marked: Marked[Any]) -> Callable[[Op, list[Any], Given], list[Any]]:
    def enter(op: Op, args: list[Any], given: Given) -> list[Any]:
        for mark in marked.at(op):
            if isinstance(mark, Probe):
                args[mark.operand] = mark.on(args[mark.operand], given[mark.key])
            elif isinstance(mark, Site):
                args[mark.operand] = mark.scaled(args[mark.operand], given)
        return args

    return enter
