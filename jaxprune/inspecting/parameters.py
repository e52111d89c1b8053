"""Which variables are parameters, and which are state.

In a tree with a collection `params` its leaves are the parameters. Elsewhere names and types say
little (a quantized kernel is an integer, a running mean a float), so it is what the function does
with a leaf that tells.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp

from jaxprune.errors import JaxpruneError
from jaxprune.graph import Branches, ChannelGraph, Contraction, Variable
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.inspecting.cached import once
from jaxprune.program import jaxpr, outputs
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form


@once
def parameters(graph: ChannelGraph) -> tuple[str, ...]:
    """Returns the paths of the parameters, in tree order.

    They are all leaves under `params`. Where there is no such collection they are the leaves of
    which an output is made that mirrors no variable, but not

    * state that the function updates: an output mirrors it, and is not the leaf itself;
    * the statistics of a BatchNorm (`jp.batch_norms`), which eval mode reads and leaves;
    * bools and PRNG keys, integers that are single numbers, and integers that only say which (an
      index, a comparison). Integers that enter a contraction are quantized kernels or their zero
      points, and count.

    If the function updates all of it (a whole training step), updated leaves count too.

    >>> import numpy as np
    >>> from jaxprune import trace
    >>> v = {"w": np.ones((2, 4), np.int8), "step": np.zeros((), np.int32), "scale": np.ones(4)}
    >>> parameters(trace(lambda v, x: x @ v["w"] * v["scale"][None], v, np.ones((1, 2))))
    ('scale', 'w')
    """
    declared = tuple(path for path in graph.variables if path.startswith("params/"))
    if declared:
        return declared
    program, twins = graph.walk.program, outputs.twins(graph.output, graph.variables)
    made = [twin is None for twin in twins]
    updated = {
        twin
        for atom, twin in zip(program.outvars, twins, strict=True)
        if twin is not None and atom is not program.invars[twin]
    }
    if not any(made):
        made, updated = [True] * len(twins), set()
    places = _read_places(graph, made)
    return tuple(p for p, i in places.items() if i not in updated) or tuple(places)


def _read_places(graph: ChannelGraph, made: Sequence[bool]) -> dict[str, int]:
    """{path: place} of the leaves of which the `made` outputs are made, statistics apart."""
    norms = batch_norms(graph).values()
    statistics = {path for norm in norms for path in (norm.mean, norm.var)}
    kernels = {path for term in each_contraction(graph.contractions) for path in term.kernels}
    read, used = (_live(graph.walk, made, values=values) for values in (False, True))

    def counts(path: str, variable: Variable, place: int) -> bool:
        if jnp.issubdtype(variable.dtype, jnp.integer):
            return path in kernels or (used[place] and bool(variable.shape))
        return read[place] and jnp.issubdtype(variable.dtype, jnp.inexact)

    return {
        path: place
        for place, (path, variable) in enumerate(graph.variables.items())
        if path not in statistics and counts(path, variable, place)
    }


def each_contraction(terms: Iterable[Contraction | Branches]) -> Iterator[Contraction]:
    """Yields the contractions of `graph.contractions`, those of every branch of a `cond` too.

    >>> import numpy as np, jaxprune as jp
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
    >>> graph = jp.trace(fn, v, np.ones((1, 2)))
    >>> len(list(jp.cost.each_contraction(graph.contractions)))
    2
    """
    terms = tuple(terms) if isinstance(terms, Iterable) else (terms,)
    if not all(isinstance(term, Contraction | Branches) for term in terms):
        raise JaxpruneError(
            f"expected the contractions of a graph, got {terms!r:.60}.\nFix: graph.contractions."
        )
    for term in terms:
        if isinstance(term, Branches):
            for branch in term.alternatives:
                yield from each_contraction(branch)
        else:
            yield term


def _live(walk: Walk, made: Sequence[bool], *, values: bool) -> list[bool]:
    """For every input of a program, whether the `made` results read it; or its `values` alone."""
    program = walk.program
    live = _named(program.outvars, made)
    for op in reversed(walk.ops):
        outs = [var in live for var in op.eqn.outvars]
        if any(outs):
            live |= _named(op.eqn.invars, _operands(op, outs, values=values))
    return [var in live for var in program.invars]


def _named(atoms: Sequence[Any], flags: Sequence[bool]) -> set[Any]:
    pairs = zip(atoms, flags, strict=True)
    return {atom for atom, flag in pairs if flag and not jaxpr.is_literal(atom)}


def _operands(op: Op, outs: Sequence[bool], *, values: bool) -> list[bool]:
    """For every operand, whether the live results read it. A carry is live as a whole."""
    given = range(len(op.eqn.invars))
    form = op.form if op.inner else None
    if form is Form.SCAN:
        _, carry = steps(op)
        return _live(op.inner[0], [*[True] * carry, *outs[carry:]], values=values)
    if form is Form.WHILE and values:
        body = _live(op.inner[1], [True] * len(outs), values=True)
        return [False] * (len(given) - len(body)) + body
    if form is Form.COND:
        branches = [_live(branch, outs, values=values) for branch in op.inner]
        return [not values, *map(any, zip(*branches, strict=True))]
    if form is not None and form is not Form.WHILE:
        return _live(op.inner[0], outs, values=values)
    if not values or op.rule is None:
        return [True] * len(given)
    return [i in given[op.rule.values] for i in given]
