"""What the configurations of Keras layers say of their sizes, at the kept widths."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxprune.graph import ChannelGraph, Variable
from jaxprune.keep.kept import Kept
from jaxprune.keras.library import keras
from jaxprune.linen.attributes import View
from jaxprune.program import traced_spaces
from jaxprune.program.interpret import every_op

Config = Mapping[str, Any]


class Sizes:
    """The sizes of the variables of one layer, and of what it computes, at some widths."""

    def __init__(self, view: View, path: str):
        self.view = view
        self.path = path

    def __call__(self, name: str) -> tuple[int, ...]:
        """The kept shape of the variable `name`, which may be one of a layer inside."""
        return self.view.kept.shape(self.variable(name))

    def variable(self, name: str) -> Variable:
        """The variable `name` of the layer.

        Raises:
          LookupError: the layer has none, or several.
        """
        key = f"{self.path}/{name}" if self.path else name
        if (variable := self.view.graph.variables.get(key)) is not None:
            return variable
        (variable,) = _inside(self.view, self.path, name)
        return variable

    def groups(self, name: str, default: int) -> int:
        """The feature_group_count of the convolution that a kernel enters."""
        return self.view.groups.get(self.variable(name).path, default)

    def results(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yields the full and kept shapes of what the layer computes."""
        for op in every_op(self.view.graph.walk):
            if f"/{op.place}".endswith(f"/{self.path}"):
                for axes in op.outs:
                    yield tuple(a.size for a in axes), tuple(map(self.view.kept.size, axes))


def _inside(view: View, path: str, name: str) -> list[Variable]:
    variables = [v for p, v in view.graph.variables.items() if f"/{p}".endswith(f"/{name}")]
    inside = [v for v in variables if v.path.startswith(f"{path}/")]
    if len(inside) != 1:
        raise LookupError(name)
    return inside


def attributes(
    graph: ChannelGraph, kept: Kept, layers: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the path of a layer, and what its configuration says at the kept widths.

    A value is only changed if the layer's entry of the table explains the present one.
    """
    full, small = View(graph, Kept({})), View(graph, kept)
    table = {getattr(keras().layers, name, ()): find for name, find in SIZES.items()}
    for path, layer in layers.items():
        for kind, find in table.items():
            if not isinstance(layer, kind):
                continue
            try:
                config = layer.get_config()
                before = find(config, Sizes(full, path))
                after = find(config, Sizes(small, path))
            except (LookupError, NotImplementedError):  # another layer under the name of the class
                continue
            changed = {
                name: value
                for name, value in after.items()
                if _plain(config.get(name)) == _plain(before[name]) != _plain(value)
            }
            if changed:
                yield path, changed


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _dense(_config: Config, sizes: Sizes) -> dict[str, Any]:
    return {"units": sizes("kernel")[-1]}


def _einsum_dense(config: Config, sizes: Sizes) -> dict[str, Any]:
    operands, result = config["equation"].replace("...", "").split("->")
    known = dict(zip(operands.split(",")[1], sizes("kernel"), strict=True))
    given = config["output_shape"]
    shape = (given,) if isinstance(given, int) else tuple(given)
    labels = result[-len(shape) :].rjust(len(shape))
    sized = tuple(
        known.get(label, size) if isinstance(size, int) else size
        for label, size in zip(labels, shape, strict=True)
    )
    return {"output_shape": sized[0] if isinstance(given, int) else sized}


def _embedding(_config: Config, sizes: Sizes) -> dict[str, Any]:
    number, width = sizes("embeddings")
    return {"input_dim": number, "output_dim": width}


def _convolution(config: Config, sizes: Sizes) -> dict[str, Any]:
    groups = sizes.groups("kernel", config["groups"])
    return {"filters": sizes("kernel")[-1], "groups": groups}


def _transposed(_config: Config, sizes: Sizes) -> dict[str, Any]:
    return {"filters": sizes("kernel")[-2]}


def _depthwise(_config: Config, sizes: Sizes) -> dict[str, Any]:
    return {"depth_multiplier": sizes("kernel")[-1]}


def _separable(_config: Config, sizes: Sizes) -> dict[str, Any]:
    multiplier = sizes("depthwise_kernel")[-1]
    return {"filters": sizes("pointwise_kernel")[-1], "depth_multiplier": multiplier}


def _recurrent(_config: Config, sizes: Sizes) -> dict[str, Any]:
    return {"units": sizes("recurrent_kernel")[0]}


def _recurrent_convolution(_config: Config, sizes: Sizes) -> dict[str, Any]:
    return {"filters": sizes("recurrent_kernel")[-2]}


def _group_norm(config: Config, sizes: Sizes) -> dict[str, Any]:
    vector = sizes.variable("gamma" if config["scale"] else "beta")
    groups = config["groups"]
    if vector.shape[0] == groups:  # a group of one channel each
        return {"groups": sizes.view.kept.size(vector.axes[0])}
    pair = traced_spaces.factored(vector.axes[0], vector.shape[0] // groups)
    return {} if pair is None else {"groups": sizes.view.kept.size(pair[0])}


def _attention(config: Config, sizes: Sizes) -> dict[str, Any]:
    inputs, heads, size = sizes("query/kernel")
    width = sizes("attention_output/kernel")[-1]
    follows = config["output_shape"] is None and width == inputs
    return {
        "num_heads": heads,
        "key_dim": size,
        "value_dim": sizes("value/kernel")[-1],
        "output_shape": None if follows else (width,),
    }


def _grouped_attention(_config: Config, sizes: Sizes) -> dict[str, Any]:
    _, heads, size = sizes("query/kernel")
    return {
        "num_query_heads": heads,
        "num_key_value_heads": sizes("key/kernel")[-2],
        "head_dim": size,
    }


def _reshape(config: Config, sizes: Sizes) -> dict[str, Any]:
    target = tuple(config["target_shape"])
    for full, kept in sizes.results():
        if len(full) == len(target) + 1 and all(
            size in (-1, length) for size, length in zip(target, full[1:], strict=True)
        ):
            shape = tuple(-1 if a == -1 else b for a, b in zip(target, kept[1:], strict=True))
            return {"target_shape": shape}
    return {}


# Name of a layer class -> (configuration, sizes) -> {key of the configuration: value}.
SIZES: dict[str, Callable[[Config, Sizes], dict[str, Any]]] = {
    "Conv1D": _convolution,
    "Conv1DTranspose": _transposed,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    "Conv3D": _convolution,
    "Conv3DTranspose": _transposed,
    "ConvLSTM1D": _recurrent_convolution,
    "ConvLSTM2D": _recurrent_convolution,
    "ConvLSTM3D": _recurrent_convolution,
    "Dense": _dense,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "EinsumDense": _einsum_dense,
    "Embedding": _embedding,
    "GRU": _recurrent,
    "GRUCell": _recurrent,
    "GroupNormalization": _group_norm,
    "GroupQueryAttention": _grouped_attention,
    "LSTM": _recurrent,
    "LSTMCell": _recurrent,
    "MultiHeadAttention": _attention,
    "Reshape": _reshape,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "SimpleRNN": _recurrent,
    "SimpleRNNCell": _recurrent,
}
