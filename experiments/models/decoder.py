"""A small decoder of bytes: pre-norm, grouped queries, rotary positions and a gated MLP."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as Spec

DIVIDED = MappingProxyType(
    {
        "/embedding": Spec(None, "model"),
        **{f"/{name}/kernel": Spec(None, "model", None) for name in ("query", "key", "value")},
        "/out/kernel": Spec("model", None, None),
        **{f"/{name}/kernel": Spec(None, "model") for name in ("gate", "up", "head")},
        "/down/kernel": Spec("model", None),
    }
)
"""By heads and by hidden units, so that a layer adds up twice over the devices.

Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""


def rotated(x: jax.Array) -> jax.Array:
    """Returns [batch, time, heads, size] with its halves turned by the position.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / 10_000 ** (jnp.arange(half) / half)[None]
    cos, sin = (f(angle)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Layer(nn.Module):
    """Attention and a gated MLP, each behind an RMSNorm, on a residual stream."""

    heads: int
    shared: int
    size: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the stream, f32[batch, time, width]."""
        y = nn.RMSNorm()(x)
        query, key, value = (
            nn.DenseGeneral((heads, self.size), use_bias=False, name=name)(y)
            for name, heads in (("query", self.heads), ("key", self.shared), ("value", self.shared))
        )
        y = jax.nn.dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        x = x + nn.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="out")(y)
        y = nn.RMSNorm()(x)
        gate = nn.silu(nn.Dense(self.hidden, use_bias=False, name="gate")(y))
        y = gate * nn.Dense(self.hidden, use_bias=False, name="up")(y)
        return x + nn.Dense(x.shape[-1], use_bias=False, name="down")(y)


class Decoder(nn.Module):
    """Bytes to the logits of the next one.

    Attributes:
      widths: hidden units of the MLP of each layer; as many layers as there are.
      stream: channels of the residual stream.
      heads: of the queries, in each layer.
      shared: heads of keys and values, each read by `heads / shared` of the queries.
      size: of a head; even.
      classes: number of logits, and of symbols.
    """

    widths: tuple[int, ...] = (128, 128, 128, 128)
    stream: int = 64
    heads: int = 8
    shared: int = 4
    size: int = 8
    classes: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, time, classes], of symbols [batch, time] in any type.

        It is the same in training.
        """
        del train
        x = nn.Embed(self.classes, self.stream)(x.astype(jnp.int32))
        for i, hidden in enumerate(self.widths):
            x = Layer(self.heads, self.shared, self.size, hidden, name=f"layer_{i}")(x)
        return nn.Dense(self.classes, use_bias=False, name="head")(nn.RMSNorm()(x))
