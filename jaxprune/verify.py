"""The check of the laws on a user's own network, data and keep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _cut, paths
from jaxprune._functions import check_function, check_inputs
from jaxprune._numbers import check_positive
from jaxprune.graph import ChannelGraph
from jaxprune.masks import Keep, Kept, check_keep, check_tree, mask, sliced
from jaxprune.narrow import narrow

Apply = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
      groups: {group: verdict}: `exact`, `inexact: why`, or `broken: by how much`.
      resized: the verdict on the resized network; None if none was given.
      difference: largest relative difference of masked and sliced network, exact groups pruned.
    """

    groups: Mapping[str, str]
    resized: str | None
    difference: float

    @property
    def ok(self) -> bool:
        """True if nothing is broken."""
        verdicts = [*self.groups.values(), self.resized or ""]
        return not any(verdict.startswith("broken") for verdict in verdicts)

    def __str__(self) -> str:
        """One line a group, and one for the resized network."""
        width = max(map(len, self.groups), default=0)
        lines = [f"{name:<{width}}  {verdict}" for name, verdict in self.groups.items()]
        if self.resized is not None:
            lines.append(f"resized network: {self.resized}")
        return "\n".join([*lines, f"largest relative difference {self.difference:.1e}"])


def verify(
    graph: ChannelGraph,
    fn: Apply,
    keep: Keep,
    variables: Any,
    *inputs: Any,
    resized: Apply | None = None,
    rtol: float = 1e-4,
) -> Verification:
    """Returns whether masked, sliced and resized network agree, group by group.

    All exact groups are pruned together first; only if the outputs differ is every group tried
    alone to find the broken ones, at one compilation each.

    Args:
      graph: the channel graph.
      fn: the function that was traced.
      keep: {group: bool[n]}, concrete.
      variables: concrete variables.
      *inputs: a batch of real data; differences that need other data stay unseen.
      resized: `(small, *inputs) -> outputs` at the kept widths, such as
        `lambda v, x: model2.apply(v, x)`; compared with `narrow` on the whole keep.
      rtol: what counts as agreement, relative to the largest entry of each output.

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
    """
    keep = check_keep(graph, keep)
    check_function(fn)
    if resized is not None:
        check_function(resized, "resized")
    check_inputs(inputs)
    rtol = check_positive(rtol, "rtol", "rtol=1e-4.")
    check_tree(graph, paths.flatten(variables)[0], {})
    exact = {name: kept for name, kept in keep.items() if graph.groups[name].inexact is None}
    masked = jax.jit(lambda v, keep, *xs: fn(mask(graph, v, keep), *xs))

    def gap(part: Keep) -> float:
        traced = {name: jnp.asarray(part.get(name, np.ones_like(keep[name]))) for name in keep}
        cut = jax.jit(narrow(fn, graph, part))(sliced(graph, variables, part), *inputs)
        return _difference(_small(masked(variables, traced, *inputs), graph, part), cut)

    difference = gap(exact)
    broken = {}
    if not difference <= rtol:
        alone = {name: gap({name: kept}) for name, kept in exact.items()}
        broken = {name: value for name, value in alone.items() if not value <= rtol}
        broken = broken or dict.fromkeys(exact, difference)
    groups = {
        name: f"broken: differs by {broken[name]:.1e}" if name in broken else _verdict(graph, name)
        for name in keep
    }
    verdict = None
    if resized is not None:
        small = sliced(graph, variables, keep)
        found = _difference(
            jax.jit(narrow(fn, graph, keep))(small, *inputs), jax.jit(resized)(small, *inputs)
        )
        verdict = _resized(found, rtol, len(exact) == len(keep))
    return Verification(groups=groups, resized=verdict, difference=difference)


def _verdict(graph: ChannelGraph, name: str) -> str:
    why = graph.groups[name].inexact
    return "exact" if why is None else f"inexact: {why}"


def _resized(found: float, rtol: float, exact: bool) -> str:
    if found <= rtol:
        return "exact"
    if exact:
        return f"broken: differs by {found:.1e}"
    return f"differs by {found:.1e}, as inexact groups are pruned"


def _small(outputs: Any, graph: ChannelGraph, keep: Keep) -> Any:
    """Outputs at the kept sizes: updated statistics have pruned axes too."""
    kept = Kept(keep)
    leaves, treedef = jax.tree.flatten(outputs)
    small = []
    for leaf, axes in zip(leaves, graph.walk.outs, strict=True):
        cut = _cut.Cut.of(map(kept.indices, axes), axes)
        small.append(_cut.take({"": leaf}, {"": cut})[""])
    return jax.tree.unflatten(treedef, small)


def _difference(a: Any, b: Any) -> float:
    """The largest difference of two trees of outputs, relative to each leaf's largest entry."""
    gaps = [0.0]
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(left, np.float64), np.asarray(right, np.float64)
        scale = max(np.max(np.abs(x), initial=0), np.finfo(np.float32).tiny)
        gaps.append(np.max(np.abs(x - y), initial=0) / scale)
    return float(np.max(gaps))
