"""Finds the attributes that modules must have at the kept widths, by trying.

Numbers of heads, head sizes and inner widths stand in fields, in attributes and in configuration
objects, and no shape of a variable shows them. Whether the network at the kept widths is the traced
one is checked equation by equation, so that any value may be tried. The first equation that differs
says which module it is, and the sizes of its axes say which values: an integer that is a size, or a
quotient or a product of two, becomes what is kept of it. A try is one trace.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from jaxprune.arguments import integers
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.spaces import Atom, Prod, Space, product
from jaxprune.running.same_program import Attempt, Compared

TRIES = 300
"""The most networks that are traced."""
SECONDS = 60.0
"""After so long no other network is traced."""

Overrides = Mapping[str, Mapping[str, Any]]
"""{path of a module: {attribute, or the way to what it holds: value}}."""
Sizes = list[tuple[int, int]]
"""The (full, kept) sizes of axes, of their factors, and of runs of factors."""


class Holder(NamedTuple):
    """A module, as far as the search looks at it."""

    kind: str  # the name of its class
    attributes: Mapping[str, Any]


class Change(NamedTuple):
    """An integer below an attribute of a module, and what it becomes."""

    path: str
    way: str  # see `integers`
    value: int


class Found(NamedTuple):
    """Where a search ended: the overrides, how far the network with them is the traced one."""

    overrides: Overrides
    attempt: Attempt
    tries: int


def solved(
    graph: ChannelGraph,
    kept: Kept,
    attempt: Callable[[Overrides], Attempt],
    check: Callable[[Overrides], Compared],
    holders: Callable[[], Mapping[str, Holder]],
) -> tuple[Overrides, Compared]:
    """Returns what modules must hold beyond what is known of them, and how the network compares.

    Args:
      graph: the channel graph.
      kept: what stays.
      attempt: tries the network at the kept widths with overrides.
      check: the same, and raises where it is another network.
      holders: {path of a module: what it holds}, at the full widths; asked only if needed.

    Raises:
      ResizeError: no overrides make the traced network; says how near some came.
    """
    start = attempt({})
    if start.compared is not None:
        return {}, start.compared
    found = search(graph, kept, holders(), attempt, start)
    overrides = found.overrides if found.attempt.compared is not None else {}
    try:
        return overrides, check(overrides)
    except ResizeError as error:
        text, _, way_out = str(error).rpartition("\nFix: ")
        raise ResizeError(f"{text}\n{nearest(found)}Fix: {way_out}") from error.__cause__


def search(
    graph: ChannelGraph,
    kept: Kept,
    holders: Mapping[str, Holder],
    attempt: Callable[[Overrides], Attempt],
    start: Attempt,
) -> Found:
    """Returns the overrides that make the traced network of the kept widths, or the nearest.

    Args:
      graph: the channel graph.
      kept: what stays.
      holders: {path of a module: what it holds}, at the full widths.
      attempt: tries the network at the kept widths with overrides.
      start: what it gave without any.
    """
    return _Search(graph, kept, holders, attempt).run(start)


def nearest(found: Found) -> str:
    """Returns a line on how near a search came that found nothing; none if nothing was tried."""
    if not found.tries:
        return ""
    end = found.attempt
    where = f"{end.op!r} at {end.op.place} " if end.op else ""
    return (
        f"Of {found.tries} networks with other attributes none is the same. The nearest has "
        f"{found.overrides or 'none'}; then {where}{end.text}.\n"
    )


class _Search:
    def __init__(
        self,
        graph: ChannelGraph,
        kept: Kept,
        holders: Mapping[str, Holder],
        attempt: Callable[[Overrides], Attempt],
    ):
        self.kept = kept
        self.holders = holders
        self.attempt = attempt
        self.integers = {p: dict(integers.below(h.attributes)) for p, h in holders.items()}
        self.ops = [op for op in every_op(graph.walk) if not op.inner]
        self.inside: dict[str, list[Op]] = {path: [] for path in holders}
        for op in self.ops:
            for path in self.around(op):
                self.inside[path].append(op)
        self.tries = 0
        self.until = time.monotonic() + SECONDS

    def run(self, best: Attempt) -> Found:
        """Returns the end of the search that begins with `best`."""
        changes: list[list[Change]] = []
        while best.compared is None and (step := self.step(changes, best)) is not None:
            best, chosen = step
            changes.append(chosen)
        if best.compared is not None:
            changes = self.needed(changes)
        return Found(self.overrides(changes), best, self.tries)

    def step(
        self, changes: list[list[Change]], best: Attempt
    ) -> tuple[Attempt, list[Change]] | None:
        """Returns the change that brings the network furthest, None if none brings it further."""
        for tier in self.tiers(best.op):
            reached = None
            for chosen in tier:
                if self.tries >= TRIES or time.monotonic() > self.until:
                    return reached
                found = self.tried([*changes, chosen])
                if found.compared is not None:
                    return found, chosen
                if found.steps > (reached or (best,))[0].steps:
                    reached = found, chosen
            if reached is not None:
                return reached
        return None

    def tried(self, changes: Iterable[Sequence[Change]]) -> Attempt:
        """Returns what the network with these changes is."""
        self.tries += 1
        return self.attempt(self.overrides(changes))

    def needed(self, changes: list[list[Change]]) -> list[list[Change]]:
        """Returns the changes without those that the network does not need."""
        left = list(changes)
        for chosen in changes[:-1]:
            fewer = [other for other in left if other is not chosen]
            if self.tried(fewer).compared is not None:
                left = fewer
        return left

    def overrides(self, changes: Iterable[Sequence[Change]]) -> Overrides:
        """Returns the changed attributes of every module."""
        found: dict[str, dict[str, Any]] = {}
        for change in (change for chosen in changes for change in chosen):
            found.setdefault(change.path, {})[change.way] = change.value
        return found

    def tiers(self, op: Op | None) -> Iterator[Iterator[list[Change]]]:
        """Yields what may be changed at the first equation that differs, the likeliest first."""
        if op is None:
            return
        near = self.sizes([op])
        paths = [*self.around(op)]
        yield (self.everywhere(op, change) for change in self.candidates(paths, near))
        wide = self.related(self.sizes(self.neighbors(paths, op)))
        far = [pair for pair in wide if pair not in near]
        yield (self.everywhere(op, change) for change in self.candidates(paths, far))
        yield self.pairs(op, paths, [*near, *far])

    def pairs(self, op: Op, paths: Sequence[str], sizes: Sizes) -> Iterator[list[Change]]:
        """Yields two changes of one module at once, and all of which the value is clear."""
        for path in paths:
            every = [*self.candidates([path], sizes)]
            for one, other in combinations(every, 2):
                if one.way != other.way:
                    yield [*self.everywhere(op, one), *self.everywhere(op, other)]
            ways = [change.way for change in every]
            clear = [change for change in every if ways.count(change.way) == 1]
            if len(clear) > 2:
                yield [each for change in clear for each in self.everywhere(op, change)]

    def candidates(self, paths: Iterable[str], sizes: Sizes) -> Iterator[Change]:
        """Yields the integers of modules that are a full size, with the kept one."""
        for path in paths:
            for way, value in self.integers[path].items():
                for full, kept in dict.fromkeys(sizes):
                    if full == value:
                        yield Change(path, way, kept)

    def everywhere(self, op: Op, change: Change) -> list[Change]:
        """Returns a change, and that of every other module of the class which holds the same.

        In each it is what is kept at its own operation, which stands where `op` stands in the one.
        """
        home, kind = self.inside[change.path], self.holders[change.path].kind
        before = self.integers[change.path][change.way]
        found = [change]
        for path, holder in self.holders.items():
            if path == change.path or holder.kind != kind:
                continue
            if self.integers[path].get(change.way) != before:
                continue
            here, place = self.inside[path], home.index(op) if op in home else -1
            value = change.value
            if len(here) == len(home) and place >= 0 and here[place].name == op.name:
                ours, theirs = (self.sizes([each], same=True) for each in (op, here[place]))
                pairs = zip(ours, theirs, strict=False)
                twins = (b[1] for a, b in pairs if a == (before, value) and b[0] == before)
                value = next(twins, value)
            found.append(Change(path, change.way, value))
        return found

    def around(self, op: Op) -> Iterator[str]:
        """Yields the paths of the modules around an operation, innermost first."""
        names = [name.partition(".")[0] for name in op.place.split("/")]
        for length in range(len(names), 0, -1):
            for start in range(len(names) - length + 1):
                path = "/".join(names[start : start + length])
                if path in self.holders and start + length == len(names):
                    yield path
        for end in range(len(names) - 1, 0, -1):
            for start in range(end):
                path = "/".join(names[start:end])
                if path in self.holders:
                    yield path
        if "" in self.holders:
            yield ""

    def neighbors(self, paths: Sequence[str], op: Op) -> list[Op]:
        """Returns the operations of the innermost module, those near to `op` first."""
        here = self.inside[paths[0]] if paths else self.ops
        place = here.index(op) if op in here else 0
        return sorted(here, key=lambda other: abs(here.index(other) - place))[:40]

    def sizes(self, ops: Iterable[Op], *, same: bool = False) -> Sizes:
        """Returns the sizes at some operations; those that stay too if `same`."""
        found: Sizes = []
        for op in ops:
            for axes in (*op.ins, *op.outs):
                for space in axes:
                    for view in _views(space):
                        pair = view.size, self.kept.size(view)
                        if same or (pair not in found and pair[0] != pair[1]):
                            found.append(pair)
        return found

    def related(self, sizes: Sizes) -> Sizes:
        """Returns the sizes, and then what quotients and products of two of them become."""
        found = list(sizes)
        for (a, small), (b, less) in combinations(sizes, 2):
            for pair in ((a, small, b, less), (b, less, a, small)):
                full, kept, of, part = pair
                if full % of == 0 and kept % part == 0 and full // of != kept // part:
                    found.append((full // of, kept // part))
            found.append((a * b, small * less))
        return list(dict.fromkeys(found))


def _views(space: Space) -> Iterator[Space]:
    """Yields a space, its parts, its factors and runs of its factors."""
    yield space
    if isinstance(space, Atom):
        return
    if isinstance(space, Prod):
        items = space.factors
        for length in range(2, len(items)):
            for start in range(len(items) - length + 1):
                yield product(items[start : start + length])
    else:
        items = space.parts
    for item in items:
        yield from _views(item)
