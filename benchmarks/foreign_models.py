"""Complete models of other packages, unmodified, each pruned at random by 40 %.

Command: python -m benchmarks.foreign_models (pip install -e ".[foreign]"; no download)
Names of models behind it measure only those. Writes benchmarks/results/foreign_models.md. Weights
are random, in the shapes that the packages give; vectors have neither zeros nor ones.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import equimo.models
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import transformers

import jaxprune as jp
from benchmarks.analysis import least, planned
from jaxprune.running.verify import following

PRUNED = 0.4
RESULTS = Path(__file__).parent / "results" / "foreign_models.md"
KEY = jax.random.key(0)
TEXT = """# Models of other packages

Written by `python -m benchmarks.foreign_models`: complete models, unmodified, with random weights
(nothing is downloaded), every channel group pruned at random by 40 %. *Prunable* is the share of
the parameters that goes where every group keeps one channel; *make_jaxpr* and the *analysis* beyond
it, which `jp.trace` both does, are CPU milliseconds, least of three, on a busy machine. *Resizes*
says for how many groups the package's own code is the same network at the kept widths, by
`jp.resize`, `jp.haiku.resize`, `jp.keras.resize` or `jp.linen.resize`; `jp.narrow` runs them all.
The last three columns are largest differences relative to the largest output, in single
precision: of the pruned network to the dense one, so that the others mean something; of masked and
narrowed network, all exact groups pruned; of resized and narrowed, the exact groups that resize,
where the narrowed one has the constants that follow a width (1 over the root of the head size)."""
HEAD = (
    "model", "package", "framework", "parameters", "groups", "inexact", "channels",
    "prunable", "frozen axes", "MACs", "MACs after", "make_jaxpr", "analysis",
    "resizes", "pruned - dense", "mask - narrow", "resized - narrow",
)  # fmt: skip

Function = Callable[..., Any]
Resize = Callable[[jp.ChannelGraph, Mapping[str, Any]], Function]


class Model(NamedTuple):
    """A function of variables and inputs, and how it resizes."""

    fn: Function
    variables: Any
    inputs: tuple[Any, ...]
    resize: Resize


def plain(fn: Function, variables: Any, *inputs: Any) -> Model:
    """Returns a model that resizes as a plain function."""
    return Model(fn, variables, inputs, lambda graph, keep: jp.resize(fn, graph, keep))


def image(size: int, *, first: bool = False, batch: int = 1) -> np.ndarray:
    """Returns images [batch, size, size, 3], or with the channels first."""
    shape = (batch, 3, size, size) if first else (batch, size, size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def tokens(length: int) -> np.ndarray:
    """Returns token ids [1, length]."""
    return np.random.default_rng(0).integers(4, 90, (1, length)).astype(np.int32)


def of_haiku(make: Callable[[], Any], size: int) -> Model:
    """Returns a Haiku network in eval mode."""
    net = hk.without_apply_rng(
        hk.transform_with_state(lambda x, train: make()(x, is_training=train))
    )
    x = image(size)
    params, state = jax.eval_shape(lambda: net.init(KEY, x, True))

    def fn(v: Any, x: Any) -> Any:
        return net.apply(v["params"], v["state"], x, False)[0]

    return Model(
        fn,
        {"params": params, "state": state},
        (x,),
        lambda graph, keep: jp.haiku.resize(fn, graph, keep),
    )


def of_keras(name: str, size: int) -> Model:
    """Returns a model of `keras.applications` in eval mode."""
    model = getattr(keras.applications, name)(
        weights=None, classifier_activation=None, input_shape=(size, size, 3)
    )
    graph, x = jp.keras.trace(model, image(size)), image(size)

    def outputs(model: Any) -> Function:
        run = jp.keras.function(model)
        return lambda v, x: run(v, x)[0]

    return Model(
        outputs(model),
        jp.keras.variables(model),
        (x,),
        lambda _, keep: outputs(jp.keras.resize(model, graph, keep)),
    )


def of_equimo(name: str, size: int, **options: Any) -> Model:
    """Returns an Equinox model of equimo at inference."""
    model = getattr(equimo.models, name)(key=KEY, **options)
    variables, static = eqx.partition(model, eqx.is_inexact_array)

    def fn(v: Any, x: Any) -> Any:
        return eqx.combine(v, static)(x, key=KEY, inference=True)

    return plain(fn, variables, image(size, first=True)[0])


def of_transformers(model: Any, *inputs: Any) -> Model:
    """Returns the Linen module of a Flax model of transformers at inference."""
    variables = model.params if "params" in model.params else {"params": model.params}

    def call(module: Any, v: Any, *xs: Any) -> Any:
        return module.apply(v, *xs)["logits"]

    return Model(
        partial(call, model.module),
        variables,
        inputs,
        lambda graph, keep: partial(call, jp.linen.resize(model.module, graph, keep)),
    )


def bert() -> Model:
    """Returns BERT of 4 layers with a classifier."""
    config = transformers.BertConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512
    )
    ids = tokens(16)
    place = np.arange(16, dtype=np.int32)[None]
    model = transformers.FlaxBertForSequenceClassification(config)
    return of_transformers(model, ids, np.ones_like(ids), np.zeros_like(ids), place, None)


def gpt2() -> Model:
    """Returns GPT-2 of 4 layers; its output is the transposed embedding."""
    config = transformers.GPT2Config(vocab_size=1000, n_embd=128, n_layer=4, n_head=4)
    ids = tokens(16)
    model = transformers.FlaxGPT2LMHeadModel(config)
    return of_transformers(model, ids, np.ones_like(ids), np.arange(16, dtype=np.int32)[None])


def whisper() -> Model:
    """Returns Whisper with an encoder and a decoder of 2 layers."""
    config = transformers.WhisperConfig(
        vocab_size=100, d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=256,
        decoder_ffn_dim=256, num_mel_bins=16, max_source_positions=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    heard = np.random.default_rng(0).normal(size=(1, 16, 40)).astype(np.float32)
    ids = tokens(8)
    model = transformers.FlaxWhisperForConditionalGeneration(config, input_shape=(1, 16, 40))
    place = np.arange(8, dtype=np.int32)[None]
    return of_transformers(model, heard, ids, np.ones_like(ids), place)


def regnet() -> Model:
    """Returns a RegNet with grouped convolutions."""
    config = transformers.RegNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1], groups_width=16
    )
    return of_transformers(transformers.FlaxRegNetForImageClassification(config), image(64))


MODELS: Mapping[str, tuple[str, str, Callable[[], Model]]] = {
    "ResNet-18": ("dm-haiku", "Haiku", lambda: of_haiku(lambda: hk.nets.ResNet18(10), 64)),
    "MobileNet v1": ("dm-haiku", "Haiku", lambda: of_haiku(hk.nets.MobileNetV1, 64)),
    "MobileNetV3-Small": ("keras", "Keras", partial(of_keras, "MobileNetV3Small", 64)),
    "EfficientNet-B0": ("keras", "Keras", partial(of_keras, "EfficientNetB0", 64)),
    "BERT, 4 layers": ("transformers", "Linen", bert),
    "GPT-2, 4 layers": ("transformers", "Linen", gpt2),
    "Whisper, 2 + 2 layers": ("transformers", "Linen", whisper),
    "RegNet": ("transformers", "Linen", regnet),
    "ViT-Ti/16": (
        "equimo", "Equinox", partial(of_equimo, "vit_tiny_patch16_224", 64, img_size=64)
    ),
    "ConvNeXt-T": ("equimo", "Equinox", partial(of_equimo, "convnext_t", 64)),
}  # fmt: skip


def drawn(variables: Any) -> Any:
    """Returns random weights in the shapes of `variables`, of the usual scale."""
    random = np.random.default_rng(1)

    def draw(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if leaf.size == max(leaf.shape, default=1):
            return jnp.asarray(random.uniform(0.1, 0.9, leaf.shape), leaf.dtype)
        fan = leaf.size / max(leaf.shape)
        return jnp.asarray(random.normal(size=leaf.shape) * fan**-0.5, leaf.dtype)

    return jax.tree.map(draw, variables)


def chosen(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """Returns a random keep of every group, at least one channel each."""
    random = np.random.default_rng(2)
    ranks = {name: random.permutation(group.size) for name, group in graph.groups.items()}
    return {name: rank < max(1, round((1 - PRUNED) * len(rank))) for name, rank in ranks.items()}


def difference(a: Any, b: Any) -> float:
    """Returns the largest difference relative to the largest entry."""
    return float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)))


def resizable(model: Model, graph: jp.ChannelGraph, keep: Mapping[str, Any]) -> list[str]:
    """Returns the groups at whose kept widths the code of the package is the same network."""

    def passes(names: Any) -> bool:
        try:
            model.resize(graph, {name: keep[name] for name in names})
        except jp.errors.ResizeError:
            return False
        return True

    if passes(keep):
        return list(keep)
    alone = [name for name in keep if passes([name])]
    return alone if passes(alone) else []


def frozen(graph: jp.ChannelGraph) -> str:
    """Returns the reasons with their counts."""
    reasons = Counter(found.reason.split(" at ")[0] for found in graph.frozen)
    return ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())


def timed_trace(model: Model) -> tuple[float, float, jp.ChannelGraph]:
    """Returns the least CPU milliseconds of make_jaxpr and of the analysis beyond it."""
    found = [planned(model.fn, model.variables, *model.inputs) for _ in range(3)]
    inside, beyond = least([times for *times, _ in found])
    return inside, beyond, found[-1][-1]


def agreement(
    model: Model, graph: jp.ChannelGraph, keep: Mapping[str, Any], resizes: list[str]
) -> tuple[float, float, float | None]:
    """Returns pruned - dense and mask - narrow of exact groups, resized - narrow of `resizes`."""
    variables = drawn(model.variables)
    dense = jax.jit(model.fn)
    exact = {name: kept for name, kept in keep.items() if graph.groups[name].inexact is None}
    masked = dense(jp.mask(graph, variables, exact), *model.inputs)

    def narrow(part: Mapping[str, Any]) -> Any:
        run = jax.jit(jp.narrow(model.fn, graph, part))
        return run(jp.slice(graph, variables, part), *model.inputs)

    shared = {name: exact[name] for name in resizes if name in exact}
    gap = None
    if shared:
        run, small = model.resize(graph, shared), jp.slice(graph, variables, shared)
        expected = jax.jit(following(model.fn, graph, shared, run))(small, *model.inputs)
        gap = difference(expected, jax.jit(run)(small, *model.inputs))
    away = difference(dense(variables, *model.inputs), masked)
    return away, difference(masked, narrow(exact)), gap


def row(name: str, package: str, framework: str, model: Model) -> str:
    """Returns the line of a model."""
    program, beyond, graph = timed_trace(model)
    keep = chosen(graph)
    resizes = resizable(model, graph, keep)
    away, masked, gap = agreement(model, graph, keep, resizes)
    groups = graph.groups.values()
    one = dict.fromkeys(graph.groups, 1)
    macs, params = jp.cost.macs(graph), jp.cost.params(graph)
    cells = (
        name,
        f"{package} {version(package)}",
        framework,
        f"{params:,}",
        len(groups),
        sum(group.inexact is not None for group in groups),
        f"{sum(group.size for group in groups):,}",
        f"{1 - jp.cost.params(graph, one) / params:.1%}",
        frozen(graph),
        f"{macs:,}",
        f"{jp.cost.macs(graph, jp.widths(graph, keep)):,}",
        f"{program:.0f}",
        f"{beyond:.0f}",
        "all" if len(resizes) == len(keep) else f"{len(resizes)} of {len(keep)} groups",
        f"{away:.1e}",
        f"{masked:.1e}",
        "" if gap is None else f"{gap:.1e}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(*names: str) -> None:
    """Writes the lines of the named models, else of all; lines of other models stay."""
    done = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in done if " | " in line}
    versions = f"JAX {jax.__version__}, Flax {version('flax')}, CPU."
    table = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for name in names or MODELS:
        package, framework, make = MODELS[name]
        lines[name] = row(name, package, framework, make())
        print(lines[name], flush=True)
        rows = [lines[name] for name in MODELS if name in lines]
        RESULTS.write_text("\n".join([TEXT, "", versions, "", *table, *rows, ""]))
        jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
