"""A 32-layer, 4096-wide decoder traced and planned on shapes alone, its layers apart and stacked.

Command: python -m benchmarks.decoder
Grouped-query attention (32 heads, 8 of keys and values), rotary embeddings, SwiGLU, RMSNorm: about
8 billion parameters, none of which is allocated. Prints a Markdown table; least of `REPEATS`, CPU
seconds, and the peak memory of the process beside that of the imports.
"""

import resource
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks.analysis import least, planned, timed
from experiments.models.decoder import rotated

REPEATS = 3
LAYERS, WIDTH, HEADS, GROUPS, SIZE, HIDDEN, WORDS = 32, 4096, 32, 8, 128, 14336, 128256
TOKENS = jax.ShapeDtypeStruct((1, 128), jnp.int32)


class Layer(nn.Module):
    """Attention and a gated MLP, each behind an RMSNorm, on a residual stream."""

    @nn.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        """Returns the stream [batch, time, WIDTH]."""
        y = nn.RMSNorm()(x)
        query, key, value = (
            nn.DenseGeneral((heads, SIZE), use_bias=False, name=name)(y)
            for name, heads in (("query", HEADS), ("key", GROUPS), ("value", GROUPS))
        )
        y = jax.nn.dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        x = x + nn.DenseGeneral(WIDTH, axis=(-2, -1), use_bias=False, name="out")(y)
        y = nn.RMSNorm()(x)
        gate = nn.silu(nn.Dense(HIDDEN, use_bias=False, name="gate")(y))
        y = gate * nn.Dense(HIDDEN, use_bias=False, name="up")(y)
        return x + nn.Dense(WIDTH, use_bias=False, name="down")(y), None


class Decoder(nn.Module):
    """Tokens [batch, time] to logits [batch, time, WORDS]."""

    stacked: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits."""
        x = nn.Embed(WORDS, WIDTH)(tokens)
        if self.stacked:
            stack = nn.scan(
                Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
            )
            x, _ = stack(name="layers")(x, None)
        else:
            for i in range(LAYERS):
                x, _ = Layer(name=f"layer_{i}")(x, None)
        return nn.Dense(WORDS, use_bias=False, name="head")(nn.RMSNorm()(x))


def measured(*, stacked: bool) -> tuple[list[float], jp.ChannelGraph]:
    """Returns the least times of make_jaxpr, analysis and planning, and the graph."""
    model = Decoder(stacked=stacked)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rows, graph = [], None
    for _ in range(REPEATS):
        inside, beyond, graph = planned(model.apply, shapes, TOKENS)
        scores = jp.scores.random(graph, jax.random.key(0))
        chosen, _ = timed(lambda graph=graph, s=scores: jp.select.budget(graph, s, keep_macs=0.5))
        rows.append((inside / 1e3, beyond / 1e3, chosen / 1e3))
    assert graph is not None
    return least(rows), graph


def peak() -> float:
    """Returns the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    jax.random.uniform(jax.random.key(0), (2,))  # what JAX itself allocates at its first call
    before = peak()
    print("| layers | groups | channels | billion parameters | make_jaxpr | analysis | budget |")
    print("|---|---|---|---|---|---|---|")
    for stacked in (False, True):
        times, graph = measured(stacked=stacked)
        channels = sum((group.layers or 1) * group.size for group in graph.groups.values())
        cells = [len(graph.groups), f"{channels:,}", f"{jp.cost.params(graph) / 1e9:.2f}"]
        name = "stacked" if stacked else "apart"
        print("|", " | ".join([name, *map(str, cells), *(f"{t:.2f} s" for t in times)]), "|")
    print(f"\npeak memory {peak():.0f} MB, before {before:.0f} MB")


if __name__ == "__main__":
    main()
