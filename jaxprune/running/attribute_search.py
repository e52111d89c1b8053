"""Finds the attributes that modules must have at the kept widths, by trying.

Numbers of heads, head sizes and inner widths stand in fields, in attributes and in configuration
objects, and no shape of a variable shows them. Whether the network at the kept widths is the traced
one is checked equation by equation, so that any value may be tried. The first equation that differs
says which module it is, and the sizes of its axes say which values: an integer that is a size, or a
quotient or a product of two, becomes what is kept of it. A try is one trace.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

from jaxprune.arguments import integers, paths
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.kept import Kept
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.spaces import Prod, Space, Sum, product
from jaxprune.running.compared import Attempt, Compared

TRIES = 300
"""So many networks are traced without one that is nearer to the traced one."""
SECONDS = 60.0
"""After so long no other network is traced."""
NEAR = 40
"""So many operations of a module have a say beside the one that differs."""

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


class SearchEnd(NamedTuple):
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
    path_of: Callable[[Any], str | None] = lambda _: None,
    *,
    around: Callable[[Op], list[str]] | None = None,
    search: bool = True,
) -> tuple[Overrides, Compared]:
    """Returns what modules must hold beyond what is known of them, and how the network compares.

    Args:
      graph: the channel graph.
      kept: what stays.
      attempt: tries the network at the kept widths with overrides.
      check: the same, and raises where it is another network.
      holders: {path of a module: what it holds}, at the full widths; asked only if needed.
      path_of: the path of a module whose method raised, None for anything else.
      around: the paths of the modules around an operation, innermost first, where its name does
        not say them.
      search: whether anything is tried; else the network is what it is.

    Raises:
      ResizeError: no overrides make the traced network; says how near some came.
    """
    start = attempt({})
    if start.compared is not None:
        return {}, start.compared
    if not search:
        return {}, check({})
    best = _Search(graph, kept, holders(), attempt, path_of, around).run(start)
    overrides = best.overrides if best.attempt.compared is not None else {}
    try:
        return overrides, check(overrides)
    except ResizeError as error:
        text, _, way_out = str(error).rpartition("\nFix: ")
        raise ResizeError(f"{text}\n{nearest(best)}Fix: {way_out}") from error.__cause__


def wanted(module: Any, path: str, extra: Overrides, given: Overrides) -> dict[str, Any]:
    """Returns {attribute: value} of a module: what was found for its path, then what is given.

    `extra` goes by paths, `given` by patterns of paths.
    """
    values = integers.resolved(module, extra.get(path, {}))
    for pattern, overrides in given.items():
        if paths.matches(pattern, path):
            values |= integers.resolved(module, overrides)
    return values


def parts_of(holders: Mapping[str, Holder], path: str) -> list[str]:
    """Returns the paths of what a module is made of: a property may read what these hold."""
    prefix = f"{path}/" if path else ""
    inner = [p for p in holders if p != path and p.startswith(prefix)]
    return [p for p in inner if not any(p.startswith(f"{other}/") for other in inner)]


def nearest(best: SearchEnd) -> str:
    """Returns a line on how near a search came that found nothing; none if nothing was tried."""
    if not best.tries:
        return ""
    end = best.attempt
    where = f"{end.op!r} at {end.op.place} " if end.op else ""
    return (
        f"Of {best.tries} networks with other attributes none is the same. The nearest has "
        f"{best.overrides or 'none'}; then {where}{end.text}.\n"
    )


class _Search:
    def __init__(
        self,
        graph: ChannelGraph,
        kept: Kept,
        holders: Mapping[str, Holder],
        attempt: Callable[[Overrides], Attempt],
        path_of: Callable[[Any], str | None],
        around: Callable[[Op], list[str]] | None = None,
    ):
        self.kept = kept
        self.holders = holders
        self.attempt = attempt
        self.path_of = path_of
        self.around = around or self._around
        self.settled: set[tuple[str, str]] = set()
        self.integers = {p: dict(integers.below(h.attributes)) for p, h in holders.items()}
        self.inside: dict[str, list[Op]] = {path: [] for path in holders}
        for op in every_op(graph.walk):
            for path in self.around(op) if not op.inner else ():
                self.inside[path].append(op)
        self.tries = 0
        self.most = TRIES
        self.until = time.monotonic() + SECONDS

    def run(self, best: Attempt) -> SearchEnd:
        """Returns the end of the search that begins with `best`."""
        changes: list[list[Change]] = []
        while best.compared is None and (step := self.step(changes, best)) is not None:
            best, chosen = step
            self.most = self.tries + TRIES
            changes.append(chosen)
            self.settled |= {(change.path, change.way) for change in chosen}
        if best.compared is not None:
            changes = self.needed(changes)
        return SearchEnd(self.overrides(changes), best, self.tries)

    def step(
        self, changes: list[list[Change]], best: Attempt
    ) -> tuple[Attempt, list[Change]] | None:
        """Returns the change that brings the network furthest, None if none brings it further.

        What changes nothing together, not even the error, is likely not read until there: other
        values and parts of it come last.
        """
        unread: list[set[tuple[str, str]]] = []
        later: list[list[Change]] = []
        for tier in chain(self.tiers(best), [later]):
            reached = None
            for chosen in tier:
                ways = {(change.path, change.way) for change in chosen}
                if tier is not later and any(ways <= those for those in unread):
                    later.append(chosen)
                    continue
                if self.tries >= self.most or time.monotonic() > self.until:
                    return reached
                attempt = self.tried([*changes, chosen])
                if attempt.compared is not None:
                    return attempt, chosen
                if (attempt.steps, attempt.text) == (best.steps, best.text):
                    unread.append(ways)
                if attempt.steps > (reached or (best,))[0].steps:
                    reached = attempt, chosen
            if reached is not None:
                return reached
        return None

    def tried(self, changes: Iterable[Sequence[Change]]) -> Attempt:
        """Returns what the network with these changes is."""
        self.tries += 1
        return self.attempt(self.overrides(changes))

    def needed(self, changes: list[list[Change]]) -> list[list[Change]]:
        """Returns the changes without those that the network does not need."""
        left = [part for chosen in changes for part in _by_way(chosen)]
        for part in left[:-1] if len(_by_way(changes[-1])) == 1 else list(left):
            fewer = [other for other in left if other is not part]
            if fewer and self.tried(fewer).compared is not None:
                left = fewer
        return left

    def overrides(self, changes: Iterable[Sequence[Change]]) -> Overrides:
        """Returns the changed attributes of every module."""
        values: dict[str, dict[str, Any]] = {}
        for change in (change for chosen in changes for change in chosen):
            values.setdefault(change.path, {})[change.way] = change.value
        return values

    def tiers(self, best: Attempt) -> Iterator[Iterator[list[Change]]]:
        """Yields what may be changed at the first equation that differs, the likeliest first."""
        if (op := best.op) is None:
            return
        near = self.sizes([op, *(each for walk in op.inner for each in every_op(walk))])
        raised = filter(None, map(self.path_of, best.raised_in))
        paths = list(dict.fromkeys([*(p for p in raised if p in self.holders), *self.around(op)]))
        yield self.spread(op, [[change] for change in self.candidates(paths, near)])
        wide = self.related(self.sizes(self.neighbors(paths, op)))
        far = [pair for pair in wide if pair not in near]
        yield self.spread(op, [[change] for change in self.candidates(paths, far)])
        parts = [part for path in paths[:1] for part in parts_of(self.holders, path)]
        yield self.spread(op, [[change] for change in self.candidates(parts, near)])
        yield self.spread(op, self.at_once(paths, near))
        yield self.in_all(near) if op.inner else iter(())
        yield self.spread(op, self.several(paths, [*near, *far]))

    def at_once(self, paths: Sequence[str], sizes: Sizes) -> Iterator[list[Change]]:
        """Yields all changes of one module, each with its likeliest value.

        Where code computes one size from several, as a split does, no single change helps.
        """
        for path in paths:
            first = {change.way: change for change in reversed([*self.candidates([path], sizes)])}
            direct = [change for way, change in first.items() if "." not in way]
            for chosen in (direct, list(first.values())):
                if len(chosen) > 2:
                    yield chosen

    def in_all(self, sizes: Sizes) -> Iterator[list[Change]]:
        """Yields all that hold one size, in every module.

        What raises inside of a `jit` hides how far the network came.
        """
        for size in sizes:
            every = [*self.candidates(self.holders, [size])]
            left = [change for change in every if (change.path, change.way) not in self.settled]
            if len(left) > 1:
                yield left

    def several(self, paths: Sequence[str], sizes: Sizes) -> Iterator[list[Change]]:
        """Yields two changes of one module at once, and all of which the value is clear."""
        for path in paths:
            every = [*self.candidates([path], sizes)]
            for first, other in combinations(every, 2):
                if first.way != other.way:
                    yield [first, other]
            ways = [change.way for change in every]
            clear = [change for change in every if ways.count(change.way) == 1]
            if len(clear) > 2:
                yield clear

    def spread(self, op: Op, every: Iterable[list[Change]]) -> Iterator[list[Change]]:
        """Yields changes in all modules of the class, then those that differ from it in one."""
        alone = []
        for changes in every:
            wide = [each for change in changes for each in self.everywhere(op, change)]
            yield wide
            if len(wide) > len(changes):
                alone.append(changes)
        yield from alone

    def candidates(self, paths: Iterable[str], sizes: Sizes) -> Iterator[Change]:
        """Yields the integers of modules that are a full size, with the kept one."""
        for path in paths:
            for way, value in self.integers[path].items():
                for full, kept in dict.fromkeys(sizes):
                    if full == value:
                        yield Change(path, way, kept)

    def everywhere(self, op: Op, change: Change) -> list[Change]:
        """Returns a change, and that of all others of the class which hold the same as yet.

        In each it is what is kept at its own operation, which stands where `op` stands in the one.
        """
        home, kind = self.inside[change.path], self.holders[change.path].kind
        before = self.integers[change.path][change.way]
        changes = [change]
        for path, holder in self.holders.items():
            same = holder.kind == kind and self.integers[path].get(change.way) == before
            if path == change.path or not same or (path, change.way) in self.settled:
                continue
            here, place = self.inside[path], home.index(op) if op in home else -1
            value = change.value
            if len(here) == len(home) and place >= 0 and here[place].name == op.name:
                ours, theirs = (self.sizes([each], same=True) for each in (op, here[place]))
                pairs = zip(ours, theirs, strict=False)
                twins = (b[1] for a, b in pairs if a == (before, value) and b[0] == before)
                value = next(twins, value)
            changes.append(Change(path, change.way, value))
        return changes

    def _around(self, op: Op) -> list[str]:
        """Returns the paths of the modules around an operation, innermost first."""
        names = [name.partition(".")[0] for name in op.place.split("/")]
        ends = range(len(names), 0, -1)
        runs = ("/".join(names[start:end]) for end in ends for start in range(end))
        around = [path for path in dict.fromkeys((*runs, "")) if path in self.holders]
        most = max((path.count("/") for path in around if path), default=-1)
        deeper = [p for p in self.holders if p.count("/") > most and p and _runs_through(p, names)]
        return [*sorted(deeper, key=lambda path: -path.count("/")), *around]

    def neighbors(self, paths: Sequence[str], op: Op) -> list[Op]:
        """Returns the operations of the innermost module, those near to `op` first."""
        here = self.inside[paths[0]] if paths else []
        place = here.index(op) if op in here else 0
        by_distance = sorted(range(len(here)), key=lambda i: abs(i - place))
        return [here[i] for i in by_distance[:NEAR]]

    def sizes(self, ops: Iterable[Op], *, same: bool = False) -> Sizes:
        """Returns the sizes at some operations; those that stay too if `same`."""
        pairs: Sizes = []
        for op in ops:
            for axes in (*op.ins, *op.outs):
                for space in axes:
                    for view in _views(space):
                        pair = view.size, self.kept.size(view)
                        if same or (pair not in pairs and pair[0] != pair[1]):
                            pairs.append(pair)
        return pairs

    def related(self, sizes: Sizes) -> Sizes:
        """Returns the sizes, and then what quotients and products of two of them become."""
        pairs = list(sizes)
        for (a, small), (b, less) in combinations(sizes, 2):
            for pair in ((a, small, b, less), (b, less, a, small)):
                full, kept, of, part = pair
                if full % of == 0 and kept % part == 0 and full // of != kept // part:
                    pairs.append((full // of, kept // part))
            pairs.append((a * b, small * less))
        return list(dict.fromkeys(pairs))


def _runs_through(path: str, names: Sequence[str]) -> bool:
    """True if the parts of a path stand in this order among the names: scopes may lie between."""
    left = iter(names)
    return all(part in left for part in path.split("/"))


def _by_way(changes: Sequence[Change]) -> list[list[Change]]:
    """Returns the changes of every attribute, in all modules."""
    return [[c for c in changes if c.way == way] for way in dict.fromkeys(c.way for c in changes)]


def _views(space: Space) -> Iterator[Space]:
    """Yields a space, its parts, its factors and runs of its factors."""
    left = [space]  # a stack: concatenations nest as deep as a network has layers
    while left:
        space = left.pop()
        yield space
        if isinstance(space, Prod):
            items = space.factors
            runs = [(i, n) for n in range(2, len(items)) for i in range(len(items) - n + 1)]
            yield from (product(items[i : i + n]) for i, n in runs)
            left.extend(reversed(items))
        elif isinstance(space, Sum):
            left.extend(reversed(space.parts))
