"""What the shapes of parameters cannot say: the attributes of Linen layers at the kept widths."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn

from jaxprune.graph import ChannelGraph, Variable
from jaxprune.keep.kept import Kept
from jaxprune.program import traced_spaces
from jaxprune.program.interpret import every_op
from jaxprune.program.relate import Walk

Shape = tuple[int, ...]


class View:
    """What the graph says of the parameters of a module."""

    def __init__(self, graph: ChannelGraph, kept: Kept):
        self.graph = graph
        self.kept = kept
        self.groups = dict(_feature_groups(graph.walk, list(graph.variables), kept))

    def find(self, path: str, name: str) -> Variable | None:
        """The parameter `name` of the module at `path`."""
        key = f"{path}/{name}" if path else name
        variables = self.graph.variables
        return variables.get(f"params/{key}", variables.get(key))

    def shape(self, path: str, name: str) -> Shape | None:
        """The kept shape of a parameter."""
        variable = self.find(path, name)
        return None if variable is None else self.kept.shape(variable)


def _feature_groups(walk: Walk, names: list[str], kept: Kept) -> Iterator[tuple[str, int]]:
    """The kept feature_group_count of the convolution that every kernel enters."""
    for op in every_op(walk):
        if op.rule is not None and "feature_group_count" in op.params:
            groups = op.rule.params(op, kept.size)["feature_group_count"]
            yield from ((names[leaf], groups) for leaf in op.sources[1] or ())


def _convolution(module: Any, path: str, view: View) -> dict[str, Any]:
    kernel = view.find(path, "kernel")
    if kernel is None:
        return {}
    return {
        "features": view.kept.shape(kernel)[-1],
        "feature_group_count": view.groups.get(kernel.path, module.feature_group_count),
    }


def _dense_general(module: nn.DenseGeneral, path: str, view: View) -> dict[str, Any]:
    shape = view.shape(path, "kernel")
    if shape is None:
        return {}
    if isinstance(module.features, int):
        return {"features": shape[-1]}
    return {"features": shape[-len(module.features) :]}


def _features(name: str) -> Callable[[Any, str, View], dict[str, Any]]:
    def attributes(_module: Any, path: str, view: View) -> dict[str, Any]:
        shape = view.shape(path, name)
        return {} if shape is None else {"features": shape[-1]}

    return attributes


def _group_norm(module: nn.GroupNorm, path: str, view: View) -> dict[str, Any]:
    scale = view.find(path, "scale") or view.find(path, "bias")
    if scale is None:
        return {}
    size = module.group_size or scale.shape[0] // (module.num_groups or 1)
    if (
        pair := traced_spaces.factored(scale.axes[0], size)
    ) is None:  # no code of this module groups it
        return {}
    outer, inner = pair
    if module.num_groups is None:
        return {"group_size": view.kept.size(inner)}
    return {"num_groups": view.kept.size(outer)}


def _attention(_module: nn.MultiHeadDotProductAttention, path: str, view: View) -> dict[str, Any]:
    query = view.shape(f"{path}/query".lstrip("/"), "kernel")
    out = view.shape(f"{path}/out".lstrip("/"), "kernel")
    if query is None or out is None:
        return {}
    heads, size = query[-2:]
    return {"num_heads": heads, "qkv_features": heads * size, "out_features": out[-1]}


def _cell(gate: str) -> Callable[[Any, str, View], dict[str, Any]]:
    """The carry of a recurrent cell is as wide as what the kernel of `gate` makes of it."""

    def attributes(_module: Any, path: str, view: View) -> dict[str, Any]:
        shape = view.shape(f"{path}/{gate}".lstrip("/"), "kernel")
        return {} if shape is None else {"features": shape[-1]}

    return attributes


# Layer class -> (module, path, view) -> {attribute: value}.
ATTRIBUTES: dict[type, Callable[[Any, str, View], dict[str, Any]]] = {
    nn.Conv: _convolution,
    nn.ConvTranspose: _features("kernel"),
    nn.Dense: _features("kernel"),
    nn.DenseGeneral: _dense_general,
    nn.Embed: _features("embedding"),
    nn.GroupNorm: _group_norm,
    nn.MultiHeadDotProductAttention: _attention,
    nn.OptimizedLSTMCell: _cell("hf"),
    nn.LSTMCell: _cell("hf"),
    nn.GRUCell: _cell("hn"),
    nn.MGUCell: _cell("hn"),
    nn.SimpleCell: _cell("h"),
}
