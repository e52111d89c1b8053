"""What goes with branches: operations, variables and state, and rows of stacked ones."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.paths import near
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Contraction, check_graph
from jaxprune.inspecting.branches import Branch, branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.carried import Carried, carried, results, twins
from jaxprune.inspecting.faded_updates import faded, made_of
from jaxprune.inspecting.stacked_rows import rows_left
from jaxprune.keep.check import is_branch
from jaxprune.program import jaxpr
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Cuts, Live, tainted

Keep = Mapping[str, Any]


class Kept(NamedTuple):
    """A keep in two parts: that of channels, and {branch: np.bool_ or bool[steps]}."""

    channels: dict[str, Any]
    branches: dict[str, Any]


class Lost(NamedTuple):
    """What goes of a state; as the same fields of `Without`."""

    variables: frozenset[str]
    rows: Mapping[str, np.ndarray]


NOTHING = Lost(frozenset(), MappingProxyType({}))


class Without(NamedTuple):
    """A program without some of its branches.

    live: what is left of it. idle: the operations that go.
    variables: the paths of the variables that go. rows: {path: bool[steps]}, which rows stay of
    stacked variables of which some go. outputs: places of the outputs that go with their variables.
    state: {name of a state: what of it goes}. inputs: places of the inputs that go.
    """

    live: Live
    idle: frozenset[Op]
    variables: frozenset[str]
    rows: Mapping[str, np.ndarray]
    outputs: frozenset[int]
    state: Mapping[str, Lost] = MappingProxyType({})
    inputs: frozenset[int] = frozenset()


def split(graph: ChannelGraph, keep: Keep, *, traced: bool = False) -> Kept:
    """Returns the keep of channels, unchecked, and that of branches.

    Args:
      graph: the channel graph.
      keep: of both.
      traced: whether those of branches may be traced.

    Raises:
      KeepError: a name that starts with "+" is not that of a branch, or its value is not a bool,
        or of a scan's branch one for each step; every failure is listed.
    """
    check_graph(graph)
    given = check_mapping(keep, "keep", "{group: bool[n], branch: bool}", KeepError)
    named = {n: v for n, v in given.items() if is_branch(n)}
    channels = {name: value for name, value in given.items() if name not in named}
    if not named:
        return Kept(channels, {})
    known = branches(graph)
    stay, failures = {}, []
    for name, value in named.items():
        if name not in known:
            some = near(name, known) or list(known)[:5]
            failures.append(
                f"keep names branch {name!r}, which the graph does not have; near: {some}. Fix: "
                "list the branches with jp.branches(graph)."
            )
            continue
        if why := _problem(known[name], value, traced):
            failures.append(f"keep for branch {name!r} is {why}")
            continue
        spread = jnp.broadcast_to if isinstance(value, Tracer) else np.broadcast_to
        stay[name] = spread(value, known[name].shape)
    if failures:
        raise KeepError("\n".join(failures))
    return Kept(channels, stay)


def _problem(branch: Branch, value: Any, traced: bool) -> str | None:
    """Says what is wrong with what a keep has for a branch."""
    if isinstance(value, Tracer):
        dtype, shape = value.dtype, value.shape
    else:
        try:
            dtype, shape = np.asarray(value).dtype, np.shape(value)
        except ValueError:  # a ragged list
            dtype = shape = None
    if dtype != np.bool_ or shape not in {(), branch.shape}:
        wanted = "a bool" if not branch.shape else f"a bool or bool[{branch.steps}]"
        what = kind_of(value) if dtype != np.bool_ else f"bool{shape}"
        return f"{what}, not {wanted}. Fix: {{{branch.name!r}: False}} takes it out."
    if isinstance(value, Tracer) and not traced:
        return (
            "traced, but it decides shapes. Fix: slice outside of jax.jit, or jp.masked or "
            "jp.gated, whose branches may be traced."
        )
    return None


def gone_of(graph: ChannelGraph, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {branch: which of its steps go}; of whose terms all go, goes too."""
    known = branches(graph)
    gone = {name: ~np.asarray(mask) for name, mask in kept.items()}
    for name in known:  # a term stands before the branch that it is a term of
        pair = [n for n, other in known.items() if other.op is known[name].op]
        within = known[name].within
        if within is not None and len(pair) == 2:
            none = np.zeros(known[name].shape, bool)
            both = gone.get(pair[0], none) & gone.get(pair[1], none)
            gone[within] = gone.get(within, none) | both
    return {name: mask for name, mask in gone.items() if mask.any()}


def without(graph: ChannelGraph, kept: Mapping[str, np.ndarray]) -> Without:
    """Returns the program of a graph without the branches that `kept` does not keep.

    Raises:
      KeepError: only some steps of a scan would update their rows of a stacked variable.
    """
    known = branches(graph)
    cuts: dict[Op, dict[int, Any]] = {}
    for name, mask in gone_of(graph, kept).items():
        branch = known[name]
        cuts.setdefault(branch.op, {})[branch.side] = bool(mask) if mask.ndim == 0 else mask
    return _without(graph, cuts, results(graph))


def alone(branch: Branch) -> frozenset[Op]:
    """Returns the contractions that are there for one branch alone, and what is inside of them."""
    inner = (op for layer in branch.layers for walk in layer.inner for op in every_op(walk))
    return frozenset((*branch.layers, *inner))


def repeats(item: Contraction, gone: Without | None) -> int:
    """How often a contraction runs: in a scan, in as many steps as need it."""
    if gone is None:
        return item.repeats
    if item.op in gone.idle:
        return 0
    for scan, runs in gone.live.runs.items():
        if scan in item.op.around:
            times = sum(run.stop - run.start for run in runs if item.op not in run.idle)
            return item.repeats * times // scan.params["length"]
    return item.repeats


def _without(graph: ChannelGraph, cuts: Cuts, counts: Sequence[bool]) -> Without:
    walk, program = graph.walk, graph.walk.program
    known = carried(graph)
    places = {program.invars[place]: place for place in known}
    passed = [None if jaxpr.is_literal(x) else places.get(x) for x in program.outvars]
    before, after = Live(walk, counts, {}), Live(walk, counts, cuts)
    gone, partly = before.ops - after.sometimes, before.ops - after.ops
    always, ever = _always(cuts), _ever(cuts)
    dead = tainted(walk, gone, always)
    some = tainted(walk, partly, ever)
    lost = {i for i, flag in enumerate(dead) if flag and not counts[i]}
    ends = {i: item for i, item in faded(graph, counts, cuts).items() if i not in lost}
    lost |= {i for i, item in ends.items() if item.steps.all()}
    next_of = twins(graph)
    mixed = {i for i, flag in enumerate(some) if flag and not counts[i]} - {*lost, *ends}
    _check_whole(i for i in mixed if (next_of[i] or 0) < len(graph.variables))
    unchanged = [place is not None for place in passed]
    own = {i: n for i, n in _own_updates(graph).items() if i not in lost and not unchanged[i]}
    if own:  # counters of what went, which nothing else reads
        read = [i not in own and not flag for i, flag in enumerate(unchanged)]
        then = Live(walk, read, {}).reads
        now = Live(walk, [flag and i not in lost for i, flag in enumerate(read)], cuts).reads
        lost |= {i for i, place in own.items() if then[place] and not now[place]}
    wanted = [not flag and i not in lost for i, flag in enumerate(unchanged)]
    stops: dict[Op, dict[int, Any]] = {}
    for item in ends.values():
        stops.setdefault(item.scan, {})[item.result] = item.steps
    whole, live = Live(walk, [not flag for flag in unchanged], {}), Live(walk, wanted, cuts, stops)
    unread = {i for i in places.values() if whole.reads[i] and not live.reads[i]}
    mixed |= {i for i in lost if (place := next_of[i]) is not None and live.reads[place]}
    if mixed:  # one array of what goes and of what stays
        return _without(graph, cuts, [flag or i in mixed for i, flag in enumerate(counts)])
    written = {place for i in lost if (place := next_of[i]) is not None}
    unread |= {place for place in written if not live.reads[place]}
    lost |= {i for i, place in enumerate(passed) if place in unread}
    rows = {p: rows for p, rows in rows_left(graph, whole, live) if p not in unread}
    left = {i: rows.get(next_of[i] or 0, np.True_) for i in ends.keys() - lost}
    _check_whole(i for i, stay in left.items() if np.any(stay == ends[i].steps))
    states = {name: _lost(known, unread, rows, name) for name in (None, *graph.state)}
    of_variables = states.pop(None)
    return Without(
        live=live,
        idle=live.idle(walk),
        variables=of_variables.variables,
        rows=of_variables.rows,
        outputs=frozenset(lost),
        state={name: item for name, item in states.items() if name and any(item)},
        inputs=frozenset(unread),
    )


def _lost(
    known: Mapping[int, Carried], gone: Iterable[int], rows: Mapping[int, Any], state: str | None
) -> Lost:
    """What goes of a state, or of the variables."""
    here = {place: item.path for place, item in known.items() if item.state == state}
    return Lost(
        frozenset(here[place] for place in gone if place in here),
        {here[place]: stay for place, stay in rows.items() if place in here},
    )


def _check_whole(torn: Iterable[int]) -> None:
    """Raises KeepError if there are updates that a scan would give some rows of."""
    if count := len(list(torn)):
        raise KeepError(
            f"{count} outputs are updates of variables of which only some steps of a scan would be "
            "left.\nFix: take the branch out of all steps, or trace the network in eval mode, "
            "where it updates nothing."
        )


@once
def _own_updates(graph: ChannelGraph) -> Mapping[int, int]:
    """{output: input} of updates that are made of nothing but the input, such as counters."""
    flat, made = made_of(graph.walk)
    ends = zip(flat.outs, twins(graph), strict=True)
    return {
        i: place
        for i, (value, place) in enumerate(ends)
        if value is not None and place is not None and made.get(value) == 1 << place
    }


def _always(cuts: Cuts) -> dict[Op, int]:
    """The operands that are taken out in every step."""
    return {op: side for op, sides in cuts.items() for side, mask in sides.items() if np.all(mask)}


def _ever(cuts: Cuts) -> dict[Op, int]:
    """The operands that are taken out in some step."""
    return {op: side for op, sides in cuts.items() for side in sides}
