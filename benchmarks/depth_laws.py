"""Whole networks that lose blocks and layers: the same numbers three ways, and training goes on.

Command: python -m benchmarks.depth_laws (pip install -e ".[foreign]" for the decoders of Tunix)
Names of networks behind it run only those. ResNet-56 loses blocks, a scanned decoder of Linen and
one in an NNX list lose layers, Llama 3, Qwen 3 and Gemma 2 of google-tunix lose layers and groups
of heads with their keys and values. Gates at the sums with masked channels, `jp.narrow` and the
resized network are compared; then the resized network takes steps of Adam, and its loss must fall.
Writes benchmarks/results/depth_laws.md.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxprune as jp
from benchmarks.random_weights import difference, drawn

RESULTS = Path(__file__).parent / "results" / "depth_laws.json"
STEPS = 5
TEXT = """# Networks that lose depth

Written by `python -m benchmarks.depth_laws`. Each network loses branches and channels at once;
differences are the largest of the outputs, relative to the largest entry, in single precision.
*Loss* is the mean square of the outputs, of the resized network before and after {steps} steps of
Adam.

| network | branches | of them gone | groups cut | parameters | MACs | gate - narrow \
| resized - narrow | loss | loss after |
|---|---|---|---|---|---|---|---|---|---|
"""


class Case(NamedTuple):
    """A network, and what it loses."""

    graph: jp.ChannelGraph
    variables: Any
    inputs: tuple[Any, ...]
    keep: Mapping[str, Any]
    resized: Callable[..., Any]
    output: Callable[[Any], Any] = lambda outputs: outputs


def some(graph: jp.ChannelGraph, words: str, share: float) -> dict[str, np.ndarray]:
    """Returns a keep of the exact groups whose names hold a word: a share of their channels."""
    random = np.random.default_rng(2)
    return {
        name: random.permuted(
            np.broadcast_to(np.arange(g.size) < max(1, round(share * g.size)), g.shape), axis=-1
        )
        for name, g in graph.groups.items()
        if words in name and g.inexact is None
    }


def resnet() -> Case:
    """Returns ResNet-56, which loses every third block that can go."""
    from experiments.models.resnet import ResNet

    model, x = ResNet(56), np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    variables = drawn(shapes)

    def fn(v: Any, x: Any) -> Any:
        return model.apply(v, x, train=False)

    graph = jp.trace(fn, variables, x)
    keep = dict.fromkeys([*jp.branches(graph)][::3], False) | some(graph, "Block_4/Conv_0", 0.5)
    small = jp.linen.resize(model, graph, keep)
    return Case(graph, variables, (x,), keep, lambda v, x: small.apply(v, x, train=False))


class Layer(nn.Module):
    """Attention and an MLP, each behind an RMSNorm."""

    @nn.compact
    def __call__(self, x: Any, _: None) -> tuple[Any, None]:
        """Returns the stream."""
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(nn.RMSNorm()(x))
        y = nn.gelu(nn.Dense(24, name="up")(nn.RMSNorm()(x)))
        return x + nn.Dense(16, name="down")(y), None


class Scanned(nn.Module):
    """A decoder whose layers are stacked."""

    layers: int = 6

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        """Returns logits."""
        x = nn.Embed(30, 16)(tokens)
        stack = nn.scan(
            nn.remat(Layer),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        return nn.Dense(30, name="head")(stack(name="stack")(x, None)[0])


def scanned() -> Case:
    """Returns a scanned decoder, which loses two layers of six and hidden units of the others."""
    model, x = Scanned(), np.arange(10)[None]
    variables = drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), x)))
    graph = jp.linen.trace(model, variables, x)
    layers = np.array([True, False, True, True, False, True])
    keep = dict.fromkeys(jp.branches(graph), layers) | some(graph, "stack/up", 0.5)
    small = jp.linen.resize(model, graph, keep)
    return Case(graph, variables, (x,), keep, small.apply)


class Block(nnx.Module):
    """Attention and an MLP, each behind an RMSNorm."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.RMSNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, rngs=rngs, decode=False)
        self.second = nnx.RMSNorm(16, rngs=rngs)
        self.up = nnx.Linear(16, 24, rngs=rngs)
        self.down = nnx.Linear(24, 16, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Returns the stream."""
        x = x + self.attention(self.first(x))
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class Listed(nnx.Module):
    """A decoder whose layers are in a list."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(30, 16, rngs=rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(6)])
        self.head = nnx.Linear(16, 30, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        """Returns logits."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def of_nnx(
    model: nnx.Module, inputs: tuple[Any, ...], gone: str, half: Callable[[str, jp.Kind], bool]
) -> Case:
    """Returns an NNX model that loses the layer of a number, and half of some groups."""
    graph = jp.nnx.trace(model, *inputs)
    variables = drawn(jp.nnx.variables(model))
    names = [name for name in jp.branches(graph) if f"layers/{gone}/" in name]
    cut = [name for name, kind in jp.kinds(graph).items() if half(name, kind)]
    keep = dict.fromkeys(names, False) | {n: k for n, k in some(graph, "", 0.5).items() if n in cut}
    fn = jp.nnx.function(jp.nnx.resize(model, graph, keep))
    return Case(graph, variables, inputs, keep, fn, lambda outputs: outputs[0])


def listed() -> Case:
    """Returns an NNX decoder, which loses a layer of six and hidden units of the others."""
    return of_nnx(Listed(nnx.Rngs(0)), (np.arange(10)[None],), "2", lambda name, _: "/up/" in name)


def tunix(family: str, name: str, **options: Any) -> Case:
    """Returns a decoder of google-tunix, which loses a layer and half of its heads of keys."""
    module = importlib.import_module(f"tunix.models.{family}.model")
    sizes = {
        "num_layers": 3,
        "embed_dim": 32,
        "hidden_dim": 48,
        "num_heads": 8,
        "head_dim": 8,
        "num_kv_heads": 4,
    }
    model = getattr(module, name)(module.ModelConfig(**sizes, **options), rngs=nnx.Rngs(0))
    model.eval()
    tokens = np.arange(8, dtype=np.int32)[None]
    mask = np.tril(np.ones((1, 8, 8), bool))
    inputs = (tokens, tokens, None, mask)
    case = of_nnx(model, inputs, "1", lambda _, kind: kind is jp.Kind.HEADS)
    return case._replace(output=lambda outputs: outputs[0][0])


def gemma2() -> Case:
    """Returns Gemma 2."""
    module = importlib.import_module("tunix.models.gemma.model")
    kinds = (module.AttentionType.LOCAL_SLIDING, module.AttentionType.GLOBAL)
    return tunix(
        "gemma", "Gemma", num_embed=50, final_logit_softcap=30.0, attn_logits_soft_cap=50.0,
        use_post_attn_norm=True, use_post_ffw_norm=True,
        attention_types=(*kinds, kinds[0]), sliding_window_size=4,
    )  # fmt: skip


NETWORKS: Mapping[str, Callable[[], Case]] = {
    "ResNet-56": resnet,
    "Linen decoder, scanned": scanned,
    "NNX decoder, a list": listed,
    "Llama 3 of Tunix": lambda: tunix(
        "llama3", "Llama3", vocab_size=50, rope_theta=10_000, norm_eps=1e-5
    ),
    "Qwen 3 of Tunix": lambda: tunix(
        "qwen3", "Qwen3", vocab_size=50, rope_theta=10_000, norm_eps=1e-6
    ),
    "Gemma 2 of Tunix": gemma2,
}


def measured(case: Case) -> dict[str, Any]:
    """Returns the row of a network."""
    graph, variables, keep = case.graph, case.variables, case.keep
    known = jp.branches(graph)
    gone = {name: kept for name, kept in keep.items() if name in known}
    channels = {name: kept for name, kept in keep.items() if name not in gone}
    small = jp.slice(graph, variables, keep)
    full = jp.mask(graph, variables, channels)
    gated = jax.jit(lambda v, *xs: jp.gated(graph.fn, graph)(v, gone, *xs))
    narrow = jax.jit(jp.narrow(graph.fn, graph, keep))
    outputs = [
        case.output(run(v, *case.inputs))
        for run, v in ((gated, full), (narrow, small), (jax.jit(case.resized), small))
    ]
    losses = trained(case, small)
    return {
        "branches": sum(item.steps or 1 for item in known.values()),
        "of them gone": int(sum(np.size(k) - np.count_nonzero(k) for k in gone.values())),
        "groups cut": len(channels),
        "parameters": jp.cost.params(graph, keep) / jp.cost.params(graph),
        "MACs": jp.cost.macs(graph, keep) / jp.cost.macs(graph),
        "gate - narrow": difference(outputs[0], outputs[1]),
        "resized - narrow": difference(outputs[1], outputs[2]),
        "loss": losses[0],
        "loss after": losses[-1],
    }


def trained(case: Case, small: Any) -> list[float]:
    """Returns the losses of the resized network while it trains; its parameters alone move."""
    tx = optax.adam(1e-2)
    moving = lambda v: v["params"] if set(v) == {"params", "batch_stats"} else v  # noqa: E731

    def loss(moved: Any, variables: Any) -> Any:
        whole = {**variables, "params": moved} if "batch_stats" in variables else moved
        return jnp.mean(jnp.square(case.output(case.resized(whole, *case.inputs))))

    @jax.jit
    def step(variables: Any, state: Any) -> tuple[Any, Any, Any]:
        value, gradients = jax.value_and_grad(loss)(moving(variables), variables)
        updates, state = tx.update(gradients, state)
        moved = optax.apply_updates(moving(variables), updates)
        if "batch_stats" in variables:
            return {**variables, "params": moved}, state, value
        return moved, state, value

    state, losses = tx.init(moving(small)), []
    for _ in range(STEPS + 1):
        small, state, value = step(small, state)
        losses.append(float(value))
    return losses


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page."""
    lines = []
    for name, row in rows.items():
        cells = [str(row[key]) for key in ("branches", "of them gone", "groups cut")]
        cells += [f"{row[key]:.1%}" for key in ("parameters", "MACs")]
        cells += [f"{row[key]:.1e}" for key in ("gate - narrow", "resized - narrow")]
        cells += [f"{row[key]:.4g}" for key in ("loss", "loss after")]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return TEXT.format(steps=STEPS) + "".join(lines)


def main(*names: str) -> None:
    """Measures the named networks, else all; the rows of others stay."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or NETWORKS:
        start = time.process_time()
        done[name] = measured(NETWORKS[name]())
        print(name, done[name], round(time.process_time() - start, 1), flush=True)
        done = {n: done[n] for n in NETWORKS if n in done}
        RESULTS.write_text(json.dumps(done, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(page(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
