"""The last weights of a branch: multiplied by a number, they multiply what it adds."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import Branch, results
from jaxprune.program import jaxpr
from jaxprune.program.flat_program import FlatProgram, Node
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait

_SAME = Trait.AS_IS | Trait.MOVES | Trait.BROADCASTS
"""What a factor of the operand passes through."""


class NoLastWeightsError(Exception):
    """Why a branch has no weights of this kind."""


def last_weights(graph: ChannelGraph, branch: Branch) -> tuple[str, ...]:
    """Returns the paths of the variables in which a branch is linear, all together.

    Nothing else reads them. Times zero they make what it adds zero; those of a branch in a scan
    have its steps along their first axis.

    Raises:
      NoLastWeightsError: it has none; says why.
    """
    return tuple(dict.fromkeys(_Last(graph, branch).weights()))


def _is_zero(atom: Any) -> bool:
    return jaxpr.is_literal(atom) and not np.any(jaxpr.literal(atom))


class _Last:
    """The weights in which a branch is linear, looked for from the sum backwards."""

    def __init__(self, graph: ChannelGraph, branch: Branch):
        self.graph, self.branch = graph, branch
        scans = list(branch.op.scans) if branch.steps is not None else []
        self.scan = scans[0] if scans else None
        counts = results(graph)
        if self.scan is not None:
            counts = [True] * len(self.scan.inner[0].program.outvars)
        walk = graph.walk if self.scan is None else self.scan.inner[0]
        self.flat = FlatProgram(walk, counts)
        self.makers = {out: node for node in self.flat.nodes for out in node.outs}

    def weights(self) -> Iterator[str]:
        """Yields the paths of the variables to multiply."""
        node = next((n for n in self.flat.nodes if n.op is self.branch.op), None)
        if node is None:
            raise NoLastWeightsError("it stands inside of an operation that is not followed")
        yield from self.factor(node.ins[self.branch.side])

    def factor(self, value: int | None) -> list[str]:
        """Returns the variables that, multiplied by a number, multiply a value."""
        if value is None:
            raise NoLastWeightsError("a number of the code is added to it")
        if self.flat.single_use(value) is None:
            raise NoLastWeightsError("what it is made of is read elsewhere too")
        node = self.makers.get(value)
        return [self.variable(value)] if node is None else self.through(node)

    def variable(self, value: int) -> str:
        """Returns the path of an input of the program."""
        names = list(self.graph.variables)
        place = self.flat.ins.index(value) if value in self.flat.ins else None
        if self.scan is not None and place is not None:
            place = self.stacked(self.scan, place)
        if place is None or place >= len(names):
            raise NoLastWeightsError("no variable of its own ends it")
        variable = self.graph.variables[names[place]]
        if self.branch.shape and variable.shape[:1] != self.branch.shape:
            raise NoLastWeightsError(f"the steps of {variable.path} are not along its first axis")
        if not jnp.issubdtype(variable.dtype, jnp.inexact):
            raise NoLastWeightsError(
                f"{variable.path} is {variable.dtype}, which holds no fractions"
            )
        return variable.path

    def stacked(self, scan: Op, place: int) -> int | None:
        """Returns which input of the whole program the steps take their own rows of."""
        if place < sum(steps(scan)):
            return None
        outer, known = scan.eqn.invars[place], self.graph.walk.program.invars
        at = next((i for i, var in enumerate(known) if var is outer), None)
        whole = FlatProgram(self.graph.walk, results(self.graph))
        if at is not None and whole.single_use(whole.ins[at]) is None:
            raise NoLastWeightsError("what it is made of is read elsewhere too")
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
        raise NoLastWeightsError(f"{node.op.name} comes between it and its last weights")

    def either(self, node: Node) -> list[str]:
        """Returns the variables of one factor: of the one without activations if that is linear."""
        why: list[NoLastWeightsError] = []
        for side in sorted((0, 1), key=lambda side: node.op.sources[side] is None):
            try:
                return self.factor(node.ins[side])
            except NoLastWeightsError as error:
                why.append(error)
        raise why[0]
