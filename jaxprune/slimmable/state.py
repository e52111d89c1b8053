"""The variables of a slimmable network: what all widths share, and what each has for itself."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments import paths
from jaxprune.arguments.checks import kind_of
from jaxprune.cutting import transforms
from jaxprune.errors import KeepError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.batch_norms import norms_in
from jaxprune.inspecting.parameters import parameters
from jaxprune.keep import check
from jaxprune.keep.check import Keep, check_keep
from jaxprune.slimmable.checks import named_keeps


class Split(NamedTuple):
    """Variables in parts, a pytree. Trees mirror the variables; a leaf that is elsewhere is None.

    shared: at full size, sliced for each width.
    private: {name of a width: its own leaves, at its size}; empty where no width has any.
    """

    shared: Any
    private: dict[Any, Any]


def switchable(variables: Any, graph: ChannelGraph | None = None) -> list[str]:
    """Returns the paths of all of BatchNorm: each width of an S-Net has its own.

    Source: Yu et al., "Slimmable Neural Networks", ICLR 2019.
    """
    norms = norms_in(variables, graph).values()
    return [path for norm in norms for path in norm if path is not None]


def statistics(variables: Any, graph: ChannelGraph | None = None) -> list[str]:
    """Returns the paths of BatchNorm's mean and variance: all that is private in a US-Net.

    Source: Yu and Huang, "Universally Slimmable Networks", ICCV 2019.
    """
    norms = norms_in(variables, graph).values()
    return [path for norm in norms for path in (norm.mean, norm.var) if path is not None]


def split(
    graph: ChannelGraph,
    variables: Any,
    widths: Mapping[Any, Keep],
    *,
    private: Iterable[str] | None = None,
) -> tuple[Split, Split]:
    """Returns (params, rest): what is trained, and what is not.

    Trained is what lies under `params`, or where there is no such collection every parameter (see
    `inspecting.parameters`) that is not an integer. `rest.shared` keeps the statistics of the
    traced network for widths that have none of their own: they serve in train mode, which does not
    read them.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables of the whole network, arrays or shapes.
      widths: {name: keep} of those that get leaves of their own.
      private: patterns of variable paths, which of them each width has for itself: by default
        `switchable(variables)`, an S-Net; `statistics(variables)` for a US-Net, which lists only
        the widths that it keeps statistics of; () shares all, which fails in eval mode as the
        S-Net paper shows. All of them start as the slices of `variables`.

    Raises:
      KeepError: a keep does not fit the graph, names cannot be sorted, or there is no width.
      TreeError: `variables` does not mirror the graph.
      PatternError: a pattern matches nothing.
    """
    widths = named_keeps(widths, graph)
    if not widths:
        raise KeepError("no widths.\nFix: widths={w: prefix(graph, w) for w in (1.0, 0.5)}.")
    check_names(widths)
    leaves, _ = paths.flatten(variables)
    transforms.check_tree(graph, leaves, {})
    apart = switchable(variables, graph) if private is None else private
    apart = paths.require(apart, leaves, what="private pattern")
    trained = _trained(graph)

    def part(chosen: set[str], hidden: set[str]) -> Split:
        mine = apart & chosen
        cut = {n: transforms.sliced(graph, only(variables, mine), k) for n, k in widths.items()}
        fresh = jax.tree.map(_copied, cut) if mine else {}
        return Split(shared=only(variables, chosen - hidden), private=fresh)

    return part(trained, apart), part(leaves.keys() - trained, set())


def variables(
    graph: ChannelGraph, params: Split, rest: Split, name: Hashable, keep: Keep
) -> dict[str, Any]:
    """Returns the variables of one width, as `jp.slice` gives them.

    A width without statistics of its own gets those of `rest.shared`: `calibrate` it before eval.

    Raises:
      KeepError: `params` has private leaves, but none for this width.
      TreeError: the private leaves are not those of this keep.
    """
    keep = check_keep(graph, keep)
    check_splits(params, rest)
    check_private(params, name)
    shared = [transforms.sliced(graph, part.shared, keep) for part in (params, rest)]
    tree = combine(*private_trees(params, rest, name), *shared)
    transforms.check_tree(graph, paths.flatten(tree)[0], check.widths(graph, keep))
    return tree


def private_trees(params: Split, rest: Split, name: Hashable) -> list[Any]:
    """Returns the private trees of a width, as many as it has."""
    return [part.private[name] for part in (params, rest) if is_named(part, name)]


def check_private(params: Split, name: Hashable) -> None:
    """Raises KeepError if other widths have trained leaves of their own, and this one none."""
    if params.private and not is_named(params, name):
        raise KeepError(
            f"width {name!r} has no trained leaves of its own; those that have are "
            f"{list(params.private)}.\nFix: name it in split(graph, variables, widths), or let all "
            "widths share scale and bias with private=statistics(variables)."
        )


def check_splits(*parts: Any) -> None:
    """Raises TreeError unless these are parts of variables, such as `split` gives."""
    for part in parts:
        if not isinstance(part, Split) or not isinstance(part.private, Mapping):
            raise TreeError(
                f"expected a part of what split returned, got {kind_of(part)}.\n"
                "Fix: params, rest = split(graph, variables, widths)."
            )


def is_named(part: Split, name: Any) -> bool:
    """True if a width has leaves of its own."""
    return isinstance(name, Hashable) and name in part.private


def check_names(widths: Mapping[Any, Keep]) -> None:
    """Raises KeepError unless the names can be keys of one pytree, which sorts them."""
    try:
        sorted(widths)
    except TypeError:
        raise KeepError(
            f"the names {list(widths)} have no order, which a pytree needs.\nFix: numbers alone, "
            "or strings alone."
        ) from None


def combine(*trees: Any) -> Any:
    """Returns the tree with, at every place, the first leaf that is there."""

    def first(*leaves: Any) -> Any:
        return next((leaf for leaf in leaves if leaf is not None), None)

    return jax.tree.map(first, *trees, is_leaf=lambda leaf: leaf is None)


def only(tree: Any, wanted: Iterable[str]) -> Any:
    """Returns the tree with None in place of every leaf whose path is not `wanted`."""
    leaves, treedef = paths.flatten(tree)
    wanted = set(wanted)
    return jax.tree.unflatten(treedef, [x if p in wanted else None for p, x in leaves.items()])


def updated(rest: Split, name: Hashable, updates: Any, spread: Callable[[Any, Any], Any]) -> Split:
    """Returns `rest` after one pass at a width, whose private and whose shared leaves are replaced.

    What is private elsewhere, but not for this width, is dropped: a width of a US-Net that keeps no
    statistics.

    Args:
      rest: what is not trained.
      name: the width.
      updates: the leaves that the pass wrote, at the size of the width.
      spread: (leaves of the width, full leaves) -> the full leaves with the others inside.
    """
    new, shared = paths.flatten(updates)[0], paths.flatten(rest.shared)[0]
    if unknown := [path for path in new if path not in shared]:
        raise TreeError(
            f"the network updates {unknown[:5]}, which are not among {list(shared)[:5]}, the "
            "variables that are not trained.\nFix: let the network return (outputs, updates), "
            "with updates as in mutable=['batch_stats']."
        )
    somewhere = {path for tree in rest.private.values() for path in paths.flatten(tree)[0]}
    private = dict(rest.private)
    if name in private:
        private[name] = _replace(private[name], new)
    common = {path: leaf for path, leaf in new.items() if path not in somewhere}
    changed = spread(common, {path: shared[path] for path in common})
    return Split(shared=_replace(rest.shared, changed), private=private)


def _replace(tree: Any, new: Mapping[str, Any]) -> Any:
    leaves, treedef = paths.flatten(tree)
    return jax.tree.unflatten(treedef, [new.get(path, leaf) for path, leaf in leaves.items()])


def _trained(graph: ChannelGraph) -> set[str]:
    """The parameters, without integers where no collection names them: these have no gradient."""
    dtypes = {path: graph.variables[path].dtype for path in parameters(graph)}
    return {
        path
        for path, dtype in dtypes.items()
        if path.startswith("params/") or jnp.issubdtype(dtype, jnp.inexact)
    }


def _copied(leaf: Any) -> Any:
    """An array of its own, so that the whole state can be donated."""
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.copy()
