"""State that a call takes among its inputs and gives back among its outputs, such as a KV cache.

An axis of it is the same axis before and after the call, so that it goes with what fills it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.paths import near
from jaxprune.errors import TraceError

Leaves = Sequence[tuple[str, Any]]
"""(path, array or shape), in the order of the program."""


class Places(NamedTuple):
    """Where a state is.

    inputs: the paths that it may have among the inputs: by position, by keyword.
    output: its path among the outputs, None if it is not returned.
    leaves: {path in the state: place among the leaves of the inputs}.
    twins: {place among the leaves of the outputs: that of its input}.
    """

    inputs: tuple[str, ...]
    output: str | None
    leaves: Mapping[str, int]
    twins: Mapping[int, int]


class IfReturned(str):
    """The path of an output that a variant of the traced function may lack."""


class _Somewhere:
    """In the place of the path of an output: it is found by its structure."""


_SOMEWHERE = _Somewhere()
_FIX = "Fix: state='cache', an input by its name, or {'cache': '1'}, with the path of the output."


def asked(state: Any) -> dict[str, Any]:
    """Returns {path of an input: path of the output, None, or that it is to be found}.

    Raises:
      TraceError: this is neither.
    """
    if isinstance(state, Mapping):
        given = [(key, None if value is None else _word(value)) for key, value in state.items()]
    else:
        single = isinstance(state, str) or not isinstance(state, Iterable)
        given = [(key, _SOMEWHERE) for key in ([state] if single else state)]
    words = {_word(key): value for key, value in given}
    if False in words or False in words.values() or len(words) < len(given):
        raise TraceError(f"state must be inputs, got {kind_of(state)}.\n{_FIX}")
    return words


def _word(value: Any) -> Any:
    """Returns a path, a position as a path; False for neither."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else False


def aliases(path: str, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths of an input by position and by keyword, given the names by position."""
    first, slash, rest = path.partition("/")
    if first in names:
        return path, f"{names.index(first)}{slash}{rest}"
    if first.isdigit() and int(first) < len(names):
        return path, f"{names[int(first)]}{slash}{rest}"
    return (path,)


def below(path: str, leaves: Leaves) -> dict[str, int]:
    """Returns {path behind `path`: place} of the leaves there."""
    return {
        name[len(path) :].removeprefix("/"): i
        for i, (name, _) in enumerate(leaves)
        if path in ("", name) or name.startswith(f"{path}/")
    }


def find(
    wanted: Mapping[str, Any], names: Sequence[str], inputs: Leaves, outputs: Leaves
) -> dict[str, Places]:
    """Returns {name: where that state is}, given what `asked` returned and the names by position.

    Raises:
      TraceError: an input is not there, or no output or several may be its twin.
    """
    states: dict[str, Places] = {}
    for name, output in wanted.items():
        ways = aliases(name, names)
        leaves = next(filter(None, (below(way, inputs) for way in ways)), {})
        if not leaves:
            heads = list(dict.fromkeys(path.partition("/")[0] for path, _ in inputs))
            raise TraceError(
                f"state names {name!r}, but no input of the call has arrays there; the inputs are "
                f"{[' = '.join(aliases(head, names)) for head in heads]}.\n{_FIX}"
            )
        if output is _SOMEWHERE:
            output = _place(name, ways, {p: inputs[i][1] for p, i in leaves.items()}, outputs)
        if isinstance(output, IfReturned) and not below(output, outputs):
            output = None
        twins = {} if output is None else _twins(name, output, leaves, inputs, outputs)
        states[name] = Places(ways, output, leaves, twins)
    _check_apart(states)
    return states


def _check_apart(states: Mapping[str, Places]) -> None:
    """Raises if two states are in one place."""
    for what, places in (
        ("input", [set(state.leaves.values()) for state in states.values()]),
        ("output", [set(state.twins) for state in states.values()]),
    ):
        if len(set().union(*places)) < sum(map(len, places)):
            raise TraceError(
                f"the states {list(states)} share an {what}.\nFix: name every input once, each "
                "with its own output: state={'cache': '1', 'carry': '2'}."
            )


def _place(name: str, ways: Sequence[str], state: Mapping[str, Any], outputs: Leaves) -> str:
    """The only output of the structure of a state, or of these the one of its name.

    A state that grows, such as keys to which new ones are appended, has one larger axis there.
    """
    starts = dict.fromkeys(
        "/".join(path.split("/")[:end]) for path, _ in outputs for end in range(_length(path) + 1)
    )
    words = {way.split("/")[-1] for way in ways if not way.isdigit()}
    for alike in (_same, _grown):
        fits = [
            start
            for start in starts
            if _is_like(state, {p: outputs[i][1] for p, i in below(start, outputs).items()}, alike)
        ]
        last = [start for start in fits if start.split("/")[-1] in words]
        if len(fits) == 1 or len(last) == 1:
            return (fits if len(fits) == 1 else last)[0]
        if fits:
            raise TraceError(
                f"several outputs may be state {name!r} after the call: {fits}.\n"
                f"Fix: state={{{name!r}: {fits[0]!r}}}, with the one that is."
            )
    raise TraceError(
        f"no output has the structure of state {name!r}, which is {_shown(state)}; the outputs are "
        f"{_shown(dict(outputs))}.\nFix: return it, state={{{name!r}: path of the output}}, or "
        f"state={{{name!r}: None}} where it is only read."
    )


def _length(path: str) -> int:
    return len(path.split("/")) if path else 0


def _is_like(
    state: Mapping[str, Any], other: Mapping[str, Any], alike: Callable[[Any, Any], bool]
) -> bool:
    return state.keys() == other.keys() and all(alike(state[path], other[path]) for path in state)


def _same(leaf: Any, other: Any) -> bool:
    return leaf.shape == other.shape and leaf.dtype == other.dtype


def _grown(leaf: Any, other: Any) -> bool:
    if len(leaf.shape) != len(other.shape) or leaf.dtype != other.dtype:
        return False
    more = [b - a for a, b in zip(leaf.shape, other.shape, strict=True) if a != b]
    return not more or (len(more) == 1 and more[0] > 0)


def _twins(
    name: str, output: str, leaves: Mapping[str, int], inputs: Leaves, outputs: Leaves
) -> dict[int, int]:
    """{place among the outputs: place among the inputs} of the leaves of a state."""
    after = below(output, outputs)
    state = {path: inputs[i][1] for path, i in leaves.items()}
    other = {path: outputs[i][1] for path, i in after.items()}
    if not after or not _is_like(state, other, lambda a, b: len(a.shape) == len(b.shape)):
        known = [path for path, _ in outputs]
        raise TraceError(
            f"state {name!r} is {_shown(state)}, but output {output!r} is {_shown(other)}; "
            f"near: {near(output, known) or known[:3]}.\nFix: the path of the output that has its "
            f"structure, or state={name!r}, which finds it."
        )
    return {after[path]: leaves[path] for path in leaves}


def _shown(leaves: Mapping[str, Any]) -> str:
    shown = [f"{path or 'an array'} {list(leaf.shape)}" for path, leaf in leaves.items()]
    return f"{', '.join(shown[:4]) or 'nothing'}{', ...' if len(shown) > 4 else ''}"
