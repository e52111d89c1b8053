"""Where statistics look at the channels of a group: operands and results of operations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxprune.gates.sites import CLOSED, UNTAPPED, Site, find_sites, refusals
from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules import contraction
from jaxprune.program.traits import Form, Trait
from jaxprune.stats.readings import Reading, beside, by_channel
from jaxprune.stats.statistic import At

Array = Any


class Place(NamedTuple):
    """One array with channels of a group.

    op: the operation; `result` is None for its operand at the site, else which of its results.
    axis: the axis that holds the group.
    site: the contraction that reads it; None for what a contraction writes.
    """

    group: str
    op: Op
    result: int | None
    axis: int
    site: Site | None

    def reading(self, operands: list[Array], results: list[Array], key: Array) -> Reading:
        """Returns what stands here now."""
        if self.result is None:
            assert self.site is not None
            operand = self.site.operand
            x, axes = operands[operand], self.op.ins[operand]
            along = beside(self.op, operand, self.axis)
        else:
            x, axes, along = results[self.result], self.op.outs[self.result], []
        return Reading(
            channels=by_channel(x, axes, self.axis, self.group, along),
            group=self.group,
            key=key,
            site=self.site if self.result is None else None,
            op=self.op,
            operands=operands,
            results=results,
        )


def places(
    graph: ChannelGraph, at: At, *, weighted: bool = False
) -> tuple[list[Place], dict[str, str]]:
    """Returns the places of all groups in the order of the program, and {group: why it has none}.

    `weighted` leaves out the contractions that read a group without one kernel.
    """
    walk = graph.walk
    sites = list(find_sites(walk))
    gated = at in (At.PRODUCTS, At.GATES, At.EXAMPLES)
    if at is At.WRITES:
        return _written(graph)
    without = refusals(graph, sites, CLOSED if gated else UNTAPPED)
    known = [
        Place(name, site.op, None, site.axis, site)
        for site in sites
        for name in graph.groups
        if name in site.groups and name not in without and (not weighted or _with_kernel(site))
    ]
    there = {place.group for place in known}
    why = "no contraction with one kernel reads its channels"
    without = {name: without.get(name, why) for name in graph.groups if name not in there}
    if at is not At.AFTER:
        return known, without
    origin = _Origins(walk)
    by_place: dict[Any, Place] = {}
    for place in known:
        bent = origin.bent(place)
        by_place[bent.group, id(bent.op), bent.result, bent.axis] = bent
    return list(by_place.values()), without


def _written(graph: ChannelGraph) -> tuple[list[Place], dict[str, str]]:
    """The results of contractions with a kernel, where the kernel brings the group in."""
    writers, closed = [], {}
    for op in every_op(graph.walk):
        known = [source is not None for source in op.sources[:2]]
        if Trait.CONTRACTS not in op.traits or sum(known) != 1 or len(op.ins) != 2:
            continue
        made = contraction.free(op, known.index(True))
        for axis in made:
            names = {atom.name for atom in ax.atoms(op.outs[0][axis])} & graph.groups.keys()
            inside = [other for other in op.around if other.form in UNTAPPED]
            for name in (name for name in graph.groups if name in names):
                if inside:
                    form = inside[0].form
                    assert form is not None
                    why = f"inside of a {inside[0].name} at {inside[0].place}, {UNTAPPED[form]}"
                    closed[name] = f"its channels are made {why}"
                writers.append(Place(name, op, 0, axis, None))
    there = {place.group for place in writers}
    without = {
        name: closed.get(name, "no contraction with a kernel makes its channels")
        for name in graph.groups
        if name in closed or name not in there
    }
    return [place for place in writers if place.group not in without], without


def _with_kernel(site: Site) -> bool:
    """True for a product of matrices, or a convolution, of an activation with weights."""
    op = site.op
    plain = "ragged_dot_dimension_numbers" not in op.params
    plain &= op.params.get("batch_group_count", 1) == 1
    plain &= contraction.is_product(op) or site.operand == 0
    return plain and op.sources[1 - site.operand] is not None


class _Origins:
    """Which operation makes an array, all over a program."""

    def __init__(self, walk: Walk):
        self.home: dict[int, Walk] = {}
        self.made: dict[tuple[int, Any], tuple[Op, int]] = {}
        for inner in _walks(walk):
            for op in inner.ops:
                self.home[id(op)] = inner
                self.made |= {(id(inner), var): (op, i) for i, var in enumerate(op.eqn.outvars)}

    def bent(self, place: Place) -> Place:
        """Returns the result of the last operation before a reader that is not linear.

        The way back leads through what moves entries, sums them, takes the largest of a window, or
        adds and multiplies constants and weights. Where it ends at a contraction or an input, the
        place itself.
        """
        assert place.site is not None
        walk, var = self.home[id(place.op)], place.op.eqn.invars[place.site.operand]
        while True:
            before = self._before(walk, var)
            if before is None:
                return place
            walk, op, i = before
            inner = op.inner[0] if op.form and op.form.calls and not op.form.custom else None
            if inner is not None:
                walk, var = inner, inner.program.outvars[i]
                continue
            if Trait.CONTRACTS in op.traits or op.form in (Form.SCAN, Form.WHILE, Form.COND):
                return place
            moving = [j for j, source in enumerate(op.sources) if source is None]
            if len(moving) != 1 or not _straight(op, moving[0]):
                axes = [
                    axis
                    for axis, space in enumerate(op.outs[i])
                    if any(atom.name == place.group for atom in ax.atoms(space))
                ]
                return Place(place.group, op, i, axes[0], place.site) if axes else place
            var = op.eqn.invars[moving[0]]

    def _before(self, walk: Walk, var: Any) -> tuple[Walk, Op, int] | None:
        """The operation that makes an array; for an input of a program that is called, outside."""
        while not jaxpr.is_literal(var):
            made = self.made.get((id(walk), var))
            if made is not None:
                return walk, *made
            caller = next(iter(walk.ops)).caller if walk.ops else None
            if caller is None or not (caller.form and caller.form.calls):
                return None
            inside = list(walk.program.invars)
            if var not in inside:
                return None
            var, walk = caller.eqn.invars[inside.index(var)], self.home[id(caller)]
        return None


def _straight(op: Op, moving: int) -> bool:
    """True if an operation bends nothing: linear in its one operand that varies, or a pooling."""
    if Trait.DIVIDES in op.traits:
        return moving == 0
    through = Trait.LINEAR | Trait.MULTIPLIES | Trait.MAXIMUM | Trait.MOVES
    return bool(op.traits & (through | Trait.PARTS | Trait.BROADCASTS | Trait.AS_IS))


def _walks(walk: Walk) -> Iterator[Walk]:
    yield walk
    for op in walk.ops:
        for inner in op.inner:
            yield from _walks(inner)
