"""The axes of the inputs of a call: free for its state, frozen for all others; what they index."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.numbers import is_count
from jaxprune.errors import TraceError
from jaxprune.graph import State, Variable
from jaxprune.program import reasons, states
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Program
from jaxprune.program.pointers import Pointer
from jaxprune.program.reasons import Reason
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.states import Places


class Inputs:
    """The inputs of a traced call, behind its `count` variables, and the state among them."""

    def __init__(self, program: Program, count: int, inputs: Any, keywords: Mapping[str, Any]):
        self.count = count
        values = (var.aval for var in program.invars[count:])
        names = (path for path, _ in call_inputs.named(inputs, keywords))
        self.leaves = list(zip(names, values, strict=True))
        self.states: dict[str, Places] = {}
        self.indices: dict[int, Pointer] = {}

    def find(self, wanted: Mapping[str, Any], names: Sequence[str], output: Any) -> None:
        """Finds the state, given what `states.asked` says and the names of inputs by position."""
        results = [(paths.name(key), leaf) for key, leaf in paths.keyed(output)[0]]
        self.states = states.find(wanted, names, self.leaves, results)

    def index(self, wanted: Mapping[Any, int], names: Sequence[str]) -> None:
        """Finds the inputs whose integers point into an axis, given the names by position.

        Raises:
          TraceError: there is no such input, it holds no integers, or the size is not a count.
        """
        if not isinstance(wanted, Mapping):
            raise TraceError(f"index_inputs must be {{input: size}}, got {wanted!r}.\n{_INDEX}")
        for name, size in wanted.items():
            if not is_count(size):
                raise TraceError(f"index_inputs: the size of {name!r} is {size!r}.\n{_INDEX}")
            ways = states.aliases(str(name), names)
            below = next(filter(None, (states.below(way, self.leaves) for way in ways)), {})
            places = [i for i in below.values() if _has_integers(self.leaves[i][1])]
            if not places or len(places) < len(below):
                raise TraceError(
                    f"index_inputs names {name!r}, which is no input of integers; inputs are "
                    f"{[path for path, _ in self.leaves]}.\n{_INDEX}"
                )
            for place in places:
                reason = Reason(reasons.INDEX_INPUT, (self.leaves[place][0],))
                self.indices[place] = Pointer(Atom(int(size)), reason)

    @property
    def points(self) -> list[Pointer | None]:
        """What every input points into."""
        return [self.indices.get(place) for place in range(len(self.leaves))]

    def indexed(self) -> dict[str, Space]:
        """{path of an input: what its integers point into}, once spaces are final."""
        return {self.leaves[i][0]: ax.resolve(item.space) for i, item in self.indices.items()}

    @property
    def twins(self) -> dict[int, int]:
        """{place of a result: place of the input of the program that it is the next of}."""
        return {
            result: self.count + place
            for state in self.states.values()
            for result, place in state.twins.items()
        }

    def axes(self) -> list[list[Space]]:
        """New axes of all inputs."""
        free = {place for state in self.states.values() for place in state.leaves.values()}
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
                state.inputs,
                state.output,
                {
                    path: variable_of(path, self.leaves[place][1], spaces[place])
                    for path, place in state.leaves.items()
                },
            )
            for name, state in self.states.items()
        }


_INDEX = "Fix: index_inputs={'tokens': 32000}, an input of integers, and how many there are."


def _has_integers(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def variable_of(path: str, leaf: Any, spaces: Sequence[Space]) -> Variable:
    """Returns what a graph says of an array."""
    return Variable(
        path=path,
        shape=leaf.shape,
        dtype=leaf.dtype,
        axes=tuple(map(ax.resolve, spaces)),
        weak_type=getattr(leaf, "weak_type", False),
    )
