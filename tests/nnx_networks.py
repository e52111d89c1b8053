"""Small NNX networks, without any pruning code in them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprune as jp


def model_of(build: Any, *, initialize: bool = False) -> Any:
    """Returns a model with random variables; without `initialize` no initializer is run."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> Any:
        sign = 1 if "var" in jax.tree_util.keystr(path) else random.choice([-1, 1], leaf.shape)
        return jnp.asarray(sign * random.uniform(0.3, 1, leaf.shape), leaf.dtype)

    if initialize:
        model = build(nnx.Rngs(0))
    else:
        model = jp.nnx.function(nnx.eval_shape(lambda: build(nnx.Rngs(0)))).model()
    nnx.update(model, jax.tree_util.tree_map_with_path(draw, jp.nnx.variables(model)))
    return model


class Residual(nnx.Module):
    """A convolution with BatchNorm, and another one around which a shortcut leads."""

    def __init__(self, rngs: nnx.Rngs, width: int = 6, inner: int = 5):
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.first = nnx.Conv(width, inner, (3, 3), use_bias=False, rngs=rngs)
        self.inner_norm = nnx.BatchNorm(inner, rngs=rngs)
        self.second = nnx.Conv(inner, width, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.head = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.relu(x + self.second(nnx.relu(self.inner_norm(self.first(x)))))
        return self.head(self.dropout(x.mean((1, 2))))


class Grouped(nnx.Module):
    """GroupNorm, a grouped convolution to `out` channels per group, and a depthwise one."""

    def __init__(self, rngs: nnx.Rngs, groups: int = 3, size: int = 4, out: int = 5):
        width, wide = groups * size, groups * out
        self.stem = nnx.Conv(3, width, (1, 1), rngs=rngs)
        self.norm = nnx.GroupNorm(width, num_groups=groups, rngs=rngs)
        self.grouped = nnx.Conv(width, wide, (1, 1), feature_group_count=groups, rngs=rngs)
        self.depthwise = nnx.Conv(wide, wide, (3, 3), feature_group_count=wide, rngs=rngs)
        self.head = nnx.Linear(wide, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.norm(self.stem(x))
        return self.head(nnx.relu(self.depthwise(nnx.relu(self.grouped(x)))).mean((1, 2)))


def attention(query: Any, key: Any, value: Any, **_: Any) -> Any:
    """Attention for keys and values of different sizes, which that of JAX refuses."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


class Transformer(nnx.Module):
    """Embedding, attention, MLP; the embedding is the output layer too."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        width: int = 8,
        heads: int = 4,
        size: int = 3,
        hidden: int = 5,
        attention_fn: Callable[..., Any] = attention,
    ):
        self.embed = nnx.Embed(7, width, rngs=rngs)
        self.before = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, heads * size, decode=False, attention_fn=attention_fn, rngs=rngs
        )
        self.middle = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        x = x + self.attention(self.before(x))
        x = x + self.down(nnx.gelu(self.up(self.middle(x))))
        return self.embed.attend(x)


class Recurrent(nnx.Module):
    """A recurrent cell over a sequence, between two linear layers."""

    def __init__(self, rngs: nnx.Rngs, cell: Callable[..., Any], hidden: int = 6, width: int = 5):
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.rnn = nnx.RNN(cell(width, hidden, rngs=rngs))
        self.last = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        outputs: Any = self.rnn(nnx.relu(self.first(x)))
        return self.last(outputs)


class Decoder(nnx.Module):
    """A transposed convolution."""

    def __init__(self, rngs: nnx.Rngs, width: int = 6, *, transpose_kernel: bool = False):
        self.up = nnx.ConvTranspose(
            3, width, (2, 2), (2, 2), transpose_kernel=transpose_kernel, rngs=rngs
        )
        self.last = nnx.Conv(width, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.up(x)))


class Shared(nnx.Module):
    """One layer that is called twice, under two names."""

    def __init__(self, rngs: nnx.Rngs, width: int = 6):
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.again = nnx.Linear(width, width, rngs=rngs)
        self.once_more = self.again
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.first(x))
        return self.last(nnx.relu(self.once_more(nnx.relu(self.again(x)))))


class Block(nnx.Module):
    """A residual layer; its rate is 0, so that wide and small draw no different mask."""

    def __init__(self, rngs: nnx.Rngs, width: int, hidden: int = 6):
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.down(self.dropout(nnx.relu(self.norm(self.up(x)))))


class Mixed(nnx.Module):
    """Attention, GroupNorm and a grouped convolution on a residual stream."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        width: int,
        heads: int,
        size: int,
        groups: int,
        members: int,
        out: int,
    ):
        self.attention = nnx.MultiHeadAttention(
            heads, width, heads * size, decode=False, attention_fn=attention, rngs=rngs
        )
        self.up = nnx.Linear(width, groups * members, rngs=rngs)
        self.norm = nnx.GroupNorm(groups * members, num_groups=groups, rngs=rngs)
        self.grouped = nnx.Conv(
            groups * members, groups * out, 3, feature_group_count=groups, rngs=rngs
        )
        self.down = nnx.Linear(groups * out, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(x)
        return x + self.down(nnx.relu(self.grouped(nnx.relu(self.norm(self.up(x))))))


class Stacked(nnx.Module):
    """Three blocks built by `nnx.vmap`, run by `nnx.scan` of `nnx.remat`."""

    def __init__(
        self, rngs: nnx.Rngs, width: int = 4, *sizes: int, block: Callable[..., Any] = Block
    ):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def build(rngs: nnx.Rngs) -> Any:
            return block(rngs, width, *sizes)

        self.first = nnx.Linear(3, width, rngs=rngs)
        self.blocks = build(rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def run(block: Any, x: Any) -> Any:
            return block(x)

        return self.last(run(self.blocks, self.first(x)))


class Heads(nnx.Module):
    """Attention written by hand, with its number of heads in an attribute."""

    def __init__(self, rngs: nnx.Rngs, heads: int = 4):
        self.query, self.key, self.value = (nnx.Linear(6, 8, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(8, 6, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Any) -> Any:
        q, k, v = (
            f(x).reshape(*x.shape[:-1], self.heads, -1) for f in (self.query, self.key, self.value)
        )
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.out(y.reshape(*x.shape[:-1], -1))


class Encoder(nnx.Module):
    """An attention layer inside another module."""

    def __init__(self, rngs: nnx.Rngs):
        self.attention = Heads(rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.attention(x)
