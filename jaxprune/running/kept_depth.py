"""What a keep with branches keeps: variables, layers of stacks, and the program that is left."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprune.cutting.absent import without_leaves
from jaxprune.cutting.shorter_state import Shorter
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.without_branches import NOTHING, Without
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Run
from jaxprune.program.stacked_layers import Stack
from jaxprune.running.depth import does_nothing

_NARROW = "Fix: run jp.narrow(fn, graph, keep), which needs no code"


class KeptDepth(Kept):
    """What stays of channels and of branches.

    Attributes:
      branches: {branch: what stays of it}.
      without: the program that is left.
      layers: {stack: bool[steps], which of its layers stay}, where some go.
      cuts: {sum: the operand that is taken out}; in a scan, out of every layer that stays.
    """

    def __init__(self, keep: Keep, branches: Mapping[str, np.ndarray], without: Without):
        super().__init__(keep)
        self.branches = branches
        self.without: Without = without
        self.layers: dict[Stack, np.ndarray] = {}
        cuts = dict(without.live.cuts)
        for scan, runs in without.live.runs.items():
            stay, inner = _whole_layers(scan, runs, without)
            self.layers |= {} if stay.all() else {scan: stay}
            cuts |= inner
        self.cuts = cuts

    def other(self, keep: Keep) -> Kept:
        """Returns what another keep of channels keeps, without the same branches."""
        return KeptDepth(keep, self.branches, self.without)

    def mask(self, space: ax.Space) -> np.ndarray | None:
        """The positions that stay; of the axis that counts the layers of a stack, its layers."""
        stay = self._stay(space)
        return super().mask(space) if stay is None else stay

    def size(self, space: ax.Space) -> int:
        """The kept size of an axis."""
        stay = self._stay(space)
        return super().size(space) if stay is None else int(np.count_nonzero(stay))

    def length(self, scan: Op) -> int:
        """How many steps of a scan stay."""
        stay = self.layers.get(scan)
        return super().length(scan) if stay is None else int(np.count_nonzero(stay))

    def abstract(self, graph: ChannelGraph) -> Any:
        """The variables that stay of a graph, as a pytree of `jax.ShapeDtypeStruct`."""
        small = [v.struct(self.shape(v)) for v in graph.variables.values()]
        return without_leaves(jax.tree.unflatten(graph.treedef, small), self.without.variables)

    def call(self, graph: ChannelGraph) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the traced call at the kept widths: `(variables, *inputs)`, keywords."""
        (variables, *inputs), keywords = super().call(graph)
        lost = Shorter.of(graph, self.without, self.size)
        inputs, keywords = lost.without(inputs, keywords)
        return (variables, *inputs), keywords

    def _stay(self, space: ax.Space) -> np.ndarray | None:
        if not self.layers or (stack := stacked_layers.stack(space)) is None:
            return None
        return self.layers.get(stack)


def kept_of(graph: ChannelGraph, keep: Keep) -> Kept:
    """Returns what stays of a graph that is to be resized.

    Raises:
      KeepError: the keep does not fit the graph.
      ResizeError: the layers of a scan lose other branches, or all of them go.
    """
    parts = without_branches.split(graph, keep)
    channels = check_keep(graph, parts.channels)
    if not without_branches.gone_of(graph, parts.branches):
        return Kept(channels)
    kept = KeptDepth(channels, parts.branches, without_branches.without(graph, parts.branches))
    of_state = ((s.variables, kept.without.state.get(n, NOTHING)) for n, s in graph.state.items())
    torn = [
        path
        for arrays, gone in ((graph.variables, kept.without), *of_state)
        for path, array in arrays.items()
        if path not in gone.variables | gone.rows.keys()
        and any(stacked_layers.stack(space) in kept.layers for space in array.axes)
    ]
    if torn:
        raise ResizeError(
            f"layers go of a stack, and {torn[:5]}, which it steps over, is read elsewhere too, or "
            f"not along its first axis.\n{_NARROW}."
        )
    kept.torn = _shared(graph, parts.branches, kept.without)
    return kept


def _shared(graph: ChannelGraph, stay: Mapping[str, np.ndarray], without: Without) -> str:
    """Says of which weights that are applied several times some applications go, if there are.

    Branches that read rows of their own of one variable share nothing.
    """
    known, gone = branches(graph), without_branches.gone_of(graph, stay)
    pairs = (
        f"branch {name!r} goes and {other.name!r} stays"
        for name in gone
        for other in known.values()
        if other.name not in gone
        and other.kernels == known[name].kernels
        and without.rows.keys().isdisjoint(other.kernels)
    )
    text = next(pairs, "")
    return text and f"\nThey share their weights: {text}. Take out both, where code calls a module."


def _whole_layers(
    scan: Op, runs: list[Run], without: Without
) -> tuple[np.ndarray, Mapping[Op, int]]:
    """Returns which layers of a scan stay, and what is taken out of each of them.

    Raises:
      ResizeError: not the same is taken out of all that stay.
    """
    needed = without.live.carries[scan]
    stay = np.ones(scan.params["length"], bool)
    left = []
    for run in runs:
        if does_nothing(run, scan, needed):
            stay[run.start : run.stop] = False
        else:
            left.append(run)
    if not left:
        raise ResizeError(
            f"no layer of the stack at {scan.place} would stay, and code steps over one at least."
            f"\nFix: keep a layer, or run jp.narrow(fn, graph, keep)."
        )
    if any(run.cuts != left[0].cuts for run in left):
        steps = ["off" if not s else "on" for s in stay]
        raise ResizeError(
            f"the layers of the stack at {scan.place} would not be alike: they are stacked, and "
            f"run the same code. Layers that go as a whole: {steps.count('off')} of {len(steps)}."
            f"\nFix: take all branches out of a layer, or a branch out of all layers; "
            "jp.narrow(fn, graph, keep) runs any keep."
        )
    return stay, left[0].cuts
