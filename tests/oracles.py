"""Oracles for rules: what a rule claims of a primitive against what the primitive does.

What is known of a case (see rule_networks.py):

* `spec`: the axes of the operation as they must come out: letters are groups, `.` is frozen,
  `1` an axis of size one, `a*b` a product, `a+b` a concatenation, `()` a scalar. Behind `!` the
  groups that are inexact where operands are not zero at pruned indices, behind `!!` those that
  are inexact even where they are.
* dependence: poison in channel i of an exact group only changes channel i of the results.
* zeros: the results are zero where the rule says so, and where they are zero the rule says so.
* values: the masked and the narrowed function agree for the exact groups under a keep that is no
  prefix, and differ for the inexact ones.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.program import spaces as ax
from rule_networks import (
    Case,
    Feed,
    Seen,
    every,
    fed,
    observe,
    operands_of,
    plain,
    values_of,
)


def written(seen: Seen) -> str:
    """Returns the axes of the operation in the notation of `Case.spec`."""
    letters = label(seen)
    sides = [", ".join(show_axes(x, letters) for x in side) for side in (seen.op.ins, seen.op.outs)]
    return " -> ".join(sides)


def label(seen: Seen) -> dict[ax.Atom, str]:
    """Returns a letter for every group, in the order in which the operation shows them."""
    found: dict[ax.Atom, str] = {}
    free = iter("abcdefghijklmnopqrstuvwxyz")
    for axes in itertools.chain(seen.op.ins, seen.op.outs):
        for atom in itertools.chain.from_iterable(map(ax.atoms, axes)):
            if atom.reason is None and atom.size > 1 and atom not in found:
                found[atom] = next(free)
    return found


def show_axes(axes: Sequence[ax.Space], letters: Mapping[ax.Atom, str]) -> str:
    return " ".join(show(ax.resolve(space), letters) for space in axes) or "()"


def show(space: ax.Space, letters: Mapping[ax.Atom, str], *, inside: bool = False) -> str:
    if isinstance(space, ax.Atom):
        return "1" if space.size == 1 else letters.get(space, ".")
    items, sign = (space.parts, "+") if isinstance(space, ax.Sum) else (space.factors, "*")
    text = sign.join(show(item, letters, inside=True) for item in items)
    return (f"({text})" if inside else text) if items else "1"


def inexact(seen: Seen) -> str:
    """Returns the letters of the inexact groups of the operation."""
    names = {atom.name: letter for atom, letter in label(seen).items()}
    groups = seen.graph.groups.values()
    return "".join(sorted(names[g.name] for g in groups if g.inexact and g.name in names))


def spec_of(case: Case, seen: Mapping[Feed, Seen]) -> str:
    """Returns what the rule makes of the case, in the notation of `Case.spec`."""
    given, moved = seen[frozenset()], seen[every(case)]
    always, sometimes = inexact(given), inexact(moved)
    sometimes = "".join(sorted(set(sometimes) - set(always)))
    tail = (f" ! {sometimes}" if sometimes else "") + (f" !! {always}" if always else "")
    return written(given) + tail


def choose(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """Returns a keep that is neither a prefix nor a suffix; neighbors keep other counts."""
    random = np.random.default_rng(1)
    found = {}
    for i, group in enumerate(graph.groups.values()):
        kept = 1 + i % (group.size - 1)
        runs = [np.roll(np.arange(group.size) < kept, shift) for shift in (0, -kept)]
        keep = runs[1]
        while group.size > 2 and any(np.array_equal(keep, run) for run in runs):
            keep = random.permutation(group.size) < kept
        found[group.name] = keep
    return found


def split_keep(graph: jp.ChannelGraph) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the keeps of the exact and of the inexact groups."""
    keep = choose(graph)
    exact = {name: kept for name, kept in keep.items() if not graph.groups[name].inexact}
    return exact, {name: kept for name, kept in keep.items() if name not in exact}


class Pair(NamedTuple):
    """Variables with zeros at the pruned indices, and without them."""

    masked: Any
    small: Any


def pair(graph: jp.ChannelGraph, variables: Mapping[str, Any], keep: Mapping[str, Any]) -> Pair:
    """Returns the variables masked and sliced by `keep`."""
    spared = {(s.path, g.name) for g in graph.groups.values() for s in g.slots if not s.masked}
    masked = {}
    for path, value in variables.items():
        masked[path] = value.copy()
        zeroed = {name: kept for name, kept in keep.items() if (path, name) not in spared}
        for axis, space in enumerate(graph.variables[path].axes):
            gone = (slice(None),) * axis + (~ax.select(space, zeroed),)
            masked[path][gone] = 0
    return Pair(masked, jp.slice(graph, variables, keep))


def inputs_of(case: Case, seen: Mapping[Feed, Seen]) -> dict[str, dict[str, Any]]:
    """Returns what every feed is measured on: operands masked by all groups, and pairs.

    Alignment does not depend on the feed, so that the pairs are left out where one operand of
    several is shifted.
    """
    variables = values_of(case)
    found: dict[str, dict[str, Any]] = {}
    for feed, (_, graph, _, _) in seen.items():
        here = found[feed_name(feed)] = {
            "zeros": operands_of(case, pair(graph, variables, choose(graph)).masked)
        }
        if feed in (frozenset(), every(case)):
            exact, inexact = split_keep(graph)
            here["exact"] = pair(graph, variables, exact)
            if inexact:
                here["inexact"] = pair(graph, variables, inexact)
    return found


def compiled(case: Case, seen: Mapping[Feed, Seen]) -> Callable[..., Any]:
    """Returns one program for all that is measured: `(inputs, operands) -> results`."""
    one = np.float32(1)

    def under(feed: Feed, given: Mapping[str, Any]) -> dict[str, Any]:
        net, graph = seen[feed].net, seen[feed].graph
        found: dict[str, Any] = {"zeros": results(case, fed(given["zeros"], feed))}
        for kind, keep in zip(("exact", "inexact"), split_keep(graph), strict=True):
            if kind in given:
                narrowed = jp.narrow(net, graph, keep)
                found[kind] = net(given[kind].masked, one), narrowed(given[kind].small, one)
                if case.grad:
                    masked = jp.slice(graph, gradient(net, given[kind].masked), keep)
                    found[f"{kind} gradient"] = masked, gradient(narrowed, given[kind].small)
        return found

    def program(inputs: Any, operands: Any) -> Any:
        found = {feed_name(feed): under(feed, inputs[feed_name(feed)]) for feed in seen}
        return found, results(case, fed(operands, every(case)))

    given = inputs_of(case, seen)
    if case.eager:
        return lambda operands: program(given, operands)
    run = jax.jit(program).lower(given, operands_of(case, values_of(case)))
    run = run.compile()
    return lambda operands: run(given, operands)


def feed_name(feed: Feed) -> str:
    return ",".join(map(str, sorted(feed)))


def results(case: Case, operands: Sequence[Any]) -> list[Any]:
    return [plain(y) for y in jax.tree.leaves(case.fn(*operands))]


def gradient(net: Callable[..., Any], variables: Any) -> Any:
    """Returns the gradient of the sum of the results with respect to the float variables."""
    moving = {key: x for key, x in variables.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return jax.grad(lambda vs: sum(net({**variables, **vs}, np.float32(1))))(moving)


def check_values(found: Mapping[str, Any], seen: Mapping[Feed, Seen]) -> None:
    """Masked equals narrowed for the exact groups; inexact ones differ under some feed."""
    differs, claimed = False, False
    for feed in seen:
        here = found[feed_name(feed)]
        for kind in ("exact", "exact gradient"):
            if kind in here:
                masked, narrowed = here[kind]
                jax.tree.map(close, masked, narrowed)
        for kind in ("inexact", "inexact gradient"):
            if kind in here:
                claimed = True
                differs |= not all(map(is_close, *map(jax.tree.leaves, here[kind])))
    assert differs or not claimed, "called inexact, but masked and narrowed agree"


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6, equal_nan=True)


def is_close(a: Any, b: Any) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def check_zeros(case: Case, found: Mapping[str, Any], seen: Mapping[Feed, Seen]) -> None:
    """The results are zero at pruned indices exactly where the rule says so."""
    for feed, item in seen.items():
        keep, letters = choose(item.graph), label(item)
        triples = zip(found[feed_name(feed)]["zeros"], item.op.outs, item.results, strict=True)
        for y, axes, known in triples:
            for axis, space in enumerate(axes):
                for atom in groups_of(space):
                    there = ax.positions(ax.resolve(space), atom)[~keep[atom.name]].ravel()
                    is_zero = not np.any(np.take(y, there, axis=axis))
                    said = atom in known.zeros[axis] or is_zero_everywhere(known)
                    where = f"{item.op!r}, operands {sorted(feed)} shifted, axis {axis}"
                    assert is_zero or not said, f"{where}: called zero, but it is not"
                    forgets = letters[atom] in case.forgets or (feed and "*" in case.forgets)
                    assert said or not is_zero or forgets, f"{where}: zero, but not called so"


def is_zero_everywhere(known: Any) -> bool:
    return known.value is not None and known.value == 0


def groups_of(space: ax.Space) -> set[ax.Atom]:
    return {atom for atom in ax.atoms(space) if atom.reason is None and atom.name is not None}


def check_dependence(case: Case, run: Callable[..., Any], seen: Mapping[Feed, Seen]) -> None:
    """Poison in a channel of an exact group changes that channel of the results alone."""
    item = seen[every(case)]
    operands = operands_of(case, values_of(case))
    clean = run(operands)[1]
    for i, axis, index in places(operands):
        space = item.graph.variables[f"in{i}"].axes[axis]
        owners = [
            (atom, int(np.flatnonzero((ax.positions(space, atom) == index).any(axis=1))[0]))
            for atom in groups_of(space)
            if not item.graph.groups[str(atom.name)].inexact
            and (ax.positions(space, atom) == index).any()
        ]
        if not owners:
            continue
        for value in poisons(operands[i], axis, index):
            dirty = run([value if k == i else x for k, x in enumerate(operands)])[1]
            for y, z, axes in zip(clean, dirty, item.op.outs, strict=True):
                changed = ~np.isclose(y, z, rtol=1e-6, atol=0, equal_nan=True)
                for atom, channel in owners:
                    stray = changed & ~belongs(axes, atom, channel)
                    where = f"{item.op!r}: index {index} of axis {axis} of operand {i}"
                    assert not stray.any(), f"{where} changes {np.argwhere(stray)[:4].tolist()}"


def places(operands: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    for i, x in enumerate(operands):
        for axis, n in enumerate(x.shape):
            for index in range(n):
                yield i, axis, index


def poisons(x: np.ndarray, axis: int, index: int) -> Iterator[np.ndarray]:
    """Yields x with one slice changed: NaN and another value; integers one more and more."""
    where = (slice(None),) * axis + (index,)
    for value in (
        [~x]
        if x.dtype.kind == "b"
        else [x + 1, x + 7]
        if x.dtype.kind in "iu"
        else [x * np.nan, 1 - x]
    ):
        found = x.copy()
        found[where] = value[where]
        yield found


def belongs(axes: Sequence[ax.Space], atom: ax.Atom, channel: int) -> np.ndarray:
    """Returns the positions of an array that belong to a channel along any axis."""
    found = np.zeros([space.size for space in axes], bool)
    for axis, space in enumerate(axes):
        mine = np.zeros(space.size, bool)
        mine[ax.positions(ax.resolve(space), atom)[channel]] = True
        found |= mine.reshape([-1 if k == axis else 1 for k in range(len(axes))])
    return found


def check_spec(case: Case, seen: Mapping[Feed, Seen]) -> None:
    """The axes and the inexact groups are those that the case states."""
    found = spec_of(case, seen)
    assert found == case.spec, f"found {found!r}, stated {case.spec!r}"


class Measured(NamedTuple):
    """The compiled program of a case, and what it gives."""

    run: Callable[..., Any]
    found: Mapping[str, Any]


def measure(case: Case, seen: Mapping[Feed, Seen]) -> Measured:
    """Compiles and runs a case under every feed."""
    run = compiled(case, seen)
    found, _ = run(operands_of(case, values_of(case)))
    return Measured(run, jax.tree.map(np.asarray, found))


def check(name: str, case: Case, rules: Mapping[str, jp.Rule] = jp.RULES) -> None:
    """Checks a case by every oracle; raises what the first one finds."""
    for error in verdicts(name, case, rules).values():
        if error is not None:
            raise error


def verdicts(
    name: str, case: Case, rules: Mapping[str, jp.Rule] = jp.RULES
) -> dict[str, Exception | None]:
    """Returns {oracle: what it finds wrong, or None} of a case."""
    found: dict[str, Exception | None] = {}
    seen = _attempt(found, "trace", lambda: observe(name, case, rules))
    if seen is None:
        return found
    _attempt(found, "spec", lambda: check_spec(case, seen))
    measured = _attempt(found, "run", lambda: measure(case, seen)) if case.runs else None
    if measured is not None:
        _attempt(found, "dependence", lambda: check_dependence(case, measured.run, seen))
        _attempt(found, "zeros", lambda: check_zeros(case, measured.found, seen))
        _attempt(found, "values", lambda: check_values(measured.found, seen))
    return found


def _attempt(found: dict[str, Exception | None], oracle: str, run: Callable[[], Any]) -> Any:
    try:
        result = run()
    except Exception as error:
        found[oracle] = error
        return None
    found[oracle] = None
    return result
