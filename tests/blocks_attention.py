"""Self-attention over the pixels: Flax's layer, and two written by hand."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Self-attention over the pixels."""

    heads: int
    head_dim: int
    features: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        batch, height, width, channels = x.shape
        attend = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            qkv_features=self.heads * self.head_dim,
            out_features=self.features,
        )
        tokens = attend(x.reshape(batch, height * width, channels))
        return tokens.reshape(batch, height, width, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQuery:
    """Attention of `heads` query heads to `kv_heads` keys and values; multi-query if that is one.

    The numbers of heads are written down: this code cannot run with fewer. The keys and values are
    repeated for their queries, or met in a contraction that has an axis for them.
    """

    heads: int
    kv_heads: int
    head_dim: int
    features: int
    repeat: bool = False

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        query, key, value = (
            nn.Dense(heads * self.head_dim)(tokens).reshape(*tokens.shape[:2], heads, -1)
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )
        if self.repeat:
            key, value = (jnp.repeat(t, self.heads // self.kv_heads, axis=2) for t in (key, value))
            weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key))
            y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        else:
            repeats = self.heads // self.kv_heads
            query = query.reshape(*tokens.shape[:2], self.kv_heads, repeats, -1)
            weights = nn.softmax(jnp.einsum("bqhrd,bkhd->bhrqk", query, key))
            y = jnp.einsum("bhrqk,bkhd->bqhrd", weights, value)
        return nn.Dense(self.features)(y.reshape(batch, height, width, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedAttention:
    """Attention whose queries, keys and values come from one Dense layer.

    The number of heads is written down, and that the three are of one size.
    """

    heads: int
    head_dim: int
    features: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        fused = nn.Dense(3 * self.heads * self.head_dim)(tokens)
        query, key, value = (
            part.reshape(*tokens.shape[:2], self.heads, -1) for part in jnp.split(fused, 3, axis=-1)
        )
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.Dense(self.features)(y.reshape(batch, height, width, -1))
