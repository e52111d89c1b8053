"""A program evaluated in part: without branches, and without what only they had use for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.arguments import call_inputs, paths
from jaxprune.cutting.absent import with_rows, without_leaves
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.without_branches import Without
from jaxprune.program import jaxpr
from jaxprune.program.flat_program import INLINED
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Live, Run
from jaxprune.program.relate import Walk
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted


class Part(NamedTuple):
    """What of a program is evaluated.

    idle: the operations that nothing needs. cuts: {sum: the operand that is taken out}.
    runs: {scan: its steps, by what is taken out of them}. carries: {scan: of every carry whether it
    is needed}.
    """

    idle: frozenset[Op]
    cuts: Mapping[Op, int]
    runs: Mapping[Op, Sequence[Run]]
    carries: Mapping[Op, Sequence[bool]]

    @classmethod
    def of(cls, live: Live, walk: Walk) -> "Part":
        """Returns what is live of a program."""
        return cls(live.idle(walk), live.cuts, live.runs, live.carries)


WHOLE = Part(frozenset(), MappingProxyType({}), MappingProxyType({}), MappingProxyType({}))


def with_all_rows(variables: Any, gone: Without) -> Any:
    """Returns sliced variables with zeros for the rows of stacked ones that went."""
    if not gone.rows:
        return variables
    leaves, treedef = paths.flatten(variables)
    for path, kept in gone.rows.items():
        leaf = leaves.get(path)
        if leaf is not None:
            leaves[path] = with_rows(leaf, kept)
    return jax.tree.unflatten(treedef, leaves.values())


def of_now(
    graph: ChannelGraph, here: ChannelGraph, kept: Mapping[str, np.ndarray], gone: Without
) -> Without:
    """Returns what goes of the graph of now where it goes of the `graph` of the keep.

    Raises:
      ResizeError: the function does not have these branches now, or reads what was cut with them.
    """
    _check_branches(graph, here, kept)
    now = without_branches.without(here, kept)
    reads = dict(zip(here.variables, now.live.reads, strict=False))
    read = [path for path in sorted(gone.variables) if reads[path]]
    torn = read or [p for p, rows in gone.rows.items() if not _within(now.rows.get(p), rows)]
    torn = torn or list(_state_read(graph, here, gone, now))
    if torn:
        raise ResizeError(
            f"without these branches the function still reads {torn}.\nFix: trace the graph with "
            "the function that you run."
        )
    return now


def _state_read(
    graph: ChannelGraph, here: ChannelGraph, gone: Without, now: Without
) -> Iterator[str]:
    """Yields the paths of state that went of one graph, and that the other reads."""
    for name, lost in gone.state.items():
        ways = graph.state[name].inputs
        for other in (n for n, item in here.state.items() if set(item.inputs) & set(ways)):
            left = now.state.get(other, without_branches.NOTHING)
            yield from sorted(lost.variables - left.variables)
            yield from (p for p, rows in lost.rows.items() if not _within(left.rows.get(p), rows))


def sums_of(
    graph: ChannelGraph, here: ChannelGraph, stay: Mapping[str, Any]
) -> dict[Op, dict[int, Any]]:
    """Returns {addition of the graph of now: {operand: whether it stays}}.

    Raises:
      ResizeError: the function does not have these branches now.
    """
    _check_branches(graph, here, stay)
    sums: dict[Op, dict[int, Any]] = {}
    for name, mask in stay.items():
        branch = branches(here)[name]
        sums.setdefault(branch.op, {})[branch.side] = mask
    return sums


def _check_branches(graph: ChannelGraph, here: ChannelGraph, names: Iterable[str]) -> None:
    """Raises ResizeError unless the function has these branches of the graph now."""
    ours, theirs = branches(graph), branches(here)
    failures = [
        f"branch {name!r} has variables {list(ours[name].variables)}, now "
        f"{list(theirs[name].variables) if name in theirs else 'none of them'}"
        for name in names
        if name not in theirs or set(ours[name].variables) - set(theirs[name].variables)
    ]
    if failures:
        raise ResizeError(
            "the function does not have the same branches at these inputs:\n"
            + "\n".join(failures)
            + "\nFix: trace the graph with the function and the input ranks that you run."
        )


def _within(rows: np.ndarray | None, kept: np.ndarray) -> bool:
    """True if all rows that are read are kept."""
    return rows is not None and not np.any(rows & ~kept)


def operands(
    here: ChannelGraph,
    without: Without,
    variables: Any,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
) -> list[Any]:
    """Returns the arrays that a program takes for a call, None for what is absent."""
    leaves = paths.flatten(variables)[0]
    given = jax.tree.leaves((tuple(inputs), call_inputs.split(keywords)[0]))
    pairs = enumerate(given, len(here.variables))
    arrays = (None if i in without.inputs else jnp.asarray(leaf) for i, leaf in pairs)
    return [*(leaves.get(path) for path in here.variables), *arrays]


def outputs(here: ChannelGraph, outs: Sequence[Any], without: Without) -> Any:
    """Returns the outputs in their tree, without those that update a variable that went."""
    treedef = jax.tree.structure(here.output)
    marked = [() if i in without.outputs else out for i, out in enumerate(outs)]
    places = jax.tree.unflatten(treedef, range(len(outs)))
    left = without_leaves(places, without.outputs)
    return jax.tree.map(lambda place: marked[place], left)


def scan(
    part: Part,
    runner: Callable[[Part], Callable[[Any], evaluator.Run]],
    op: Op,
    args: list[Any],
    each: Any,
) -> tuple[list[Any], Noted]:
    """Evaluates a part of a scan: a scan for all steps in a row that have the same operations."""
    if op not in part.carries:
        return evaluator.scan(runner(part), op, args, each)
    n, m = steps(op)
    needed = part.carries[op]
    length = op.params["length"]
    runs = part.runs.get(op) or [Run(0, length, part.cuts, part.idle, ())]
    carry = [x if flag else None for x, flag in zip(args[n : n + m], needed, strict=True)]
    pieces = []
    for run in reversed(runs) if op.params["reverse"] else runs:
        if does_nothing(run, op, needed):
            continue
        rows, items = jax.tree.map(lambda x, run=run: _rows(x, run), (args[n + m :], each))
        ready = _only_needed(runner(part._replace(cuts=run.cuts, idle=run.idle)), needed)
        given = [*args[:n], *carry, *rows]
        outs, _ = evaluator.scan(ready, op, given, items, run.stop - run.start)
        carry = outs[:m]
        pieces.append(outs[m:])
    pieces = pieces[::-1] if op.params["reverse"] else pieces
    ys = map(_joined, zip(*pieces, strict=True)) if pieces else [None] * (len(op.outs) - m)
    return [*carry, *ys], {}


def _rows(x: Any, run: Run) -> Any:
    return x if len(x) == run.stop - run.start else lax.slice_in_dim(x, run.start, run.stop)


def _only_needed(
    runner: Callable[[Any], evaluator.Run], needed: Sequence[bool]
) -> Callable[[Any], evaluator.Run]:
    """Every step gives None for a carry that nothing needs, as the first one gets."""

    def ready(step: Any) -> evaluator.Run:
        def run(walk: Walk, args: Sequence[Any]) -> tuple[list[Any], Noted]:
            outs, noted = runner(step)(walk, args)
            carry = [x if flag else None for x, flag in zip(outs, needed, strict=False)]
            return [*carry, *outs[len(needed) :]], noted

        return run

    return ready


def _joined(pieces: Sequence[Any]) -> Any:
    """What the steps stack up that give it, None where none does."""
    given = [piece for piece in pieces if piece is not None]
    if not given:
        return None
    return given[0] if len(given) == 1 else jnp.concatenate(given)


def does_nothing(run: Run, op: Op, needed: Sequence[bool]) -> bool:
    """Returns whether steps hand on their carry as they get it, and stack nothing up."""
    n, m = steps(op)
    ins = [object() for _ in op.inner[0].program.invars]
    outs = _handed_on(op.inner[0], ins, run)
    pairs = zip(outs[:m], ins[n : n + m], needed, strict=True)
    return all(a is b for a, b, flag in pairs if flag) and not any(outs[m:])


def _handed_on(walk: Walk, ins: Sequence[Any], run: Run) -> list[Any]:
    """Follows values through sums that are cut, and nothing else."""
    env = dict(zip(walk.program.invars, ins, strict=True))

    def read(atom: Any) -> Any:
        return object() if jaxpr.is_literal(atom) else env.setdefault(atom, object())

    for op in walk.ops:
        if op in run.idle:
            env.update(dict.fromkeys(op.eqn.outvars))
        elif op in run.cuts:
            env[op.eqn.outvars[0]] = read(op.eqn.invars[1 - run.cuts[op]])
        elif op.form in INLINED:
            inner = _handed_on(op.inner[0], [*map(read, op.eqn.invars)], run)
            env.update(zip(op.eqn.outvars, inner, strict=True))
    return [*map(read, walk.program.outvars)]
