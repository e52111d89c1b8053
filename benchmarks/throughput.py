"""Images per second before and after slicing, on whatever device JAX finds.

Command: python -m benchmarks.throughput  (--run runs/RUN --images 1024: the networks of a run too)
The bottleneck ResNet-50 on 224-pixel images of noise, dense and at half of its channels: half of
every group; half of all by random scores, any widths; the same in multiples of 8. And the dense and
the last network of a run of Network Slimming, Gate Decorator or OICSR. In float32, as JAX
multiplies it by default, and in bfloat16; forward and with the gradient. Compile time is apart; all
networks take turns, and the median of the rounds counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxprune as jp
from benchmarks.bottleneck import resnet
from experiments.runner import checkpoints, directory, registry
from experiments.runner import config as configuration
from experiments.runner.training import cross_entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Time networks before and after slicing."""

    run: Path | None = None
    """Directory of a run; its networks are timed too."""
    data_dir: Path | None = None
    """Where the data set of that run is prepared, if not where it was."""
    images: int = 1024
    """Images in a batch of the run's networks."""
    resnet_images: int = 128
    """The same of ResNet-50; 0 leaves it out."""
    rounds: int = 15
    """Turns of all networks."""
    calls: int = 10
    """Calls in a turn, one after the other, before anything waits."""


class Case(NamedTuple):
    """A network that is timed."""

    name: str
    model: Any
    variables: Any
    macs: float  # share of the dense network's


def halves() -> Iterator[Case]:
    """Yields ResNet-50 and three halves of it."""
    model = resnet((3, 4, 6, 3))
    x = jnp.zeros((1, 224, 224, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    graph = jp.trace(model.apply, variables, x)
    scores = jp.scores.random(graph, jax.random.key(1))
    floor = {"min_keep_ratio": 0.1}
    keeps = {
        "half of every group": jp.select.per_group(graph, scores, prune_ratio=0.5),
        "half of all": jp.select.global_ratio(graph, scores, prune_ratio=0.5, **floor),
        "half of all, multiples of 8": jp.select.global_ratio(
            graph, scores, prune_ratio=0.5, multiple_of=8, **floor
        ),
    }
    yield Case("dense", model, variables, 1.0)
    for name, keep in keeps.items():
        small, resized = jp.slice(graph, variables, keep), jp.linen.resize(model, graph, keep)
        yield Case(name, resized, small, jp.compare(graph, keep).macs.ratio)


def of_run(run: Path, data_dir: Path | None) -> tuple[list[Case], tuple[int, ...]]:
    """Returns the dense and the last network of a run, and the shape of its images."""
    value, summary = (directory.read_json(run / n) for n in (directory.CONFIG, directory.SUMMARY))
    experiment = registry.load(value["experiment"])
    config = configuration.from_json(directory.read_config(run), type(experiment.config))
    task = experiment.task(replace(config, data_dir=data_dir or config.data_dir))
    cases = []
    for name in ("dense", summary["final"]):
        found = checkpoints.load(run, task, name)
        share = jp.compare(task.graph, found.keep).macs.ratio
        cases.append(Case(name, found.model, found.variables, share))
    return cases, task.dataset.image_shape


def forward(model: Any, variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the logits."""
    del labels
    return model.apply(variables, images, train=False)


def gradient(model: Any, variables: Any, images: jax.Array, labels: jax.Array) -> Any:
    """Returns the gradient of a training step, and the statistics of BatchNorm."""

    def loss(params: Any) -> Any:
        given = {**variables, "params": params}
        logits, moved = model.apply(given, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits.astype(jnp.float32), labels), moved

    return jax.grad(loss, has_aux=True)(variables["params"])


def seconds(call: Callable[[], Any], calls: int) -> float:
    """Returns the wall time of one of several calls."""
    start = time.perf_counter()
    for _ in range(calls):
        found = call()
    jax.block_until_ready(found)
    return (time.perf_counter() - start) / calls


def compiled(case: Case, what: Callable[..., Any], x: jax.Array, y: jax.Array) -> Any:
    """Returns the call without arguments, in the dtype of the images."""
    variables = jax.device_put(jax.tree.map(lambda a: jnp.asarray(a, x.dtype), case.variables))
    program = jax.jit(partial(what, case.model)).lower(variables, x, y).compile()
    return partial(program, variables, x, y)


def compare(title: str, cases: list[Case], shape: tuple[int, ...], config: Config, n: int) -> None:
    """Prints a row for every network, dtype and direction."""
    random = np.random.default_rng(0)
    labels = jnp.asarray(random.integers(0, 10, n))
    images = random.normal(size=(n, *shape))
    for dtype, what in product((jnp.float32, jnp.bfloat16), (forward, gradient)):
        calls = [compiled(case, what, jnp.asarray(images, dtype), labels) for case in cases]
        for call in calls:
            seconds(call, 2)
        times = np.array(
            [[seconds(call, config.calls) for call in calls] for _ in range(config.rounds)]
        )
        for case, each in zip(cases, times.T, strict=True):
            rate = n / statistics.median(each)
            low, factor, high = np.quantile(times[:, 0] / each, (0.25, 0.5, 0.75))
            print(
                f"| {title} | {case.name} | {case.macs:.1%} | {dtype.__name__} | {what.__name__} "
                f"| {rate:,.0f} | {factor:.2f} | {low:.2f} to {high:.2f} |",
                flush=True,
            )


def main(config: Config) -> None:
    """Prints the table."""
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {config}")
    print("| network | | MACs | dtype | | images/s | times dense | quartiles |")
    print("|---|---|---|---|---|---|---|---|")
    if config.run:
        cases, shape = of_run(config.run, config.data_dir)
        compare(config.run.name, cases, shape, config, config.images)
    if config.resnet_images:
        compare("ResNet-50", list(halves()), (224, 224, 3), config, config.resnet_images)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.throughput"))
