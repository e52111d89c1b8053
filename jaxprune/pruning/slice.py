"""The public slice: a smaller tree, rescaled where that is asked for."""

from collections.abc import Callable
from typing import Any, Literal

from jaxprune.arguments import paths
from jaxprune.arguments.checks import kind_of
from jaxprune.cutting import shardings as choice
from jaxprune.cutting.transforms import sliced
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import unread_variables, without_branches
from jaxprune.keep.check import Keep
from jaxprune.pruning import rescale as rescaling


def slice(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    *,
    rescale: bool | Callable[..., Any] = False,
    state: str | int | None = None,
    shardings: Literal["fit"] | None = None,
) -> Any:
    """Returns `variables` without the pruned entries: a smaller tree of the same structure.

    Host arrays are cut on the host. Arrays on devices are cut where they lie, under their own
    shardings and bit for bit: beside the two trees a device holds about twice 32 MB, or twice its
    share of a leaf all of whose axes are cut. All processes of a computation make the same call.
    `jax.ShapeDtypeStruct`s give `jax.ShapeDtypeStruct`s. Differentiable in `variables`.

    The variables of a branch that goes are absent: a dict loses their keys, and elsewhere, in a
    list or a state of modules, None stands in their place, which JAX does not count as a leaf.
    Where only some steps of a scan lose a branch, its stacked variables lose these rows. So does
    state, such as the cache of a layer that lost its attention.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`), bool[steps] those of some steps of a scan.
      rescale: multiply weights such that the resized network equals the masked one also where it
        divides by a width (the root of the head size, a mean over channels). Give the resized
        network `lambda v, x: model2.apply(v, x)` where True does not find it. Not for `narrow`,
        which keeps such constants whole.
      state: the name of the state that is given in the place of variables, as `state` of the trace
        has it: `jp.slice(graph, cache, keep, state="cache")`. Its batch and its length may be
        others than the traced ones.
      shardings: None keeps those of the leaves, and raises where a mesh does not divide a kept
        width. "fit" divides such an axis by the first of its mesh axes alone that do, or not at
        all.

    Raises:
      KeepError: a mask does not fit its group.
      TreeError: `variables` does not mirror the graph, or the mesh does not divide a kept width.
      ResizeError: no factors on the weights make the networks equal.

    Warns:
      UnreadWarning: the traced call does not read variables that might go with what is pruned.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> {name: leaf.shape for name, leaf in jp.slice(graph, v, keep).items()}
      {'a': (2, 3), 'b': (3, 3)}
    """
    resized = None if isinstance(rescale, bool) else rescale
    if not (resized is None or callable(resized)) or rescale is None:
        raise JaxpruneError(
            f"rescale must be True, False or the resized network, got {kind_of(rescale)}.\n"
            "Fix: rescale=lambda v, x: model2.apply(v, x)."
        )
    if state is not None and rescale is not False:
        raise JaxpruneError("rescale is of variables, not of state.\nFix: leave rescale out.")
    fit = choice.check_choice(shardings)
    small = sliced(graph, variables, keep, state=state, fit=fit)
    if graph.unread and state is None:
        channels = without_branches.split(graph, keep).channels
        unread_variables.warn(graph, channels, "jp.slice", paths.flatten(variables)[0])
    if rescale is False:
        return small
    return rescaling.rescale(graph, small, keep, resized)
