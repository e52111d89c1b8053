"""The last weights of a branch: multiplied by a number, they multiply what it adds."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import Branch, branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.carried import results
from jaxprune.program import jaxpr
from jaxprune.program.flat_program import FlatProgram, Node
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Trait

_SAME = Trait.AS_IS | Trait.MOVES | Trait.BROADCASTS
"""What a factor of the operand passes through."""


class _NoneError(Exception):
    """Why a branch has no weights of this kind."""


@once
def last_weights(graph: ChannelGraph) -> Mapping[str, tuple[str, ...] | str]:
    """Returns {branch: the variables in which it is linear, all together, or why it has none}.

    Nothing else reads them. Times zero they make what it adds zero; those of a branch in a scan
    have its steps along their first axis.
    """
    levels: dict[Op | None, _Level] = {None: _Level(graph.walk, results(graph))}
    weights: dict[str, tuple[str, ...] | str] = {}
    for name, branch in branches(graph).items():
        scan = next(iter(branch.op.scans), None) if branch.steps is not None else None
        if scan is not None and scan not in levels:
            walk = scan.inner[0]
            levels[scan] = _Level(walk, [True] * len(walk.program.outvars))
        try:
            weights[name] = tuple(dict.fromkeys(_Last(graph, branch, scan, levels).weights()))
        except _NoneError as why:
            weights[name] = str(why)
    return MappingProxyType(weights)


def _is_zero(atom: Any) -> bool:
    return jaxpr.is_literal(atom) and not np.any(jaxpr.literal(atom))


class _Level:
    """A program without calls, and which operation makes a value of it."""

    def __init__(self, walk: Walk, counts: Sequence[bool]):
        self.flat = FlatProgram(walk, counts)
        self.makers = {out: node for node in self.flat.nodes for out in node.outs}


class _Last:
    """The weights in which a branch is linear, looked for from the sum backwards."""

    def __init__(
        self,
        graph: ChannelGraph,
        branch: Branch,
        scan: Op | None,
        levels: Mapping[Op | None, _Level],
    ):
        self.graph, self.branch, self.scan = graph, branch, scan
        self.whole, here = levels[None].flat, levels[scan]
        self.flat, self.makers = here.flat, here.makers

    def weights(self) -> Iterator[str]:
        """Yields the paths of the variables to multiply."""
        node = next((n for n in self.flat.nodes if n.op is self.branch.op), None)
        if node is None:
            raise _NoneError("it stands inside of an operation that is not followed")
        yield from self.factor(node.ins[self.branch.side])

    def factor(self, value: int | None) -> list[str]:
        """Returns the variables that, multiplied by a number, multiply a value."""
        if value is None:
            raise _NoneError("a number of the code is added to it")
        if self.flat.single_use(value) is None:
            raise _NoneError("what it is made of is read elsewhere too")
        node = self.makers.get(value)
        return [self.variable(value)] if node is None else self.through(node)

    def variable(self, value: int) -> str:
        """Returns the path of an input of the program."""
        names = list(self.graph.variables)
        place = self.flat.ins.index(value) if value in self.flat.ins else None
        if self.scan is not None and place is not None:
            place = self.stacked(self.scan, place)
        if place is None or place >= len(names):
            raise _NoneError("no variable of its own ends it")
        variable = self.graph.variables[names[place]]
        if self.branch.shape and variable.shape[:1] != self.branch.shape:
            raise _NoneError(f"the steps of {variable.path} are not along its first axis")
        if not jnp.issubdtype(variable.dtype, jnp.inexact):
            raise _NoneError(f"{variable.path} is {variable.dtype}, which holds no fractions")
        return variable.path

    def stacked(self, scan: Op, place: int) -> int | None:
        """Returns which input of the whole program the steps take their own rows of."""
        if place < sum(steps(scan)):
            return None
        outer, known = scan.eqn.invars[place], self.graph.walk.program.invars
        at = next((i for i, var in enumerate(known) if var is outer), None)
        if at is not None and self.whole.single_use(self.whole.ins[at]) is None:
            raise _NoneError("what it is made of is read elsewhere too")
        return at

    def through(self, node: Node) -> list[str]:
        """Returns the variables that multiply what an operation gives."""
        traits, rule = node.op.traits, node.op.rule
        if rule is not None and rule.weights in ((1, 1), (1, -1)):
            added = zip(node.ins, node.op.eqn.invars, strict=True)
            some = [value for value, atom in added if not _is_zero(atom)]
            return [path for value in some for path in self.factor(value)]
        alone = len(node.outs) == 1
        if alone and (traits & _SAME or (Trait.LINEAR in traits and len(node.ins) == 1)):
            return self.factor(node.ins[0])
        if traits & (Trait.CONTRACTS | Trait.MULTIPLIES):
            return self.either(node)
        if Trait.DIVIDES in traits:
            return self.factor(node.ins[0])
        raise _NoneError(f"{node.op.name} comes between it and its last weights")

    def either(self, node: Node) -> list[str]:
        """Returns the variables of one factor: of the one without activations if that is linear."""
        why: list[_NoneError] = []
        for side in sorted((0, 1), key=lambda side: node.op.sources[side] is None):
            try:
                return self.factor(node.ins[side])
            except _NoneError as error:
                why.append(error)
        raise why[0]
