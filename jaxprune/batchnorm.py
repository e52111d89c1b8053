"""BatchNorm layers of a variable tree, found by structure and never by the layer's name."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax

from jaxprune._arguments import check_pytree
from jaxprune.errors import TreeError
from jaxprune.paths import flatten

_WHOLE = "pass the whole variables, {'params': ..., 'batch_stats': ...}."


class BatchNorm(NamedTuple):
    """Paths of one BatchNorm's leaves; `scale` and `bias` are None where the layer has none."""

    scale: str | None
    bias: str | None
    mean: str
    var: str


def batch_norms(variables_or_paths: Any) -> dict[str, BatchNorm]:
    """Returns {module path: BatchNorm}, in tree order.

    A BatchNorm is a module with a running `mean` and `var`: in the collection `batch_stats` of a
    Linen model (its scale and bias are then in `params`), beside scale and bias in an NNX state.

    Args:
      variables_or_paths: a tree of variables, or the paths of its leaves.

    >>> tree = {"params": {"norm": {"scale": 1.0}}, "batch_stats": {"norm": {"mean": 0, "var": 1}}}
    >>> batch_norms(tree)["norm"].scale
    'params/norm/scale'
    """
    paths = dict.fromkeys(_paths(variables_or_paths))  # an ordered set
    found = {}
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
        found[module] = BatchNorm(
            scale=scale if scale in paths else None,
            bias=bias if bias in paths else None,
            mean=path,
            var=var,
        )
    return found


def scale_mask(variables: Any) -> Any:
    """Returns a tree of bools like `variables["params"]`: True on the scale of every BatchNorm.

    Args:
      variables: the whole variables, running statistics included (they mark a BatchNorm). Where
        there is no `params`, as in an NNX state, the result mirrors the whole tree.

    Raises:
      TreeError: no BatchNorm of `variables` has a scale.
    """
    check_pytree(variables, "variables", _WHOLE)
    linen = isinstance(variables, Mapping) and "params" in variables
    scales = {norm.scale for norm in batch_norms(variables).values()} - {None}
    if not scales:
        raise TreeError(
            "no BatchNorm with a scale among the variables: no module has a running mean and var "
            "and a scale.\n"
            "Fix: pass the whole variables, {'params': ..., 'batch_stats': ...}, of a model whose "
            "BatchNorm layers have use_scale=True."
        )
    names, treedef = flatten(variables["params"] if linen else variables)
    prefix = "params/" if linen else ""
    return jax.tree.unflatten(treedef, [prefix + name in scales for name in names])


def _paths(variables_or_paths: Any) -> Iterable[str]:
    named = isinstance(variables_or_paths, Sequence | Set)
    collection = named and not isinstance(variables_or_paths, str)
    if collection and all(isinstance(path, str) for path in variables_or_paths):
        return variables_or_paths
    check_pytree(variables_or_paths, "variables", _WHOLE)
    return flatten(variables_or_paths)[0]


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))
