"""Which groups are chosen from, such as experts by a router: how many, by what, and of what."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.parameters import parameters
from jaxprune.keep import check
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import Domain, Steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.pointers import Pointer


class Routing(NamedTuple):
    """A group of which some are chosen for every token.

    chosen: how many. places: where. routers: the variables that the choice is made with, of those
    that have the group; experts: the other ones.
    """

    chosen: int
    places: tuple[str, ...]
    routers: tuple[str, ...]
    experts: tuple[str, ...]


@once
def routings(graph: ChannelGraph) -> Mapping[str, Routing]:
    """Returns {group: Routing} of the groups that `argmax` or `top_k` choose from, in graph order.

    >>> import jax, numpy as np
    >>> from jaxprune import trace
    >>> v = {"router": np.ones((2, 4)), "table": np.ones((4, 2))}
    >>> fn = lambda v, x: v["table"][jax.lax.top_k(x @ v["router"], 2)[1]].sum(1)
    >>> routings(trace(fn, v, np.ones((3, 2))))["router"][2:]
    (('router',), ('table',))
    """
    feeding = _Feeding()
    feeding.run(graph.walk, [frozenset({i}) for i, _ in enumerate(graph.walk.ins)])
    names = list(graph.variables)
    by_group = {}
    for name, group in graph.groups.items():
        here = {op: fed for (op, group_name), fed in feeding.noted.items() if group_name == name}
        fed = {names[i] for each in here.values() for i in each if i < len(names)}
        holders = list(dict.fromkeys(slot.path for slot in group.slots))
        experts = tuple(path for path in holders if path not in fed)
        if here and experts:
            by_group[name] = Routing(
                chosen=max(map(_chosen, here)),
                places=tuple(op.place for op in here),
                routers=tuple(path for path in holders if path in fed),
                experts=experts,
            )
    return by_group


def active_params(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the parameters that one token meets: of experts only those that it is sent to.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: {group: kept count}, or {group: bool[n]}; absent groups are whole.

    >>> import jax, numpy as np
    >>> from jaxprune import trace
    >>> v = {"router": np.ones((2, 4)), "table": np.ones((4, 2))}
    >>> fn = lambda v, x: v["table"][jax.lax.top_k(x @ v["router"], 2)[1]].sum(1)
    >>> graph = trace(fn, v, np.ones((3, 2)))
    >>> active_params(graph), active_params(graph, {"router": 3})
    (12, 10)
    """
    by_group = check.widths(graph, widths)
    counts = dict.fromkeys(parameters(graph), by_group)
    for name, routing in routings(graph).items():
        for path in routing.experts:
            if path in counts:
                few = min(routing.chosen, counts[path][name])
                counts[path] = counts[path] | {name: few}
    total = 0
    for path, sizes in counts.items():
        volume = 1
        for space in graph.variables[path].axes:
            volume *= ax.count(space, sizes)
        total += volume
    return total


def _chosen(op: Op) -> int:
    """How many of an axis an operation chooses: one, or as many as its result has more of."""
    before, after = len(op.ins[0]), len(op.outs[0])
    if before != after:
        return 1
    pairs = zip(op.ins[0], op.out_shapes[0], strict=True)
    return next((size for space, size in pairs if space.size != size), 1)


class _Feeding(Domain[frozenset[int]]):
    """Which inputs of the program every value is made of; noted where entries are chosen."""

    def __init__(self) -> None:
        self.noted: dict[tuple[Op, str], frozenset[int]] = {}
        self.notes = True

    def literal(self, value: Any, atom: Any, op: Op | None) -> frozenset[int]:
        del value, atom, op
        return frozenset()

    def constant(self, value: Any, var: Any, axes: Any) -> frozenset[int]:
        del value, var, axes
        return frozenset()

    def compute(self, op: Op, ins: list[frozenset[int]]) -> Sequence[frozenset[int]]:
        fed = frozenset[int]().union(*ins)
        if ins and self.notes:  # what counts points into an axis too, and chooses nothing
            for of in op.points:
                self._note(op, of, fed)
        return [fed] * len(op.eqn.outvars)

    def _note(self, op: Op, of: Any, fed: frozenset[int]) -> None:
        if isinstance(of, Pointer) and of not in op.of and of.reason.at is op:
            for atom in ax.atoms(of.space):
                if atom.name is not None:
                    key = op, atom.name
                    self.noted[key] = self.noted.get(key, frozenset()) | fed

    def scan(self, op: Op, ins: list[frozenset[int]], steps: Steps) -> Sequence[frozenset[int]]:
        """The carry of a step is made of that of the step before; the first step tells routers."""
        end = steps.constants + steps.carry
        before = self.notes
        while True:
            outs = self.run(op.inner[0], ins)
            carry = [a | b for a, b in zip(ins[steps.constants : end], outs, strict=False)]
            self.notes = False
            if carry == ins[steps.constants : end]:
                self.notes = before
                return [*carry, *outs[steps.carry :]]
            ins = [*ins[: steps.constants], *carry, *ins[end:]]
