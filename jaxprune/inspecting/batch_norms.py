"""The BatchNorm layers of a network, and where their leaves are."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from jaxprune.arguments.checks import check_pytree
from jaxprune.arguments.paths import flatten
from jaxprune.errors import TreeError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.normalization import normalizations

_WHOLE = "pass the whole variables, {'params': ..., 'batch_stats': ...}."


class BatchNorm(NamedTuple):
    """Paths of one BatchNorm's leaves.

    `scale` and `bias` are None where the layer has none, `mean` and `var` where the traced call
    tells of none: in train mode, if it does not return them.
    """

    scale: str | None
    bias: str | None
    mean: str | None
    var: str | None


def batch_norms(of: Any) -> dict[str, BatchNorm]:
    """Returns {module path: BatchNorm}, in tree order.

    Of a tree, a BatchNorm is a module with a running `mean` and `var`, the names that Flax gives:
    in the collection `batch_stats` of a Linen model (its scale and bias are then in `params`),
    beside scale and bias in an NNX state.

    Of a graph, it is besides these whatever computes one, under any names (Haiku, Keras, Equinox,
    by hand). It goes by the path of its scale without the last name;
    where several would have one path, by the whole path of the scale.

    Args:
      of: a graph, a tree of variables, or the paths of its leaves.

    >>> tree = {"params": {"norm": {"scale": 1.0}}, "batch_stats": {"norm": {"mean": 0, "var": 1}}}
    >>> batch_norms(tree)["norm"].scale
    'params/norm/scale'
    """
    return dict(_of_graph(of)) if isinstance(of, ChannelGraph) else _of_paths(_paths(of))


def norms_in(variables: Any, graph: ChannelGraph | None = None) -> dict[str, BatchNorm]:
    """Returns the BatchNorms of the graph if there is one, else those that the names tell."""
    if graph is not None:
        check_graph(graph)
    return batch_norms(variables if graph is None else graph)


def _of_paths(names: Iterable[str]) -> dict[str, BatchNorm]:
    paths = dict.fromkeys(names)  # an ordered set
    norms = {}
    for path in paths:
        stats, _, leaf = path.rpartition("/")
        var = _join(stats, "var")
        if leaf != "mean" or var not in paths or stats.split("/")[0] == "params":
            continue
        collection, _, rest = stats.partition("/")
        linen = collection == "batch_stats"
        module = rest if linen else stats
        owner = _join("params", module) if linen else module
        scale, bias = _join(owner, "scale"), _join(owner, "bias")
        norms[module] = BatchNorm(
            scale=scale if scale in paths else None,
            bias=bias if bias in paths else None,
            mean=path,
            var=var,
        )
    return norms


@once
def _of_graph(graph: ChannelGraph) -> Mapping[str, BatchNorm]:
    paths = list(graph.variables)
    norms = _of_paths(paths)
    named = {path: module for module, norm in norms.items() for path in norm if path is not None}
    computed = [
        BatchNorm(*(None if place is None else paths[place] for place in item))
        for item in normalizations(graph)
    ]
    short = Counter(_first(norm).rpartition("/")[0] for norm in computed)
    for norm in computed:
        first = _first(norm)
        module = first.rpartition("/")[0]
        if short[module] > 1:
            module = first
        module = next((named[path] for path in norm if path in named), module)
        before = norms.get(module, norm)
        norms[module] = BatchNorm(
            *(old if new is None else new for new, old in zip(norm, before, strict=True))
        )
    order = {path: place for place, path in enumerate(paths)}
    places = {name: min(order[path] for path in norm if path) for name, norm in norms.items()}
    return MappingProxyType({name: norms[name] for name in sorted(norms, key=places.__getitem__)})


def _first(norm: BatchNorm) -> str:
    """The path by which a BatchNorm goes, as Flax names modules: without the collection."""
    return next(path for path in norm if path is not None).removeprefix("params/")


def scale_mask(variables: Any, graph: ChannelGraph | None = None) -> Any:
    """Returns a tree of bools like `variables["params"]`: True on the scale of every BatchNorm.

    Args:
      variables: the whole variables, running statistics included (they mark a BatchNorm). Where
        there is no `params`, as in an NNX state, the result mirrors the whole tree.
      graph: what `jaxprune.trace` returned: finds BatchNorm under names that are not Flax's too.

    Raises:
      TreeError: no BatchNorm of `variables` has a scale.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> def fn(v, x):
      ...     p, past = v["params"], v["batch_stats"]["norm"]
      ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
      ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> jp.scale_mask(v)["norm"]
      {'bias': False, 'scale': True}
    """
    check_pytree(variables, "variables", _WHOLE)
    linen = isinstance(variables, Mapping) and "params" in variables
    norms = norms_in(variables, graph).values()
    scales = {norm.scale for norm in norms} - {None}
    names, treedef = flatten(variables["params"] if linen else variables)
    prefix = "params/" if linen else ""
    marks = [prefix + name in scales for name in names]
    if not any(marks):
        raise TreeError(
            "no BatchNorm with a scale among the variables: no module has a running mean and var "
            "and a scale.\n"
            "Fix: pass the whole variables, {'params': ..., 'batch_stats': ...}, of a model whose "
            "BatchNorm layers have use_scale=True; scale_mask(variables, graph) finds BatchNorm "
            "under other names by what it computes."
        )
    return jax.tree.unflatten(treedef, marks)


def _paths(variables_or_paths: Any) -> Iterable[str]:
    named = isinstance(variables_or_paths, Sequence | Set)
    collection = named and not isinstance(variables_or_paths, str)
    if collection and all(isinstance(path, str) for path in variables_or_paths):
        return variables_or_paths
    check_pytree(variables_or_paths, "variables", _WHOLE)
    return flatten(variables_or_paths)[0]


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))
