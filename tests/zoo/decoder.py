"""Decoders and encoder-decoders of language models, whole and small.

The residual width, the MLP width, heads, query and key dims, and value dims are groups of their
own. Where the residual width is normalized, a mean over channels follows it in resized code.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.attention import OUTPUT, TOKENS, attend
from zoo.attention_positions import ids, rotate_half
from zoo.zoo import Network, linen


class RMSNorm(nn.Module):
    """A root mean square normalization, by hand."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (1, 1, x.shape[-1]))
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


class Gated(nn.Module):
    """SwiGLU or GEGLU, with two kernels or one."""

    hidden: int = 10
    fused: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.silu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.fused:
            gate, up = jnp.split(nn.Dense(2 * self.hidden, name="gate_up")(x), 2, axis=-1)
        else:
            gate, up = (nn.Dense(self.hidden, name=name)(x) for name in ("gate", "up"))
        return nn.Dense(x.shape[-1], use_bias=False, name="down")(self.activation(gate) * up)


class Llama(nn.Module):
    """A block of LLaMA: grouped-query attention with rotations, SwiGLU, tied embeddings."""

    blocks: int = 1
    width: int = 12
    heads: int = 4
    memories: int = 2
    hidden: int = 10
    qk: int = 10
    v: int = 6

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        embed = nn.Embed(11, self.width, name="embed")
        frequencies = self.variable(
            "tables", "frequencies", lambda: 100.0 ** -jnp.arange(0, 1, 0.2)
        )
        x = embed(tokens)
        angles = (jnp.arange(x.shape[1])[:, None] * frequencies.value[None])[None, :, None]
        for i in range(self.blocks):
            x = x + self.attention(RMSNorm(name=f"norm_{i}")(x), angles, f"block_{i}")
            x = x + Gated(self.hidden, name=f"mlp_{i}")(RMSNorm(name=f"mlp_norm_{i}")(x))
        return embed.attend(RMSNorm(name="norm")(x))

    def attention(self, x: jax.Array, angles: jax.Array, name: str) -> jax.Array:
        """Causal attention; every key head and value head serves several query heads."""
        dense = partial(nn.DenseGeneral, use_bias=False)
        query = dense((self.heads, self.qk), name=f"{name}_query")(x)
        key = dense((self.memories, self.qk), name=f"{name}_key")(x)
        value = dense((self.memories, self.v), name=f"{name}_value")(x)
        query, key = (rotate_half(y, jnp.cos(angles), jnp.sin(angles)) for y in (query, key))
        repeats = query.shape[2] // key.shape[2]
        key, value = (jnp.repeat(y, repeats, axis=2) for y in (key, value))
        bias = jnp.where(jnp.tri(x.shape[1], dtype=bool), 0.0, -1e30)[None, None]
        y = attend(query, key, value, bias=bias)
        return dense(x.shape[-1], axis=(-2, -1), name=f"{name}_out")(y)


class Mlp(nn.Module):
    """A residual MLP behind any normalization."""

    norm: Callable[[], nn.Module]
    mlp: Callable[[], nn.Module]
    width: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Dense(self.width, name="stem")(x)
        x = x + self.mlp()(self.norm()(x))
        return nn.Dense(3, name="head")(x)


class EncoderDecoder(nn.Module):
    """T5 in small: shared embeddings, learned biases of distances, cross-attention, no biases."""

    width: int = 12
    heads: int = 4
    qk: int = 5
    v: int = 5
    hidden: int = 10

    @nn.compact
    def __call__(self, source: jax.Array, target: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        embed = nn.Embed(11, self.width, name="embed")
        x = self.block(embed(source), None, "encoder", self.distances(source, "encoder"))
        memory = nn.RMSNorm(name="encoder_norm")(x)
        causal = jnp.where(jnp.tri(target.shape[1], dtype=bool), 0.0, -1e30)[None, None]
        bias = causal + self.distances(target, "decoder")
        y = self.block(embed(target), memory, "decoder", bias)
        return embed.attend(nn.RMSNorm(name="decoder_norm")(y))

    def distances(self, tokens: jax.Array, name: str) -> jax.Array:
        """Returns the bias [1, heads, length, length] of every distance."""
        place = jnp.arange(tokens.shape[1])
        buckets = jnp.clip(place[None, :] - place[:, None], -3, 3) + 3
        bias = nn.Embed(7, self.heads, name=f"{name}_distances")(buckets)
        return bias.transpose(2, 0, 1)[None]

    def block(self, x: jax.Array, memory: Any, name: str, bias: jax.Array) -> jax.Array:
        """Self-attention, cross-attention where there is a memory, and a GEGLU."""
        y = nn.RMSNorm(name=f"{name}_self_norm")(x)
        x = x + self.attention(y, y, f"{name}_self", bias)
        if memory is not None:
            y = nn.RMSNorm(name=f"{name}_cross_norm")(x)
            x = x + self.attention(y, memory, f"{name}_cross", jnp.zeros((1, 1, 1, 1)))
        y = nn.RMSNorm(name=f"{name}_mlp_norm")(x)
        return x + Gated(self.hidden, activation=nn.gelu, name=f"{name}_mlp")(y)

    def attention(self, x: jax.Array, memory: jax.Array, name: str, bias: Any) -> jax.Array:
        """Attention without a scale, as in T5."""
        dense = partial(nn.DenseGeneral, use_bias=False)
        query = dense((self.heads, self.qk), name=f"{name}_query")(x)
        key = dense((self.heads, self.qk), name=f"{name}_key")(memory)
        value = dense((self.heads, self.v), name=f"{name}_value")(memory)
        y = attend(query, key, value, scale=1.0, bias=bias)
        return dense(x.shape[-1], axis=(-2, -1), name=f"{name}_out")(y)


def mlp(name: str, norm: Any, gated: Any, first: str) -> Network:
    """Returns a network of `Mlp`; `first` is the layer that makes its hidden units."""
    hidden, width = f"Gated_0/{first}/kernel", "Gated_0/down/kernel"
    return linen(
        name,
        Mlp(norm, gated),
        TOKENS,
        native=lambda widths: Mlp(norm, partial(gated, widths[hidden]), widths[width]),
        groups={hidden: 10, width: 8},
        frozen={"axis of an input": ["stem/kernel 0"], "axis of output": OUTPUT},
    )


def llama(widths: Mapping[str, int]) -> Llama:
    """Returns `Llama` at the widths of its groups."""
    memories = widths["block_0_key/kernel[1]"]
    return Llama(
        width=widths["block_0_out/kernel"],
        heads=memories * widths["block_0_query/kernel[1.1]"],
        memories=memories,
        hidden=widths["mlp_0/gate/kernel"],
        qk=2 * widths["block_0_key/kernel[2]"],
        v=widths["block_0_value/kernel[2]"],
    )


def encoder_decoder(widths: Mapping[str, int]) -> EncoderDecoder:
    """Returns `EncoderDecoder` at the widths of its groups, alike in all its blocks."""
    return EncoderDecoder(
        width=widths["decoder_cross_out/kernel"],
        heads=widths["decoder_cross_key/kernel[1]"],
        qk=widths["decoder_cross_key/kernel[2]"],
        v=widths["decoder_cross_value/kernel[2]"],
        hidden=widths["decoder_mlp/gate/kernel"],
    )


NETWORKS: tuple[Network, ...] = (
    mlp("SwiGLU", RMSNorm, Gated, "gate"),
    mlp("GEGLU", nn.RMSNorm, partial(Gated, activation=nn.gelu), "gate"),
    mlp("Fused SwiGLU", nn.LayerNorm, partial(Gated, fused=True), "gate_up"),
    linen(
        "Llama",
        Llama(),
        partial(ids, 5),
        elsewhere=partial(ids, 9),
        native=llama,
        groups={
            "block_0_key/kernel[1]": 2,
            "block_0_query/kernel[1.1]": 2,
            "block_0_key/kernel[2]": 5,
            "block_0_value/kernel[2]": 6,
            "mlp_0/gate/kernel": 10,
            "block_0_out/kernel": 12,
        },
        frozen={"indexed by gather": ["embed/embedding 0"]},
    ),
    linen(
        "EncoderDecoder",
        EncoderDecoder(),
        lambda batch: (*ids(5, batch), *ids(7, batch)),
        elsewhere=lambda batch: (*ids(8, batch), *ids(6, batch)),
        native=encoder_decoder,
        groups={
            "encoder_distances/embedding": 4,
            "encoder_self_key/kernel[2]": 5,
            "encoder_self_value/kernel[2]": 5,
            "encoder_mlp/gate/kernel": 10,
            "decoder_distances/embedding": 4,
            "decoder_self_key/kernel[2]": 5,
            "decoder_self_value/kernel[2]": 5,
            "decoder_cross_key/kernel[1]": 4,
            "decoder_cross_key/kernel[2]": 5,
            "decoder_cross_value/kernel[2]": 5,
            "decoder_mlp/gate/kernel": 10,
            "decoder_cross_out/kernel": 12,
        },
        frozen={
            "indexed by gather": [
                "embed/embedding 0",
                "encoder_distances/embedding 0",
                "decoder_distances/embedding 0",
            ]
        },
    ),
)
