"""Network Slimming: an L1 penalty on the scales of BatchNorm says which channels can go.

Paper:     Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
           ICCV 2017, https://arxiv.org/abs/1708.06519
Command:   python -m experiments.network_slimming
Device:    CPU, 2 cores
Wall time: under 3 minutes, with compilation (110 s of CPU time)
Expected:  a quarter of the channels and 8.1 % of the MACs stay; test accuracy over seeds 0-4, in
           percent: dense 99.25, pruned 37.80, recalibrated 99.10, fine-tuned 99.55
           (benchmarks/results/slimming_vs_random.md)
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments import data, models, plots, runs, training
from experiments.data import Dataset
from experiments.training import OnEpoch, Variables
from jaxprune.masks import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Train with L1 on the BatchNorm scales, prune, recalibrate, fine-tune, and write it down."""

    name: str = "network_slimming"
    """Name of the run; a name that is taken gets a number."""
    root: Path = Path("runs")
    """Directory of the runs."""
    overwrite: bool = False
    """Replace the run of that name."""
    seed: int = 0
    """Of the initial weights and of the order of the images."""
    dataset: str = "digits"
    """Data set, a name in experiments/data.py."""
    model: str = "convnet"
    """Model, a name in experiments/models."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of every stage of the model."""
    batch_size: int = 64
    """Images in a step."""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters."""
    epochs: int = 20
    """Passes over the training images with the L1 penalty."""
    learning_rate: float = 0.1
    """Of these epochs; a tenth after half of them, a hundredth after three quarters."""
    strength: float = 0.015
    """Of the L1 penalty. Few steps need a high one: the paper takes 1e-4 for 160 CIFAR epochs."""
    prune_ratio: float = 0.75
    """Share of all channels to remove."""
    min_channels: int = 1
    """What every group keeps."""
    recalibration_batches: int = 4
    """Batches of 256 training images that give the statistics of BatchNorm after pruning."""
    finetune_epochs: int = 10
    """Passes over the training images after pruning, without the L1 penalty."""
    finetune_learning_rate: float = 0.02
    """Of these epochs, on the same schedule."""


STAGES = ("dense", "pruned", "recalibrated", "finetuned")


class Network(NamedTuple):
    """A model definition and its variables."""

    model: nn.Module
    variables: Variables


def build(config: Config, dataset: Dataset) -> nn.Module:
    """Returns the unpruned model."""
    return models.build(config.model, widths=config.widths, classes=dataset.classes)


def train(config: Config, dataset: Dataset, on_epoch: OnEpoch = training.ignore) -> Network:
    """Returns the dense network, trained from scratch with the L1 penalty."""
    model = build(config, dataset)
    image = jnp.zeros((1, *dataset.image_shape))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(config.seed), image)
    penalty = jp.sparsify.l1_bn_scale(config.strength, jp.scale_mask(variables))
    return _fit(
        Network(model, variables),
        config,
        dataset,
        on_epoch,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        extra=penalty,
    )


def prune(dense: Network, graph: jp.ChannelGraph, keep: Keep) -> Network:
    """Returns the network without the pruned channels."""
    return Network(
        jp.linen.resize(dense.model, graph, keep), jp.slice(graph, dense.variables, keep)
    )


def recalibrate(network: Network, config: Config, dataset: Dataset) -> Network:
    """Returns the network with the statistics of BatchNorm measured on training images."""
    rng = np.random.default_rng(config.seed)
    batches = training.batches(dataset.train, min(256, len(dataset.train.labels)), rng)
    images = (batch.images for batch in islice(batches, config.recalibration_batches))
    update = training.batch_statistics(network.model)
    return network._replace(variables=jp.recover.recalibrate(update, network.variables, images))


def finetune(
    network: Network, config: Config, dataset: Dataset, on_epoch: OnEpoch = training.ignore
) -> Network:
    """Returns the network trained further, without the L1 penalty."""
    return _fit(
        network,
        config,
        dataset,
        on_epoch,
        epochs=config.finetune_epochs,
        learning_rate=config.finetune_learning_rate,
        extra=None,
    )


def _fit(
    network: Network,
    config: Config,
    dataset: Dataset,
    on_epoch: OnEpoch,
    *,
    epochs: int,
    learning_rate: float,
    extra: optax.GradientTransformation | None,
) -> Network:
    steps = epochs * (len(dataset.train.labels) // config.batch_size)
    tx = training.sgd(learning_rate, steps=steps, weight_decay=config.weight_decay, extra=extra)
    variables = training.fit(
        network.model,
        network.variables,
        dataset,
        tx=tx,
        epochs=epochs,
        batch_size=config.batch_size,
        rng=np.random.default_rng(config.seed),
        on_epoch=on_epoch,
    )
    return network._replace(variables=variables)


def measure(
    graph: jp.ChannelGraph, keep: Keep, dense: Network, small: Network, dataset: Dataset
) -> dict[str, Any]:
    """Returns the costs of both networks; times are of a batch of 64 test images."""
    images = dataset.test.images[:64]
    latency = {
        name: jp.latency(partial(network.model.apply, train=False), network.variables, images)
        for name, network in {"dense": dense, "pruned": small}.items()
    }
    found = jp.compare(graph, keep)
    changes = (found.channels, found.macs, found.params, found.activation_bytes)
    names = ("channels", "macs", "parameters", "activation_bytes")
    return {
        **{n: {"dense": c.before, "pruned": c.after} for n, c in zip(names, changes, strict=True)},
        "bytes": {"dense": _bytes(dense.variables), "pruned": _bytes(small.variables)},
        "latency_ms": {name: 1e3 * found.median for name, found in latency.items()},
        "latency_spread_ms": {name: 1e3 * found.spread for name, found in latency.items()},
        "channels_pruned": 1 - found.channels.ratio,
        "macs_pruned": 1 - found.macs.ratio,
    }


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    start, provenance = time.perf_counter(), runs.provenance()
    dataset = data.load(config.dataset)
    graph = training.channel_graph(build(config, dataset), dataset.image_shape)
    run = runs.create(config.root, config.name, overwrite=config.overwrite)
    runs.write_json(run / runs.CONFIG, asdict(config) | {"root": str(config.root)})

    with runs.progress(run, "train", config.epochs) as on_epoch:
        dense = train(config, dataset, on_epoch)
    jp.save(run / "checkpoints" / "dense", dense.variables, jp.spec(graph, {}))
    scores = jp.scores.bn_scale(graph, dense.variables)
    keep = jp.select.global_ratio(
        graph, scores, prune_ratio=config.prune_ratio, min_channels=config.min_channels
    )
    pruned = prune(dense, graph, keep)
    recalibrated = recalibrate(pruned, config, dataset)
    with runs.progress(run, "fine-tune", config.finetune_epochs) as on_epoch:
        finetuned = finetune(recalibrated, config, dataset, on_epoch)

    stages = (dense, pruned, recalibrated, finetuned)
    accuracies = [accuracy(network, dataset) for network in stages]
    summary = {
        "accuracy": dict(zip(STAGES, accuracies, strict=True)),
        **measure(graph, keep, dense, finetuned, dataset),
        "seed": config.seed,
        **provenance,
    }
    jp.save(run / "checkpoints" / "pruned", finetuned.variables, jp.spec(graph, keep))
    before, after = scales(dense.variables), scales(finetuned.variables)
    plots.scale_histogram(run / "scales.png", before=before, after=after)
    plots.widths(run / "widths.png", before=jp.widths(graph), after=jp.widths(graph, keep))
    summary["wall_time_s"] = round(time.perf_counter() - start, 1)
    runs.write_json(run / runs.SUMMARY, summary)
    report(run, summary)
    return run


def accuracy(network: Network, dataset: Dataset) -> float:
    """Returns the share of test images that the network gets right."""
    return training.evaluate(network.model, network.variables, dataset.test).accuracy


def scales(variables: Variables) -> np.ndarray:
    """Returns |gamma| of all BatchNorm layers, one after the other."""
    mask = jp.scale_mask(variables)
    leaves = zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(mask), strict=True)
    return np.concatenate([np.abs(leaf) for leaf, is_scale in leaves if is_scale])


def report(run: Path, summary: dict[str, Any]) -> None:
    """Prints what came out and what to do next."""
    console = Console()
    table = Table("test accuracy", *STAGES, title=str(run))
    table.add_row("", *(f"{summary['accuracy'][stage]:.2%}" for stage in STAGES))
    console.print(table)
    table = Table("cost", "dense", "pruned", "kept")
    for name in ("channels", "macs", "parameters", "bytes", "activation_bytes", "latency_ms"):
        dense, pruned = summary[name]["dense"], summary[name]["pruned"]
        row = (
            f"{value:,.3f}" if name == "latency_ms" else f"{value:,}" for value in (dense, pruned)
        )
        table.add_row(name, *row, f"{pruned / dense:.1%}")
    console.print(table)
    console.print(f"{summary['wall_time_s']:.0f} s; accuracies are on the test images. Next:")
    console.print(f"python -m experiments.evaluate {run}", soft_wrap=True, highlight=False)


def _bytes(variables: Variables) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m experiments.network_slimming"))
