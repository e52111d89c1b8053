"""The check of the laws on a user's own network, data and keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.functions import check_function, check_inputs
from jaxprune.arguments.numbers import check_positive
from jaxprune.cutting.transforms import check_tree, mask, masked_leaf, sliced
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.keep.check import Keep, check_keep, is_branch
from jaxprune.keep.kept import with_state
from jaxprune.running import depth, evaluator, masked, same_program
from jaxprune.running.kept_depth import kept_of
from jaxprune.running.narrow import Constants, evaluate, narrow
from jaxprune.running.probe import Apply, Part, Probe, difference

_GRADIENTS = 10
"""How much more gradients may differ than outputs: they sum over more terms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
      groups: {group or branch: verdict}: `exact`, `inexact: why`, or `broken: by how much`.
      resized: the verdict on the resized network; None if none was given.
      follows: the constants of the resized network that follow a width, before and after.
      draws: what the resized network draws at random over pruned channels.
      difference: largest relative difference of masked and sliced network, exact groups pruned.
      gradients: the same of their gradients; None if the network has none.
    """

    groups: Mapping[str, str]
    resized: str | None
    difference: float
    gradients: float | None = None
    follows: tuple[str, ...] = ()
    draws: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing is broken."""
        verdicts = [*self.groups.values(), self.resized or ""]
        return not any(verdict.startswith("broken") for verdict in verdicts)

    def __str__(self) -> str:
        """One line a group, and one for the resized network, with what follows there."""
        width = max(map(len, self.groups), default=0)
        lines = [f"{name:<{width}}  {verdict}" for name, verdict in self.groups.items()]
        if self.resized is not None:
            lines.append(f"resized network: {self.resized}")
        lines += [f"  follows a width: {text}" for text in self.follows]
        lines += [f"  draws its own: {text}" for text in self.draws]
        lines.append(f"largest relative difference {self.difference:.1e}")
        if self.gradients is not None:
            lines.append(f"largest relative difference of gradients {self.gradients:.1e}")
        return "\n".join(lines)


def verify(
    graph: ChannelGraph,
    fn: Apply,
    keep: Keep,
    variables: Any,
    *inputs: Any,
    resized: Apply | None = None,
    rtol: float = 1e-4,
    **keywords: Any,
) -> Verification:
    """Returns whether masked, sliced and resized network agree, group by group.

    All exact groups are pruned together first; only if outputs or gradients differ is every group
    tried alone to find the broken ones, at one compilation each. The gradients are those of a fixed
    weighted sum of the outputs by all variables.

    Args:
      graph: the channel graph.
      fn: the function that was traced.
      keep: {group: bool[n]}, concrete; with branches as in `jp.slice`: where masked, they are not
        added to their streams.
      variables: concrete variables.
      *inputs: a batch of real data; differences that need other data stay unseen. State among them
        is whole: it is masked and sliced here.
      resized: `(small, *inputs) -> outputs` at the kept widths, such as
        `lambda v, x: model2.apply(v, x)`; compared with `narrow` on the whole keep. Constants that
        follow a width are listed, and `narrow` is given their values; where it draws random numbers
        over pruned channels, which are its own, the equations alone are compared.
      rtol: what counts as agreement, relative to the largest entry of each output; ten times that
        for gradients.
      **keywords: those of the call.

    Raises:
      KeepError, TreeError: before anything is run.

    Example:
      >>> import jaxprune as jp
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> print(verify(graph, fn, {"a": np.arange(4) < 2}, v, np.ones((5, 2)), resized=fn))
      a  exact
      resized network: exact
      largest relative difference 0.0e+00
      largest relative difference of gradients 0.0e+00
    """
    parts = without_branches.split(graph, keep)
    keep = {**check_keep(graph, parts.channels), **parts.branches}
    check_function(fn)
    if resized is not None:
        check_function(resized, "resized")
    given, constants = call_inputs.split(keywords)
    check_inputs(inputs, given)
    rtol = check_positive(rtol, "rtol", "rtol=1e-4.")
    check_tree(graph, paths.flatten(variables)[0], {})
    exact = {name: kept for name, kept in keep.items() if _is_exact(graph, name)}
    fn = call_inputs.bound(fn, {**graph.constants, **constants})
    if resized is not None:
        resized = call_inputs.bound(resized, constants)
    probe = Probe(graph, fn, variables, inputs, given)
    full = jax.jit(lambda v, keep, *given: probe.of(_masked(graph, fn, keep))(v, *given))

    def gap(some: Keep) -> _Gap:
        whole = {name: np.ones_like(kept) for name, kept in keep.items()}
        part = Part.of(graph, some)
        weights, few = probe.weights(part)
        outputs, gradients = full(variables, {**whole, **some}, weights, inputs, given)
        cut = jax.jit(probe.of(narrow(fn, graph, some)))
        slim = cut(sliced(graph, variables, some), few, *probe.inputs_at(part))
        small = probe.small(outputs, part), probe.cut(gradients, part)
        return _Gap(difference(small[0], slim[0]), difference(small[1], slim[1], together=True))

    all_of_them = gap(exact)
    broken = {}
    if not all_of_them.within(rtol):
        alone = {name: gap({name: kept}) for name, kept in exact.items()}
        broken = {name: apart for name, apart in alone.items() if not apart.within(rtol)}
        broken = broken or dict.fromkeys(exact, all_of_them)
    groups = {
        name: f"broken: {broken[name]}" if name in broken else _verdict(graph, name)
        for name in keep
    }
    verdict, compared = None, same_program.Compared([], ())
    if resized is not None:
        verdict, compared = _resized(probe, keep, resized, rtol)
    return Verification(
        groups=groups,
        resized=verdict,
        follows=compared.follows,
        draws=compared.draws,
        difference=all_of_them.outputs,
        gradients=all_of_them.gradients if probe.moves else None,
    )


class _Gap(NamedTuple):
    """Largest relative differences."""

    outputs: float
    gradients: float

    def within(self, rtol: float) -> bool:
        return self.outputs <= rtol and self.gradients <= _GRADIENTS * rtol

    def __str__(self) -> str:
        return f"differs by {self.outputs:.1e}, its gradients by {self.gradients:.1e}"


def _is_exact(graph: ChannelGraph, name: str) -> bool:
    """True of a branch, and of a group of which a mask is the narrow network."""
    return is_branch(name) or graph.groups[name].inexact is None


def _verdict(graph: ChannelGraph, name: str) -> str:
    return "exact" if _is_exact(graph, name) else f"inexact: {graph.groups[name].inexact}"


def _masked(graph: ChannelGraph, fn: Apply, keep: Keep) -> Apply:
    """The network at full size: channels are zero in the variables, branches are not added."""
    stay = {name: kept for name, kept in keep.items() if is_branch(name)}
    channels = {name: kept for name, kept in keep.items() if name not in stay}
    gated = masked.masked(fn, graph) if stay else None

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        inputs, keywords = with_state(
            graph, inputs, keywords, lambda leaf, variable: masked_leaf(channels, leaf, variable)
        )
        small = mask(graph, variables, channels)
        if gated is None:
            return fn(small, *inputs, **keywords)
        return gated(small, stay, *inputs, **keywords)

    return run


def _resized(
    probe: Probe, keep: Keep, resized: Apply, rtol: float
) -> tuple[str, same_program.Compared]:
    """Returns the verdict on a resized network, and what may differ in it."""
    small, part = sliced(probe.graph, probe.variables, keep), Part.of(probe.graph, keep)
    cut = _Narrow.of(probe.fn, probe.graph, keep, part, small, probe.inputs, probe.keywords)
    compared, why = same_program.Compared([], ()), ""
    try:
        compared = cut.compared(keep, resized)
    except ResizeError as error:  # another program may still be the same network
        why = f"; {str(error).splitlines()[0]}"
    if compared.draws:
        return "exact, but for random numbers of its own", compared

    def narrowed(v: Any, *xs: Any, **named: Any) -> Any:
        return cut.run(v, xs, named, _constants(compared))

    _, few = probe.weights(part)
    given = probe.inputs_at(part)
    ours, theirs = (jax.jit(probe.of(run))(small, few, *given) for run in (narrowed, resized))
    gap = _Gap(difference(ours[0], theirs[0]), difference(ours[1], theirs[1], together=True))
    if not gap.within(rtol):
        return f"broken: {gap}{why}", compared
    count = len(compared.changed)
    return f"exact, but for {count} constants that follow" if count else "exact", compared


class _Narrow(NamedTuple):
    """A function as it is traced at the inputs of a call, and what is kept of it."""

    here: ChannelGraph
    part: Part

    @classmethod
    def of(
        cls,
        fn: Apply,
        graph: ChannelGraph,
        keep: Keep,
        part: Part,
        variables: Any,
        inputs: Any,
        keywords: Any,
    ) -> "_Narrow":
        """Returns a function at the shapes of sliced variables and whole inputs.

        `part` is what the keep keeps of the graph; the function may have been traced at others.
        """
        kept, gone = part
        lost = frozenset[str]() if gone is None else gone.variables
        whole = variables if gone is None else depth.with_all_rows(variables, gone)
        shapes = evaluator.full(graph, whole, kept.counts, lost)
        here = evaluator.retracer(fn, graph)(shapes, inputs, keywords)
        return cls(here, Part.of(here, keep))

    def compared(self, keep: Keep, resized: Apply) -> same_program.Compared:
        """Returns in what a resized network differs.

        Raises:
          ResizeError: it is another one.
        """
        kept = kept_of(self.here, keep)
        return same_program.check(self.here, kept, resized, "the resized network")

    def run(self, variables: Any, inputs: Any, keywords: Any, constants: Constants) -> Any:
        """Returns the outputs, with these constants in the place of others."""
        kept, gone = self.part
        whole = variables if gone is None else depth.with_all_rows(variables, gone)
        return evaluate(self.here, kept, whole, inputs, keywords, constants, gone)


def _constants(compared: same_program.Compared) -> Constants:
    """What `narrow` reads in the place of the constants that follow."""
    return {
        (item.op, item.operand): item.after
        for item in compared.changed
        if item.op is not None and item.operand is not None
    }


def following(fn: Apply, graph: ChannelGraph, keep: Keep, resized: Apply) -> Apply:
    """Returns `narrow(fn, graph, keep)` with the constants that follow a width in `resized`.

    Raises:
      ResizeError: when it is called, if `resized` is another network.
    """
    part = Part.of(graph, keep)

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        full = evaluator.full_state(graph, inputs, keywords, part.channels.counts, part.gone)
        cut = _Narrow.of(fn, graph, keep, part, variables, *full)
        return cut.run(variables, inputs, keywords, _constants(cut.compared(keep, resized)))

    return run
