"""Whether a spec was written for the network of a graph."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from jaxprune.arguments.numbers import check_count
from jaxprune.errors import SpecError, SpecWarning
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.branches import branches
from jaxprune.keep.format import GroupSpec, Spec, spec_problems
from jaxprune.keep.program_description import GROUP, Description, Kind, describe, problem, versions

_MOST = 6


def check_spec(graph: ChannelGraph, spec: Spec, stacklevel: int = 2) -> None:
    """Raises unless the network of `graph` is the one for which `spec` was written.

    The same call under the same JAX and Flax must make the same program: the same parameters of
    every contraction, the same operations and constants between them. Another call, such as
    `train=True`, or another version may differ in these, with a warning; the groups that were
    pruned must agree always. The batch is of no importance, and a spec of before there were
    descriptions is not checked.

    Args:
      graph: the channel graph of the network before it was pruned.
      spec: what `jaxprune.spec` gave, in this process or another.
      stacklevel: whose warning it is, as of `warnings.warn`.

    Raises:
      SpecError: the network is another one; names the group or the contraction, and what differs.

    Warns:
      SpecWarning: the call or the version is another one, and the program differs.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> v, x = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 3))}, jnp.ones((1, 2))
      >>> graph = jp.trace(lambda v, x: jnp.tanh(x @ v["a"]) @ v["b"], v, x)
      >>> spec = jp.spec(graph, {"a": np.arange(4) < 2})
      >>> check_spec(graph, spec)
      >>> edited = jp.trace(lambda v, x: jnp.sin(x @ v["a"]) @ v["b"], v, x)
      >>> try:
      ...     check_spec(edited, spec)
      ... except jp.errors.SpecError as error:
      ...     print(str(error).splitlines()[1])
      before b: operation 1 is sin, it was tanh
    """
    check_graph(graph)
    check_count(stacklevel, "stacklevel", "stacklevel=2, the caller.")
    before = _description(spec)
    if before is None:
        return
    now = describe(graph)
    other = [*_other_versions(spec["versions"]), *_other_call(before, now)]
    wrong, odd = [*_branches(graph, spec)], []
    for name, text in _slots(graph, spec, before, now):
        loses = name is None or _is_pruned(spec["groups"].get(name))
        (wrong if loses or not other else odd).append(text)
    (odd if other else wrong).extend(_programs(before, now))
    if wrong:
        raise SpecError(
            "the spec was written for another network:\n"
            + "\n".join(_few([*other, *wrong]))
            + "\nFix: build and trace the network as it was when the spec was written, or, if the "
            "change is meant, leave out the graph: keep_from_spec(spec)."
        )
    if odd:
        warnings.warn("\n".join(_few([*other, *odd])), SpecWarning, stacklevel=stacklevel)


def _description(spec: Any) -> Description | None:
    before = spec.get("description") if isinstance(spec, Mapping) else None
    whys = spec_problems(spec) or ([] if before is None else filter(None, [problem(before)]))
    if whys := list(whys):
        text = "\n".join(whys[:8])
        raise SpecError(f"the spec cannot be read: {text}.\nFix: pass what jp.spec gave.")
    return before


def _branches(graph: ChannelGraph, spec: Spec) -> Iterator[str]:
    """Says which branches of a spec the network does not have."""
    known = branches(graph)
    for name, kept in spec.get("branches", {}).items():
        shape = (len(kept),) if isinstance(kept, list) else ()
        if name not in known:
            yield f"it has no branch {name!r}"
        elif known[name].shape != shape:
            yield f"branch {name!r} is of shape {known[name].shape}, it was {shape}"


def _few(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return [*lines[:_MOST], *more]


def _other_versions(before: Mapping[str, str]) -> Iterator[str]:
    for name, now in versions().items():
        if name != "jaxprune" and before.get(name, now) != now:
            yield f"the spec was written with {name} {before[name]}, this is {now}"


def _other_call(before: Description, now: Description) -> Iterator[str]:
    for what in ("call", "inputs"):
        if before[what] != now[what]:
            verb = "is" if what == "call" else "are"
            yield f"the traced {what} {verb} {_list(now[what])}; before: {_list(before[what])}"


def _list(words: Sequence[str]) -> str:
    return "; ".join(words) or "those of a function"


def _is_pruned(group: GroupSpec | None) -> bool:
    """True if a group of a spec lost channels."""
    if group is None:
        return False
    kept = group["kept"]
    return len(kept[0] if isinstance(kept[0], list) else kept) < group["size"]


def _slots(
    graph: ChannelGraph, spec: Spec, before: Description, now: Description
) -> Iterator[tuple[str | None, str]]:
    """Yields (group, how it differs); the group is None where it is not known."""
    for name, group in spec["groups"].items():
        size = graph.groups[name].size if name in graph.groups else 0
        if size != group["size"]:
            yield name, f"group {name!r} has {size} channels, it had {group['size']}"
    unread = {*before["unread"], *now["unread"]}
    ours, theirs = (description["variables"] for description in (before, now))
    for path in sorted({*ours, *theirs} - unread):
        if path not in ours or path not in theirs:
            yield None, f"variable {path} {'is new' if path in theirs else 'is missing'}"
            continue
        for axis, (was, came) in enumerate(zip_longest(ours[path], theirs[path], fillvalue="none")):
            (was, old), (came, new) = _named(was, before), _named(came, now)
            if was != came:
                for group in dict.fromkeys([*old, *new]) or [None]:
                    yield group, f"axis {axis} of {path} is {came}, it was {was}"


def _named(words: str, description: Description) -> tuple[str, list[str]]:
    """The words of an axis with the names of its groups, and these names."""
    names = [description["groups"][int(number)] for number in GROUP.findall(words)]
    return GROUP.sub(lambda match: description["groups"][int(match[1])], words), names


def _programs(before: Description, now: Description) -> Iterator[str]:
    """Says how two programs differ."""
    for was, came in zip_longest(before["program"], now["program"]):
        if was is None or came is None or was[0] != came[0]:
            new, old = (entry[0] if entry else "nothing" for entry in (came, was))
            yield f"contraction {new} stands where {old} stood"
            return
        name, old, new = was[0], before["kinds"][was[1]], now["kinds"][came[1]]
        yield from _contraction(name, old, new)
        if old == new and was[2] != came[2]:
            yield f"before {name}: the same operations read other values or have other parameters"


def _contraction(name: str, before: Kind, now: Kind) -> Iterator[str]:
    if before["operation"] != now["operation"]:
        yield f"{name}: {now['operation']}, it was {before['operation']}"
    old, new = before["parameters"], now["parameters"]
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{name}: {key} {new.get(key)}, it was {old.get(key)}"
    words = (kind["before"].split() for kind in (before, now))
    pairs = zip_longest(*words, fillvalue="nothing")
    for i, (was, came) in enumerate(pairs):
        if was != came:
            yield f"before {name}: operation {i + 1} is {came}, it was {was}"
            return
    if before["constants"] != now["constants"]:
        yield from _constants(name, before["constants"], now["constants"])


def _constants(name: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, str) or isinstance(now, str):
        yield f"before {name}: other constants"
        return
    for was, came in zip_longest(before, now):
        if was != came:
            yield f"before {name}: the constant {came}, it was {was}"
