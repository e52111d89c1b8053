"""Branches: what residual sums add to their streams, and could do without."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.carried import results
from jaxprune.keep.check import BRANCH
from jaxprune.program import residual_sums
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Live
from jaxprune.program.residual_sums import Other, Removable


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """An operand of a residual sum that can go, so that the sum is its other operand.

    Attributes:
      name: "+" and the last kernels before the sum, joined by "+"; `#2` where the same kernels are
        applied for the second time.
      place: the module path of the sum; outside of modules, the file and line.
      steps: None, or the number of steps of the scan of which each has this branch: then its keep
        is bool[steps].
      within: the branch whose term it is, None where it is added to the stream itself.
      variables: paths of the variables that are there for it alone. What two branches share goes
        with the second of them, and is listed for neither.
      kernels: paths of the variables of its last layers, which name it.
    """

    name: str
    place: str
    steps: int | None
    within: str | None
    variables: tuple[str, ...]
    kernels: tuple[str, ...] = field(repr=False)
    op: Op = field(repr=False)
    side: int = field(repr=False)
    layers: tuple[Op, ...] = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its keep and its gate."""
        return () if self.steps is None else (self.steps,)


class _Sums(NamedTuple):
    """The branches of a graph, and the sums that have none."""

    branches: Mapping[str, Branch]
    others: tuple[Other, ...]


def branches(graph: ChannelGraph) -> Mapping[str, Branch]:
    """Returns {name: Branch} of the network, in its order: what residual sums could do without.

    A sum `y = a + b` has the branch b if b is made from the stream a through a convolution or a
    matrix product with a variable that is there for b alone: attention, MLP and convolution blocks,
    also scaled, dropped, side by side, inside of jit and remat, and in every step of a scan that
    has its own weights. A bias, a table of positions, a shortcut with a projection, a
    concatenation, a gate and a recurrent state are not branches. Nor is a sum inside of a function
    with its own derivative, a `while`, a `cond` or a `shard_map`.

    `jp.narrow` and `jp.slice` take `{name: False}` beside the channels of a keep, `jp.gated` takes
    gates of branches, and `jp.explain(graph, "+")` says why a sum has none.

    Args:
      graph: what `jaxprune.trace` returned.

    Raises:
      JaxpruneError: it is not a graph.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> graph = jp.trace(fn, v, np.ones((1, 4)))
      >>> {name: branch.variables for name, branch in jp.branches(graph).items()}
      {'+down': ('down', 'up')}
      >>> keep = {"+down": False}
      >>> small = jp.slice(graph, v, keep)
      >>> list(small), jp.narrow(fn, graph, keep)(small, np.ones((1, 4))).tolist()
      (['head'], [[4.0, 4.0]])
    """
    return _sums(graph).branches


def other_sums(graph: ChannelGraph) -> tuple[Other, ...]:
    """Returns the sums of two layers of which no operand can go, with why."""
    return _sums(graph).others


@once
def _sums(graph: ChannelGraph) -> _Sums:
    counts = results(graph)
    sums, others = residual_sums.find(graph.walk, counts)
    sums = [item for item in sums if item.kernels]
    paths = list(graph.variables)
    times: Counter[str] = Counter()
    names: dict[tuple[Op, int], str] = {}
    for item in sums:
        short = [paths[i].removeprefix("params/") for i in item.kernels]
        name = BRANCH + BRANCH.join(short)
        times[name] += 1
        names[item.op, item.side] = f"{name}#{times[name]}" if times[name] > 1 else name
    made = {
        names[item.op, item.side]: _branch(item, names, paths, _inputs(graph, item, counts))
        for item in sums
    }
    return _Sums(MappingProxyType(made), tuple(others))


def _inputs(graph: ChannelGraph, item: Removable, counts: Sequence[bool]) -> list[int]:
    """The inputs of the program that are there for a branch alone, in all steps of its scan."""
    if item.scan is None:
        return list(item.inputs)
    given = sorted({j for i in item.inputs for j in item.scan.sources[i] or ()})
    every_step = np.ones(item.scan.params["length"], bool)
    left = Live(graph.walk, counts, {item.op: {item.side: every_step}})
    return [j for j in given if not left.reads[j]]  # another scan may step over the same stack


def _branch(
    item: Removable,
    names: Mapping[tuple[Op, int], str],
    paths: list[str],
    inputs: Sequence[int],
) -> Branch:
    return Branch(
        name=names[item.op, item.side],
        place=item.op.place,
        steps=None if item.scan is None else item.scan.params["length"],
        within=None if item.within is None else names.get(item.within),
        variables=tuple(paths[i] for i in inputs if i < len(paths)),
        kernels=tuple(paths[i] for i in item.kernels),
        op=item.op,
        side=item.side,
        layers=item.layers,
    )
