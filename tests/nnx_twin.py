"""The NNX network of a tuple of blocks, with the weights and the names of the Linen one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from blocks import (
    Activation,
    Block,
    Blocks,
    Concatenate,
    Conv,
    Dense,
    Depthwise,
    Flatten,
    GlobalPool,
    Grouped,
    GroupNorm,
    LayerNorm,
    Norm,
    Parallel,
    Pool,
    Residual,
    RMSNorm,
    Shared,
    Shuffle,
    SpatialGate,
    Split,
    SqueezeExcite,
    SwiGLU,
    UNet,
)
from blocks_attention import Attention
from networks import Network


class Twin(nnx.Module):
    """The network of `spec` in NNX: its layers are attributes of the names that Linen gives."""

    head: nnx.Linear

    def __init__(self, spec: Blocks, variables: Any, x: Any):
        self.spec = spec
        for name, layer in linen_layers(spec, variables, x).items():
            setattr(self, name, nnx_layer(layer, variables["params"][name]))
        leaves = {name: dict(leaves) for name, leaves in variables["params"].items()}
        for name, statistics in variables.get("batch_stats", {}).items():
            leaves[name] |= statistics
        nnx.update(self, leaves)

    def __call__(self, x: Any) -> Any:
        """Returns the logits."""
        return self.head(_Calls(self).blocks(self.spec, x))


class _Calls:
    """One run of a network, which takes the layers of a kind in order."""

    def __init__(self, model: Twin):
        self.model = model
        self.counts: Counter[str] = Counter()

    def next(self, kind: str) -> Any:
        name = f"{kind}_{self.counts[kind]}"
        self.counts[kind] += 1
        return getattr(self.model, name)

    def blocks(self, spec: Blocks, x: Any) -> Any:
        for block in spec:
            x = RULES[type(block)](self, block, x)
        return x


def linen_layers(spec: Blocks, variables: Any, x: Any) -> dict[str, nn.Module]:
    """Returns the layers of the Linen network by name."""
    found: dict[str, nn.Module] = {}

    def record(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        if len(context.module.path) == 1:
            found[context.module.name] = context.module.clone(parent=None)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(Network(spec).apply, variables, x)
    return found


def nnx_layer(layer: Any, leaves: Any) -> nnx.Module:
    """Returns the NNX layer for a Linen layer with the variables `leaves`; its values are unset."""
    size = jax.tree.leaves(leaves)[0].shape[-1]

    def build() -> nnx.Module:
        rngs = nnx.Rngs(0)
        match layer:
            case nn.Conv():
                groups, window = layer.feature_group_count, layer.kernel_size
                inputs = leaves["kernel"].shape[-2] * groups
                options = {"feature_group_count": groups, "use_bias": layer.use_bias}
                return nnx.Conv(inputs, size, window, **options, rngs=rngs)
            case nn.Dense():
                return nnx.Linear(leaves["kernel"].shape[0], size, rngs=rngs)
            case nn.BatchNorm():
                return nnx.BatchNorm(size, momentum=layer.momentum, rngs=rngs)
            case nn.GroupNorm():
                return nnx.GroupNorm(size, num_groups=layer.num_groups, rngs=rngs)
            case nn.LayerNorm():
                return nnx.LayerNorm(size, rngs=rngs)
            case nn.RMSNorm():
                return nnx.RMSNorm(size, rngs=rngs)
            case nn.MultiHeadDotProductAttention():
                inputs, heads, dim = leaves["query"]["kernel"].shape
                options = {"out_features": layer.out_features, "decode": False}
                return nnx.MultiHeadAttention(heads, inputs, heads * dim, **options, rngs=rngs)
        raise TypeError(layer)

    return nnx.eval_shape(build)


def _call(kind: str) -> Callable[[_Calls, Block, Any], Any]:
    """Returns the rule of a block that is one layer."""
    return lambda calls, _, x: calls.next(kind)(x)


def _plain(_: _Calls, block: Block, x: Any) -> Any:
    return block(x, False)


def _residual(calls: _Calls, block: Residual, x: Any) -> Any:
    shortcut = x if block.project is None else calls.next("Conv")(x)
    return shortcut + calls.blocks(block.body, x)


def _concatenate(calls: _Calls, block: Concatenate, x: Any) -> Any:
    return jnp.concatenate([x, calls.blocks(block.body, x)], axis=-1)


def _u_net(calls: _Calls, block: UNet, x: Any) -> Any:
    small = calls.blocks(block.body, nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME"))
    large = jax.image.resize(small, (*x.shape[:-1], small.shape[-1]), "nearest")
    return jnp.concatenate([x, large], axis=-1)


def _parallel(calls: _Calls, _: Parallel, x: Any) -> Any:
    return jnp.concatenate([calls.next("Conv")(x), calls.next("Conv")(x)], axis=-1)


def _split(calls: _Calls, block: Split, x: Any) -> Any:
    left, right = jnp.split(x, 2, axis=-1)
    left = calls.blocks(block.left, left)
    return jnp.concatenate([left, calls.blocks(block.right, right)], axis=-1)


def _squeeze_excite(calls: _Calls, _: SqueezeExcite, x: Any) -> Any:
    gate = nnx.relu(calls.next("Dense")(x.mean(axis=(1, 2), keepdims=True)))
    return x * nnx.sigmoid(calls.next("Dense")(gate))


def _spatial_gate(calls: _Calls, block: SpatialGate, x: Any) -> Any:
    return x * nnx.sigmoid(calls.next("Conv")(block.reduce(x, axis=-1, keepdims=True)))


def _swiglu(calls: _Calls, _: SwiGLU, x: Any) -> Any:
    gate, value = calls.next("Dense")(x), calls.next("Dense")(x)
    return calls.next("Dense")(nnx.silu(gate) * value)


def _shared(calls: _Calls, block: Shared, x: Any) -> Any:
    layer = calls.next("Dense" if block.dense else "Conv")
    return layer(nnx.relu(layer(x)))


def _attention(calls: _Calls, _: Attention, x: Any) -> Any:
    y = calls.next("MultiHeadDotProductAttention")(x.reshape(x.shape[0], -1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], -1)


RULES: dict[type, Callable[[_Calls, Any, Any], Any]] = {
    **dict.fromkeys((Conv, Depthwise, Grouped), _call("Conv")),
    **dict.fromkeys((Activation, Flatten, GlobalPool, Pool, Shuffle), _plain),
    Dense: _call("Dense"),
    Norm: _call("BatchNorm"),
    LayerNorm: _call("LayerNorm"),
    RMSNorm: _call("RMSNorm"),
    GroupNorm: _call("GroupNorm"),
    Residual: _residual,
    Concatenate: _concatenate,
    UNet: _u_net,
    Parallel: _parallel,
    Split: _split,
    SqueezeExcite: _squeeze_excite,
    SpatialGate: _spatial_gate,
    SwiGLU: _swiglu,
    Shared: _shared,
    Attention: _attention,
}
"""Blocks that a twin has: all but attention written by hand and stacks."""
