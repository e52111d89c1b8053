"""Jaxprune on one network, twice in one process; prints a line of JSON.

Command: python -m benchmarks.against.jax_side NETWORK
"""

import time

START = time.perf_counter()

import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import flax.linen as nn
import jax
import numpy as np

BEFORE = time.perf_counter()

import jaxprune as jp

IMPORTED = time.perf_counter()

from benchmarks.bottleneck import resnet
from experiments.models.mobilenet import mobilenet_v2
from experiments.models.resnet import ResNet
from experiments.models.vgg import Vgg
from jaxprune.program import jaxpr


def picture(module: nn.Module, size: int) -> tuple[nn.Module, dict[str, Any], Any]:
    """Returns a network of images, in eval mode."""
    return module, {"train": False}, (np.zeros((1, size, size, 3), np.float32),)


def transformer(name: str, config: Any, *inputs: Any) -> tuple[nn.Module, dict[str, Any], Any]:
    """Returns the Linen module of a Flax model of transformers 4."""
    import transformers

    model = getattr(transformers, f"Flax{name}")(config, _do_init=False)
    return model.module, {"return_dict": False}, inputs


def bert() -> tuple[nn.Module, dict[str, Any], Any]:
    """Returns BERT of 4 layers with a classifier."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    ids = np.zeros((1, 16), np.int32)
    inputs = (ids, ids + 1, ids, np.arange(16, dtype=np.int32)[None], None)
    return transformer("BertForSequenceClassification", config, *inputs)


def vit() -> tuple[nn.Module, dict[str, Any], Any]:
    """Returns a vision transformer of 12 layers and 192 channels."""
    import transformers

    config = transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    x = np.zeros((1, 224, 224, 3), np.float32)
    return transformer("ViTForImageClassification", config, x)


NETWORKS: dict[str, Callable[[], Any]] = {
    "ResNet-18": lambda: picture(ResNet(14, widths=(64, 128, 256, 512)), 64),
    "ResNet-50": lambda: picture(resnet((3, 4, 6, 3)), 224),
    "ResNet-56": lambda: picture(ResNet(56), 32),
    "VGG-16": lambda: picture(Vgg((2, 2, 3, 3, 3)), 32),
    "MobileNetV2": lambda: picture(mobilenet_v2(), 224),
    "ViT-Ti/16": vit,
    "BERT, 4 layers": bert,
}


def pruned(name: str) -> dict[str, float]:
    """Returns the seconds of the stages of one network."""
    times: dict[str, float] = {}
    now = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal now
        times[stage] = time.perf_counter() - now
        now = time.perf_counter()

    module, words, inputs = NETWORKS[name]()
    shapes = jax.eval_shape(partial(module.init, **words), jax.random.key(0), *inputs)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: random.random(x.shape, np.float32) / 16, shapes)
    lap("build")
    own = jaxpr.trace
    spent = []

    def traced(*args: Any, **words: Any) -> Any:
        start = time.perf_counter()
        found = own(*args, **words)
        spent.append(time.perf_counter() - start)
        return found

    jaxpr.trace = traced
    graph = jp.linen.trace(module, variables, *inputs, **words)
    lap("graph")
    scores = jp.scores.l2(graph, variables)
    keep = jp.select.per_group(graph, scores, prune_ratio=0.4)
    lap("score and select")
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(module, graph, keep)
    lap("cut")
    jaxpr.trace = own
    times["make_jaxpr"] = sum(spent)
    call = jax.jit(lambda v, *xs: resized.apply(v, *xs, **words))
    jax.block_until_ready(call(small, *inputs))
    lap("first call")
    count = [sum(x.size for x in jax.tree.leaves(tree["params"])) for tree in (small, variables)]
    return times | {"left": count[0] / count[1]}


def main(name: str) -> None:
    """Prints the stages of the first and of the second network, and the peak memory."""
    cold, warm = pruned(name), pruned(name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"import": IMPORTED - START, "import jaxprune": IMPORTED - BEFORE}
    print(json.dumps({**times, "cold": cold, "warm": warm, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1])
