"""What the shapes of variables cannot say: the attributes of NNX layers at the kept widths."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import nnx
from flax.core import FrozenDict

from jaxprune.graph import ChannelGraph, Variable
from jaxprune.keep.kept import Kept
from jaxprune.linen.attributes import View
from jaxprune.program import traced_spaces
from jaxprune.program.spaces import Space

Attributes = dict[str, Any]


class Sizes:
    """The sizes of the variables of a model at some widths.

    `places`: id of an `nnx.Variable` -> its path; `stacked`: where the layer axis of stacked layers
    stands, which no layer counts to its own axes.
    """

    def __init__(self, view: View, places: Mapping[int, str], stacked: int):
        self.view = view
        self.places = places
        self.stacked = stacked

    def __call__(self, variable: Any, rank: int) -> tuple[int, ...]:
        """The sizes of the `rank` axes of a variable that do not count layers."""
        return tuple(map(self.view.kept.size, self.axes(variable, rank)))

    def axes(self, variable: Any, rank: int) -> tuple[Space, ...]:
        """The spaces of the `rank` axes of a variable that do not count layers."""
        spaces = self._find(variable).axes
        start = min(self.stacked, rank)
        return spaces[:start] + spaces[start + len(spaces) - rank :]

    def groups(self, variable: Any, default: int) -> int:
        """The feature_group_count of the convolution that a kernel enters."""
        return self.view.groups.get(self._find(variable).path, default)

    def _find(self, variable: Any) -> Variable:
        return self.view.graph.variables[self.places[id(variable)]]


def attributes(
    graph: ChannelGraph, kept: Kept, modules: Mapping[str, nnx.Module], places: Mapping[int, str]
) -> Iterator[tuple[str, Attributes]]:
    """Yields the path of a module and its attributes at the kept widths, where they change.

    An attribute is only changed if its layer's entry of `ATTRIBUTES` explains its present value.
    """
    full, small = View(graph, Kept({})), View(graph, kept)
    for path, module in modules.items():
        for kind, find in ATTRIBUTES.items():
            if not isinstance(module, kind):
                continue
            try:
                stacked = _stacked(module, find, full, places)
                before = find(module, Sizes(full, places, stacked))
                after = find(module, Sizes(small, places, stacked))
            except (AttributeError, KeyError):  # a subclass without the variables of its layer
                continue
            explained = _explained(module, before)
            changed = {n: after[n] for n in explained if after[n] != before[n]}
            if changed:
                yield path, changed


def _stacked(module: Any, find: Any, full: View, places: Mapping[int, str]) -> int:
    """Where the layer axis stands: the first place that explains most attributes."""
    explained = [_explained(module, find(module, Sizes(full, places, axis))) for axis in range(4)]
    return max(range(4), key=lambda axis: len(explained[axis]))


def _explained(module: Any, expected: Attributes) -> list[str]:
    return [name for name, value in expected.items() if getattr(module, name, None) == value]


def _linear(module: nnx.Linear, sizes: Sizes) -> Attributes:
    inputs, outputs = sizes(module.kernel, 2)
    return {"in_features": inputs, "out_features": outputs}


def _linear_general(module: nnx.LinearGeneral, sizes: Sizes) -> Attributes:
    batch, inputs = len(module.batch_axis), len(module.in_features)
    shape = sizes(module.kernel, batch + inputs + len(module.out_features))
    return {
        "batch_axis": FrozenDict(zip(module.batch_axis, shape[:batch], strict=True)),
        "in_features": shape[batch : batch + inputs],
        "out_features": shape[batch + inputs :],
    }


def _einsum(module: nnx.Einsum, sizes: Sizes) -> Attributes:
    shapes: Attributes = {"kernel_shape": sizes(module.kernel, len(module.kernel_shape))}
    if module.bias is not None and module.bias_shape is not None:
        shapes["bias_shape"] = sizes(module.bias, len(module.bias_shape))
    return shapes


def _convolution(module: nnx.Conv, sizes: Sizes) -> Attributes:
    shape = sizes(module.kernel, len(module.kernel_shape))
    groups = sizes.groups(module.kernel, module.feature_group_count)
    return {
        "kernel_shape": shape,
        "in_features": shape[-2] * groups,
        "out_features": shape[-1],
        "feature_group_count": groups,
    }


def _transposed_convolution(module: nnx.ConvTranspose, sizes: Sizes) -> Attributes:
    shape = sizes(module.kernel, len(module.kernel_shape))
    names = ["in_features", "out_features"]
    if module.transpose_kernel:
        names.reverse()
    return {"kernel_shape": shape, **dict(zip(names, shape[-2:], strict=True))}


def _embedding(module: nnx.Embed, sizes: Sizes) -> Attributes:
    number, features = sizes(module.embedding, 2)
    return {"num_embeddings": number, "features": features}


def _normalization(module: Any, sizes: Sizes) -> Attributes:
    for name in ("mean", "scale", "bias"):
        if (vector := getattr(module, name, None)) is not None:
            return {"num_features": sizes(vector, 1)[0]}
    return {}


def _group_norm(module: nnx.GroupNorm, sizes: Sizes) -> Attributes:
    vector = module.bias if module.scale is None else module.scale
    if vector is None:
        return {}
    count = sizes.view.kept.size
    pair = traced_spaces.factored(sizes.axes(vector, 1)[0], module.group_size)
    if pair is None:  # a subclass that does not normalize by groups
        return {}
    return {"num_groups": count(pair[0]), "group_size": count(pair[1])}


def _attention(module: nnx.MultiHeadAttention, sizes: Sizes) -> Attributes:
    inputs, heads, size = sizes(module.query.kernel, 3)
    kv_inputs, kv_heads, _ = sizes(module.key.kernel, 3)
    return {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": size,
        "qkv_features": heads * size,
        "in_features": inputs,
        "in_kv_features": kv_inputs,
        "out_features": sizes(module.out.kernel, 3)[-1],
    }


def _lora(module: nnx.LoRA, sizes: Sizes) -> Attributes:
    return {
        "in_features": sizes(module.lora_a, 2)[0],
        "out_features": sizes(module.lora_b, 2)[1],
    }


def _cell(inputs: str, hidden: str) -> Callable[[Any, Sizes], Attributes]:
    """The sizes of a recurrent cell, from the kernels of its two named linear layers."""

    def of_cell(module: Any, sizes: Sizes) -> Attributes:
        return {
            "in_features": sizes(getattr(module, inputs).kernel, 2)[0],
            "hidden_features": sizes(getattr(module, hidden).kernel, 2)[0],
        }

    return of_cell


# Layer class -> (module, sizes) -> {attribute: value}.
ATTRIBUTES: dict[type, Callable[[Any, Sizes], Attributes]] = {
    nnx.BatchNorm: _normalization,
    nnx.Conv: _convolution,
    nnx.ConvTranspose: _transposed_convolution,
    nnx.Einsum: _einsum,
    nnx.Embed: _embedding,
    nnx.GRUCell: _cell("dense_i", "dense_h"),
    nnx.GroupNorm: _group_norm,
    nnx.InstanceNorm: _normalization,
    nnx.LSTMCell: _cell("ii", "hi"),
    nnx.LayerNorm: _normalization,
    nnx.Linear: _linear,
    nnx.LinearGeneral: _linear_general,
    nnx.LoRA: _lora,
    nnx.MultiHeadAttention: _attention,
    nnx.OptimizedLSTMCell: _cell("dense_i", "dense_h"),
    nnx.RMSNorm: _normalization,
    nnx.SimpleCell: _cell("dense_i", "dense_h"),
}
