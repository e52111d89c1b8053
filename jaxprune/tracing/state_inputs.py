"""The axes of the inputs of a call: free for its state, frozen for all others."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxprune.arguments import call_inputs, paths
from jaxprune.graph import State, Variable
from jaxprune.program import reasons, states
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Program
from jaxprune.program.reasons import Reason
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.states import Found


class Inputs:
    """The inputs of a traced call, behind its `count` variables, and the state among them."""

    def __init__(self, program: Program, count: int, inputs: Any, keywords: Mapping[str, Any]):
        self.count = count
        values = (var.aval for var in program.invars[count:])
        names = (path for path, _ in call_inputs.named(inputs, keywords))
        self.leaves = list(zip(names, values, strict=True))
        self.states: dict[str, Found] = {}

    def find(self, wanted: Mapping[str, Any], names: Sequence[str], output: Any) -> None:
        """Finds the state, given what `states.asked` says and the names of inputs by position."""
        results = [(paths.name(key), leaf) for key, leaf in paths.keyed(output)[0]]
        self.states = states.find(wanted, names, self.leaves, results)

    @property
    def twins(self) -> dict[int, int]:
        """{place of a result: place of the input of the program that it is the next of}."""
        return {
            result: self.count + place
            for found in self.states.values()
            for result, place in found.twins.items()
        }

    def axes(self) -> list[list[Space]]:
        """New axes of all inputs."""
        free = {place for found in self.states.values() for place in found.leaves.values()}
        return [
            [Atom(n) if i in free else ax.frozen(n, Reason(reasons.INPUT)) for n in aval.shape]
            for i, (_, aval) in enumerate(self.leaves)
        ]

    def masked(self) -> dict[int, int | None]:
        """{place of an input of the program that is zero at pruned channels: that of its result}.

        None for what is not returned, as the variables.
        """
        back = {place: result for result, place in self.twins.items()}
        places = [self.count + i for s in self.states.values() for i in s.leaves.values()]
        return dict.fromkeys(range(self.count)) | {place: back.get(place) for place in places}

    def in_graph(self, spaces: Sequence[Sequence[Space]]) -> dict[str, State]:
        """The state with its axes, those of all inputs being `spaces`."""
        return {
            name: State(
                found.inputs,
                found.output,
                {
                    path: variable_of(path, self.leaves[place][1], spaces[place])
                    for path, place in found.leaves.items()
                },
            )
            for name, found in self.states.items()
        }


def variable_of(path: str, leaf: Any, spaces: Sequence[Space]) -> Variable:
    """Returns what a graph says of an array."""
    return Variable(
        path=path,
        shape=leaf.shape,
        dtype=leaf.dtype,
        axes=tuple(map(ax.resolve, spaces)),
        weak_type=getattr(leaf, "weak_type", False),
    )
