"""The check of the laws on a user's own network, data and keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.functions import check_function, check_inputs
from jaxprune.arguments.numbers import check_positive
from jaxprune.cutting import entries
from jaxprune.cutting.transforms import check_tree, mask, masked_leaf, sliced
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep import reindexing
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept, with_state
from jaxprune.program import stacked_layers
from jaxprune.running import evaluator, same_program
from jaxprune.running.narrow import Constants, evaluate, narrow

Apply = Callable[..., Any]
_GRADIENTS = 10
"""How much more gradients may differ than outputs: they sum over more terms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
      groups: {group: verdict}: `exact`, `inexact: why`, or `broken: by how much`.
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
      keep: {group: bool[n]}, concrete.
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
    keep = check_keep(graph, keep)
    check_function(fn)
    if resized is not None:
        check_function(resized, "resized")
    given, constants = call_inputs.split(keywords)
    check_inputs(inputs, given)
    rtol = check_positive(rtol, "rtol", "rtol=1e-4.")
    check_tree(graph, paths.flatten(variables)[0], {})
    exact = {name: kept for name, kept in keep.items() if graph.groups[name].inexact is None}
    fn = call_inputs.bound(fn, {**graph.constants, **constants})
    if resized is not None:
        resized = call_inputs.bound(resized, constants)
    probe = _Probe(graph, fn, variables, inputs, given)
    masked = jax.jit(
        lambda v, keep, weights, xs, named: probe.of(_masked(graph, fn, keep))(
            v, weights, xs, named
        )
    )

    def gap(part: Keep) -> _Gap:
        whole = {name: np.ones_like(kept) for name, kept in keep.items()}
        weights, few = probe.weights(part)
        outputs, gradients = masked(variables, {**whole, **part}, weights, inputs, given)
        cut = jax.jit(probe.of(narrow(fn, graph, part)))
        slim = cut(sliced(graph, variables, part), few, *probe.inputs_at(part))
        small = probe.small(outputs, part), probe.cut(gradients, part)
        return _Gap(_difference(small[0], slim[0]), _difference(small[1], slim[1], together=True))

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


def _verdict(graph: ChannelGraph, name: str) -> str:
    why = graph.groups[name].inexact
    return "exact" if why is None else f"inexact: {why}"


def _masked(graph: ChannelGraph, fn: Apply, keep: Keep) -> Apply:
    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        inputs, keywords = with_state(
            graph, inputs, keywords, lambda leaf, variable: masked_leaf(keep, leaf, variable)
        )
        return fn(mask(graph, variables, keep), *inputs, **keywords)

    return run


def _resized(
    probe: "_Probe", keep: Keep, resized: Apply, rtol: float
) -> tuple[str, same_program.Compared]:
    """Returns the verdict on a resized network, and what may differ in it."""
    graph, kept = probe.graph, Kept(keep)
    small = sliced(graph, probe.variables, keep)
    shapes = evaluator.full(graph, small, kept.counts)
    here = evaluator.retracer(probe.fn, graph)(shapes, probe.inputs, probe.keywords)
    compared, why = same_program.Compared([], ()), ""
    try:
        compared = same_program.check(here, kept, resized, "the resized network")
    except ResizeError as error:  # another program may still be the same network
        why = f"; {str(error).splitlines()[0]}"
    if compared.draws:
        return "exact, but for random numbers of its own", compared

    def narrowed(v: Any, *xs: Any, **named: Any) -> Any:
        return evaluate(here, kept, v, xs, named, _constants(compared))

    _, few = probe.weights(keep)
    given = probe.inputs_at(keep)
    ours, theirs = (jax.jit(probe.of(run))(small, few, *given) for run in (narrowed, resized))
    gap = _Gap(_difference(ours[0], theirs[0]), _difference(ours[1], theirs[1], together=True))
    if not gap.within(rtol):
        return f"broken: {gap}{why}", compared
    count = len(compared.changed)
    return f"exact, but for {count} constants that follow" if count else "exact", compared


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
    retraced, kept = evaluator.retracer(fn, graph), Kept(keep)

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        full = evaluator.full(graph, variables, kept.counts)
        here = retraced(full, *evaluator.full_state(graph, inputs, keywords, kept.counts))
        compared = same_program.check(here, kept, resized, "the resized network")
        return evaluate(here, kept, variables, inputs, keywords, _constants(compared))

    return run


class _Probe:
    """Outputs, and gradients of a weighted sum of them by all variables that have one."""

    def __init__(
        self,
        graph: ChannelGraph,
        fn: Apply,
        variables: Any,
        inputs: Sequence[Any],
        keywords: Mapping[str, Any],
    ):
        self.graph = graph
        self.fn = fn
        self.variables = variables
        self.inputs = inputs
        self.keywords = keywords
        outputs = jax.eval_shape(fn, variables, *inputs, **keywords)
        self.shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
        self.moves = True
        try:
            jax.eval_shape(self.of(fn), variables, self.weights({})[0], inputs, keywords)
        except (TypeError, ValueError, NotImplementedError):  # such as a while loop
            self.moves = False

    def of(self, run: Apply) -> Apply:
        """Returns `(variables, weights, inputs, keywords) -> (outputs, {path: gradient})`."""

        def measured(variables: Any, weights: Sequence[Any], inputs: Any, keywords: Any) -> Any:
            if not self.moves:
                return run(variables, *inputs, **keywords), {}
            leaves, treedef = paths.flatten(variables)
            moving = {path: leaf for path, leaf in leaves.items() if _is_inexact(leaf)}

            def total(moving: dict[str, Any]) -> tuple[Any, Any]:
                whole = jax.tree.unflatten(treedef, [*(leaves | moving).values()])
                outputs = run(whole, *inputs, **keywords)
                pairs = zip(weights, jax.tree.leaves(outputs), strict=True)
                terms = [jnp.vdot(w, y).real for w, y in pairs if _is_inexact(y)]
                return sum(terms, jnp.zeros(())), outputs

            value, back, outputs = jax.vjp(total, moving, has_aux=True)
            return outputs, back(jnp.ones_like(value))[0]

        return measured

    def weights(self, keep: Keep) -> tuple[list[Any], list[Any]]:
        """Returns weights of the outputs, zero at pruned channels; and those of the others."""
        kept, whole, few = Kept(keep), [], []
        for shape, axes in zip(self.shapes, self.graph.walk.outs, strict=True):
            weight = np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape).astype(np.float32)
            few.append(_taken(weight, axes, kept))
            for axis, space in enumerate(axes):
                if (chosen := kept.mask(space)) is not None:
                    weight = weight * stacked_layers.aligned(chosen, axes, axis)
            whole.append(weight)
        return whole, few

    def inputs_at(self, keep: Keep) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs by position and by keyword, with state at the kept sizes, and new ids."""
        return with_state(
            self.graph,
            *reindexing.inputs_at(self.graph, keep, self.inputs, self.keywords),
            lambda leaf, variable: _taken(leaf, variable.axes, Kept(keep)),
        )

    def small(self, outputs: Any, keep: Keep) -> Any:
        """Outputs at the kept sizes: updated statistics have pruned axes too."""
        pairs = zip(jax.tree.leaves(outputs), self.graph.walk.outs, strict=True)
        return [_taken(leaf, axes, Kept(keep)) for leaf, axes in pairs]

    def cut(self, gradients: Mapping[str, Any], keep: Keep) -> dict[str, Any]:
        """Gradients at the kept sizes."""
        axes = self.graph.variables
        return {path: _taken(x, axes[path].axes, Kept(keep)) for path, x in gradients.items()}


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _taken(leaf: Any, axes: Sequence[Any], kept: Kept) -> Any:
    cut = entries.Cut.of(map(kept.indices, axes), axes)
    return entries.take({"": leaf}, {"": cut}, fit=True)[""]


def _difference(a: Any, b: Any, *, together: bool = False) -> float:
    """The largest difference of two trees, relative to the largest entry of the leaf.

    With `together` a leaf counts as no smaller than a thousandth of the largest of all.
    """
    pairs = [(_host(x), _host(y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    sizes = [np.max(np.abs(x), initial=0, where=np.isfinite(x)) for x, _ in pairs]
    least = max(1e-3 * max(sizes, default=0) if together else 0, np.finfo(np.float32).tiny)
    gaps = [0.0]
    for (x, y), size in zip(pairs, sizes, strict=True):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        gaps.append(np.max(np.abs(np.where(same, 0, x - y)), initial=0) / max(size, least))
    return float(np.max(gaps))


def _host(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    wide = np.complex128 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else np.float64
    return np.asarray(fetch(leaf)).astype(wide)
