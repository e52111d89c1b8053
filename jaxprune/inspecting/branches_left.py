"""Which branches of a network are those of what is left of it, by the variables that name them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import Branch, branches
from jaxprune.inspecting.without_branches import Without
from jaxprune.program.jaxpr import Op


class Place(NamedTuple):
    """Steps of a branch of the original: an index of its mask, and the mask's shape."""

    name: str
    steps: Any
    shape: tuple[int, ...]
    scan: Op | None

    @property
    def left(self) -> tuple[int, ...]:
        """The shape of the mask of a branch that is these steps."""
        return (len(self.steps),) if self.shape else ()


def names(graph: ChannelGraph, pruned: ChannelGraph, gone: Without) -> dict[str, Place]:
    """Returns {branch of the pruned network: what it is in the original}, where that is certain.

    A scan of which some steps lost other branches is several in a narrowed function, and one in a
    resized module. Branches whose last layers have the same variables are told by their order.
    """
    found: dict[frozenset[str], list[Branch]] = {}
    for branch in branches(pruned).values():
        found.setdefault(frozenset(branch.kernels), []).append(branch)
    runs: dict[frozenset[str], list[Place]] = {}
    for place in _places(graph, gone):
        runs.setdefault(_key(graph, pruned, place), []).append(place)
    return {
        branch.name: place
        for key, here in found.items()
        for branch, place in zip(
            here, _matched(runs.get(key, []), [item.shape for item in here]), strict=False
        )
    }


def _matched(runs: Sequence[Place], shapes: Sequence[tuple[int, ...]]) -> Sequence[Place]:
    """Returns which steps branches of these shapes are, in their order; none if that is unclear."""
    if [place.left for place in runs] == shapes:
        return runs
    whole = _joined(runs)
    scans = [place.scan for place in whole if place.scan is not None]
    one_each = len(set(scans)) == len(scans)
    if one_each or [place.left for place in whole] == shapes:
        return _pieces(whole, shapes)
    return ()


def _joined(runs: Sequence[Place]) -> list[Place]:
    """The places with all steps of a branch that stay in one, as one scan takes them."""
    same: dict[str, list[Place]] = {}
    for place in runs:
        same.setdefault(place.name, []).append(place)
    return [
        places[0]
        if not places[0].shape
        else places[0]._replace(steps=np.sort(np.concatenate([place.steps for place in places])))
        for places in same.values()
    ]


def _pieces(whole: Sequence[Place], shapes: Sequence[tuple[int, ...]]) -> list[Place]:
    """Cuts places, in the order in which their steps run, into pieces of these shapes."""
    left, pieces = [*whole], []
    for shape in shapes:
        if not left or len(left[0].left) != len(shape) or shape > left[0].left:
            return []
        place = left.pop(0)
        if shape != place.left:
            (count,) = shape
            back = place.scan is not None and place.scan.params["reverse"]
            first, rest = slice(None, count), slice(count, None)
            if back:
                first, rest = slice(-count, None), slice(None, -count)
            left.insert(0, place._replace(steps=place.steps[rest]))
            place = place._replace(steps=place.steps[first])
        pieces.append(place)
    return [] if left else pieces


def _key(graph: ChannelGraph, pruned: ChannelGraph, place: Place) -> frozenset[str]:
    kernels = branches(graph)[place.name].kernels
    return frozenset(path for path in kernels if path in pruned.variables)


def _places(graph: ChannelGraph, gone: Without) -> Iterator[Place]:
    """Yields what is left of branches in the order of the program, its scans in pieces."""
    live = gone.live
    for scan, several in itertools.groupby(branches(graph).values(), _scan):
        pieces = list(several)
        if scan is None or scan not in live.runs:
            for branch in pieces:
                if branch.op not in gone.idle and branch.op not in live.cuts:
                    steps = ... if scan is None else np.arange(branch.steps or 0)
                    yield Place(branch.name, steps, branch.shape, scan)
            continue
        runs = live.runs[scan]
        for run in reversed(runs) if scan.params["reverse"] else runs:
            for branch in pieces:
                if branch.op not in run.idle and branch.op not in run.cuts:
                    steps = np.arange(run.start, run.stop)
                    yield Place(branch.name, steps, branch.shape, scan)


def _scan(branch: Branch) -> Op | None:
    """The scan of which each step has this branch."""
    return None if branch.steps is None else branch.op.scans[0]
