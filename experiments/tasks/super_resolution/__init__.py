"""A slimmable network without BatchNorm: WDSR doubles the resolution of pictures at any width.

Paper:     Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
           2019, https://arxiv.org/abs/1903.05134; the network is that of Yu et al., "Wide
           Activation for Efficient and Accurate Image Super-Resolution", 2018,
           https://arxiv.org/abs/1808.08718
Command:   python -m experiments.super_resolution
           python -m experiments.super_resolution --mix 0.5 --seed 1
           python -m experiments.super_resolution --preset cifar10 --data-dir DIR
           python -m experiments.super_resolution --preset div2k --tests Set5 Set14 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  130 s, with compilation
Expected:  PSNR of Y in dB, without a border of two pixels, on the test pictures, over five seeds
           (python -m benchmarks.seeds --only super_resolution):

           width                MACs  slimmable       alone
           1.0            33,613,056  35.16 to 35.44
           0.875 (never trained)      34.98 to 35.30
           0.75           19,367,424  35.06 to 35.41
           0.625 (never trained)      34.62 to 35.15
           0.5             9,103,104  34.86 to 35.26
           0.375           5,463,936  34.63 to 35.21
           0.25            2,820,096  34.48 to 35.03  35.01 to 35.27
           bicubic                    34.13

           With --mix 0.5 seed 0 gave 34.57 to 34.74 at all widths: in-place distillation, by
           regression, did not pay there, it made all widths alike.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.data import photos, pictures
from experiments.data.pictures import Photos, Pictures
from experiments.models.wdsr import Wdsr
from experiments.procedures import joint
from experiments.procedures.joint import Joint
from experiments.report import plots
from experiments.runner.experiment import Experiment, Summary, execute
from experiments.runner.fit import QUIET, Journal, Variables
from experiments.runner.run import Run
from experiments.runner.task import Network, Task, key
from experiments.tasks.super_resolution.config import NAME, PRESETS, Config
from experiments.tasks.super_resolution.measure import Slim, bicubic, pairs, quality, scaled, slim
from jaxprune import slimmable
from jaxprune.keep.check import Keep

PICTURE = (360, 640)
"""Height and width whose MACs are told of photographs: the half of 720p, as the field counts."""
CORNER = 1e-2
"""Errors below it count as their squares, in units of GRAY."""


def task(config: Config) -> Task[Config]:
    """Returns the data, the network and its channel graph.

    Raises:
      ValueError: the data cannot be read, or the patches are larger than the pictures.
    """
    how = {"data_dir": config.data_dir, "limit": config.limit}
    if config.dataset == photos.NAME:
        dataset = photos.div2k(**how)
    else:
        dataset = pictures.load(config.dataset, size=config.image_size, **how)
    others = {name: photos.folder(config.data_dir, name) for name in config.tests}
    height, width = shape = min((each.shape[:2] for each in dataset.train.low), key=min)
    if config.patch > min(shape):
        raise ValueError(
            f"patches of {config.patch} pixels do not fit into halves of {height}x{width}.\n"
            f"Fix: --patch {min(shape)}."
        )
    model = Wdsr(widths=config.widths, blocks=config.blocks, scale=pictures.SCALE)
    seen = PICTURE if isinstance(dataset.train, Photos) else shape
    low = jax.ShapeDtypeStruct((1, *seen, 3), jnp.float32)
    graph = jp.trace(model.apply, jax.eval_shape(model.init, jax.random.key(0), low), low)
    dataset = dataset._replace(others=others)
    return Task(config, dataset, model, graph, charbonnier)  # pyright: ignore[reportArgumentType]


def charbonnier(outputs: jax.Array, wanted: jax.Array) -> jax.Array:
    """Returns the mean absolute error, rounded off below `CORNER`.

    The plain error has the gradient +-1 wherever two widths agree but for their rounding, as they
    do at first: in place of distillation it then drives all of them away together.

    Source: Lai et al., "Deep Laplacian Pyramid Networks", CVPR 2017; WDSR takes the plain error.
    """
    return jnp.sqrt((outputs - wanted) ** 2 + CORNER**2).mean() - CORNER


def regression(mix: float) -> slimmable.Distillation:
    """Returns the loss of in-place distillation, where there are no soft labels."""

    def taught(outputs: jax.Array, teacher: jax.Array, targets: jax.Array) -> jax.Array:
        return mix * charbonnier(outputs, teacher) + (1 - mix) * charbonnier(outputs, targets)

    return taught


def train(slim: Slim, name: str, grid: Mapping[str, Keep], journal: Journal = QUIET) -> Network:
    """Returns the network after a training of all of these widths, or of a single width.

    Its variables are {"params", "rest"}, the two parts of `slimmable.split`.
    """
    config, model, graph = slim.task.config, slim.task.model, slim.task.graph
    drawn, number = key(config, name), config.scaled(config.epochs)
    examples = config.patches * len(pairs(slim).train.low)
    steps = max(number * (examples // config.batch_size), 1)
    distill = regression(config.mix) if config.mix else None
    network = partial(_network, slim.task)
    how = Joint(
        tx=optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps)),
        gradients=joint.gradients(network, graph, slim.task.loss, distill=distill),
        draw=partial(_drawn, grid, config.sandwich),
        batch=_batches(slim, drawn),
        examples=examples,
        batch_size=config.batch_size,
        epochs=number,
        seed=(config.seed, zlib.crc32(name.encode())),
        measure=partial(_validated, slim, grid),
    )
    fresh = jax.jit(model.init)(drawn, jnp.zeros((1, config.patch, config.patch, 3)))
    split = slimmable.split(graph, fresh, grid, private=())
    return Network(model, joint.train(how, *split, journal), {})


def _batches(slim: Slim, drawn: jax.Array) -> Callable[[np.ndarray, Any], tuple[Any, Any]]:
    """Returns (places of patches, number of the step) -> the patches and what they come of."""
    config, images = slim.task.config, pairs(slim).train
    cut, count = jax.jit(partial(_batch, config.patch)), len(images.low)
    if isinstance(images, Photos):
        seed = jax.random.key_data(drawn).tolist()

        def batch(places: np.ndarray, step: int) -> tuple[Any, Any]:
            rng = np.random.default_rng((*seed, step))
            parts = photos.patches(images, places % count, config.patch, rng)
            return cut(jax.random.fold_in(drawn, step), parts, np.arange(len(places)))

        return batch
    there = jax.device_put(images)
    return lambda places, step: cut(jax.random.fold_in(drawn, step), there, places % count)


def _drawn(grid: Mapping[Any, Keep], number: int, rng: np.random.Generator) -> Mapping[str, Keep]:
    return slimmable.sandwich(grid, rng, number) if len(grid) > 1 else grid


def _validated(slim: Slim, names: Iterable[str], variables: Variables) -> dict[str, float]:
    decibels = quality(slim, variables, names, pairs(slim).validation)
    return {f"psnr at {name}": psnr for name, psnr in decibels.items()}


def _batch(patch: int, key: jax.Array, train: Any, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
    low, high = pictures.crops(key, train.low[rows], train.high[rows], patch)
    return scaled(low), scaled(high)


def _network(task: Task[Config], keep: Keep) -> Callable[..., Any]:
    model = jp.linen.resize(task.model, task.graph, keep)
    return lambda variables, low: (model.apply(variables, low), {})


def method(run: Run[Config]) -> Summary:
    """Trains, and returns all that a run measured: only here the test pictures are used."""
    setting = slim(run.task)
    smallest, data = list(setting.grid)[-1], pairs(setting)
    narrowest = {smallest: setting.grid[smallest]}
    with run.going_on():
        together = run.network("slimmable", partial(train, setting, "slimmable", setting.grid))
        alone = run.network("alone", partial(train, setting, "alone", narrowest))

    def measured(part: Pictures | Photos) -> dict[str, Any]:
        return {
            "psnr": quality(setting, together.variables, setting.widths, part),
            "alone": quality(setting, alone.variables, [smallest], part),
            "bicubic": bicubic(part),
        }

    summary = {
        "seed": run.task.config.seed,
        **measured(data.test),
        "tests": {name: measured(part) for name, part in data.others.items()},
        "trained": list(setting.grid),
        **{
            of: {name: count(run.task.graph, keep) for name, keep in setting.widths.items()}
            for of, count in (("macs", jp.cost.macs), ("parameters", jp.cost.params))
        },
    }
    draw(run.path, summary)
    return summary


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Writes the figure of a finished run."""
    macs = summary["macs"]
    curves = {
        label: [(macs[name], psnr, 0.0) for name, psnr in qualities.items()]
        for label, qualities in (("slimmable", summary["psnr"]), ("alone", summary["alone"]))
    }
    curves["bicubic"] = [(each, summary["bicubic"], 0.0) for each in macs.values()]
    plots.spectrum(run / "psnr.png", curves, measure="PSNR of Y on test pictures, dB")


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out."""
    tests = summary.get("tests", {})
    table = Table("width", "MACs", "parameters", "PSNR", "alone", *tests, title=str(run))
    for name, psnr in summary["psnr"].items():
        alone = summary["alone"].get(name)
        table.add_row(
            name if name in summary["trained"] else f"{name} (never trained)",
            f"{summary['macs'][name]:,}",
            f"{summary['parameters'][name]:,}",
            f"{psnr:.2f}",
            "" if alone is None else f"{alone:.2f}",
            *(f"{found['psnr'][name]:.2f}" for found in tests.values()),
        )
    last = [f"{found['bicubic']:.2f}" for found in tests.values()]
    table.add_row("bicubic", "", "", f"{summary['bicubic']:.2f}", "", *last)
    console = Console()
    console.print(table)
    console.print(f"{summary['wall_time_s']:.0f} s")


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=task,
    method=method,
    report=report,
    classifies=False,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
