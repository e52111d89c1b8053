"""A slimmable network without BatchNorm: WDSR doubles the resolution of pictures at any width.

Paper:     Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
           2019, https://arxiv.org/abs/1903.05134; the network is that of Yu et al., "Wide
           Activation for Efficient and Accurate Image Super-Resolution", 2018,
           https://arxiv.org/abs/1808.08718
Command:   python -m experiments.super_resolution
           python -m experiments.super_resolution --mix 0.5 --seed 1
           python -m experiments.super_resolution --preset cifar10 --data-dir DIR
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.data import pictures
from experiments.data.pictures import Dataset, Pictures
from experiments.models.wdsr import Wdsr
from experiments.procedures import joint
from experiments.procedures.joint import Joint
from experiments.report import plots
from experiments.runner import config as configuration
from experiments.runner import devices
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary, execute
from experiments.runner.fit import QUIET, Journal, Variables
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.runner.task import Network, Task, key
from jaxprune import slimmable
from jaxprune.keep.check import Keep

NAME = "super_resolution"
GRAY = 127.5
"""Half of a pixel's range: the network sees and gives (pixel - GRAY) / GRAY."""
CORNER = 1e-2
"""Errors below it count as their squares, in units of GRAY."""
CHUNK = 500
"""Pictures that are doubled at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train all widths of a WDSR at once, the smallest alone too, and measure both."""

    preset: str = "shapes"
    """Settings to start from, a name among the presets; every other flag overrides it."""
    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    dataset: str = "shapes"
    """Data set, a name in experiments/data/pictures.py."""
    checkpoint_every: tyro.conf.Suppress[int] = 1
    workers: tyro.conf.Suppress[int] = 0
    mobile: tyro.conf.Suppress[bool] = False
    image_size: int = 48
    """Height and width in pixels of generated pictures; even."""
    patch: int = 12
    """Height and width in pixels of what the network sees of a picture in training."""
    model: Literal["wdsr"] = "wdsr"
    """The model."""
    widths: tuple[int, int] = (16, 64)
    """Channels of the stream, and inside of the blocks."""
    blocks: int = 3
    """Residual blocks."""
    batch_size: int = 16
    """Patches in a step."""

    grid: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25)
    """Widths to train, the largest first."""
    others: tuple[float, ...] = (0.875, 0.625)
    """Widths that are measured and were never trained."""
    sandwich: int = 4
    """Widths in a step: the largest, the smallest, and random ones between."""
    divisor: int = 2
    """Widths are multiples of so many channels."""
    mix: float = 0.0
    """In-place distillation: the share of the largest width, and not of the picture, in what all
    others learn from; 0 is none."""
    epochs: int = 8
    """Passes over the training pictures."""
    learning_rate: float = 3e-3
    """Of Adam, at the start; it falls to 0 along a cosine."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if len(self.grid) < 2 or list(self.grid) != sorted(set(self.grid), reverse=True):
            problems.append(f"grid={self.grid} must be two widths or more, falling")
        if not 0 <= self.mix <= 1:
            problems.append(f"mix={self.mix} must be in [0, 1]")
        positive = ("epochs", "learning_rate", "patch", "blocks", "divisor")
        configuration.check(self, problems, positive=positive)


PRESETS: Presets = MappingProxyType(
    {
        "shapes": {},
        "cifar10": {
            "dataset": "cifar10",
            "widths": (32, 128),
            "blocks": 8,
            "divisor": 4,
            "epochs": 20,
            "learning_rate": 1e-3,
        },
    }
)
"""Name -> what differs from the defaults of `Config`. That of CIFAR-10 is not tuned."""


def task(config: Config) -> Task[Config]:
    """Returns the data, the network and its channel graph.

    Raises:
      ValueError: the patches are larger than the pictures.
    """
    dataset = pictures.load(
        config.dataset, size=config.image_size, data_dir=config.data_dir, limit=config.limit
    )
    height, width = dataset.train.low.shape[1:3]
    if config.patch > min(height, width):
        raise ValueError(
            f"patches of {config.patch} pixels do not fit into halves of {height}x{width}.\n"
            f"Fix: --patch {min(height, width)}."
        )
    model = Wdsr(widths=config.widths, blocks=config.blocks, scale=pictures.SCALE)
    low = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    graph = jp.trace(model.apply, jax.eval_shape(model.init, jax.random.key(0), low), low)
    return Task(config, dataset, model, graph, charbonnier)  # pyright: ignore[reportArgumentType]


class Slim(NamedTuple):
    """A task and the widths of its network."""

    task: Task[Config]
    grid: Mapping[str, Keep]  # the widths that train
    widths: Mapping[str, Keep]  # all that are measured, the largest first
    doubled: Mapping[str, Callable[..., Any]]  # (variables, low) -> high, compiled, of each of them


def slim(task: Task[Config]) -> Slim:
    """Returns the task with the widths that its configuration names."""
    config, model, graph = task.config, task.model, task.graph
    prefix = partial(slimmable.prefix, graph, divisor=config.divisor)
    every = sorted({*config.grid, *config.others}, reverse=True)
    widths = {str(width): prefix(width) for width in every}
    grid = {str(width): widths[str(width)] for width in config.grid}
    doubled = {
        name: jax.jit(partial(_doubled, jp.linen.resize(model, graph, keep)))
        for name, keep in widths.items()
    }
    return Slim(task, grid, widths, doubled)


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
    images, drawn = jax.device_put(pairs(slim).train), key(config, name)
    number, examples = config.scaled(config.epochs), len(images.low)
    steps = max(number * (examples // config.batch_size), 1)
    batch = jax.jit(partial(_batch, config.patch))
    distill = regression(config.mix) if config.mix else None
    network = partial(_network, slim.task)
    how = Joint(
        tx=optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps)),
        gradients=joint.gradients(network, graph, slim.task.loss, distill=distill),
        draw=partial(_drawn, grid, config.sandwich),
        batch=lambda rows, step: batch(jax.random.fold_in(drawn, step), images, rows),
        examples=examples,
        batch_size=config.batch_size,
        epochs=number,
        seed=(config.seed, zlib.crc32(name.encode())),
        measure=partial(_validated, slim, grid),
    )
    fresh = jax.jit(model.init)(drawn, jnp.zeros((1, *images.low.shape[1:])))
    split = slimmable.split(graph, fresh, grid, private=())
    return Network(model, joint.train(how, *split, journal), {})


def pairs(slim: Slim) -> Dataset:
    """Returns the pictures of the task."""
    return slim.task.dataset  # pyright: ignore[reportReturnType]


def _drawn(grid: Mapping[Any, Keep], number: int, rng: np.random.Generator) -> Mapping[str, Keep]:
    return slimmable.sandwich(grid, rng, number) if len(grid) > 1 else grid


def _validated(slim: Slim, names: Iterable[str], variables: Variables) -> dict[str, float]:
    decibels = quality(slim, variables, names, pairs(slim).validation)
    return {f"psnr at {name}": psnr for name, psnr in decibels.items()}


def _batch(patch: int, key: jax.Array, train: Any, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
    low, high = pictures.crops(key, train.low[rows], train.high[rows], patch)
    return scaled(low), scaled(high)


def scaled(images: jax.Array) -> jax.Array:
    """Returns u8 pixels as the network sees them, f32 from -1 to 1."""
    return images.astype(jnp.float32) / GRAY - 1


def _network(task: Task[Config], keep: Keep) -> Callable[..., Any]:
    model = jp.linen.resize(task.model, task.graph, keep)
    return lambda variables, low: (model.apply(variables, low), {})


def quality(
    slim: Slim, variables: Variables, names: Iterable[str], part: Pictures
) -> dict[str, float]:
    """Returns the mean PSNR of each of these widths, in dB, over the pictures of a part."""
    decibels, (params, rest) = {}, joint.parts(variables)
    for name in names:
        small = slimmable.variables(slim.task.graph, params, rest, name, slim.widths[name])
        images = devices.of_each(slim.doubled[name], small, part.low, most=CHUNK)
        decibels[name] = float(pictures.psnr(images, part.high).mean())
    return decibels


def _doubled(model: Any, variables: Any, low: jax.Array) -> jax.Array:
    return pictures.quantized(GRAY * (model.apply(variables, scaled(low)) + 1))


def method(run: Run[Config]) -> Summary:
    """Trains, and returns all that a run measured: only here the test pictures are used."""
    setting = slim(run.task)
    smallest, test = list(setting.grid)[-1], pairs(setting).test
    narrowest = {smallest: setting.grid[smallest]}
    with run.going_on():
        together = run.network("slimmable", partial(train, setting, "slimmable", setting.grid))
        alone = run.network("alone", partial(train, setting, "alone", narrowest))
    bicubic = pictures.psnr(pictures.doubled(test.low), test.high).mean()
    summary = {
        "seed": run.task.config.seed,
        "psnr": quality(setting, together.variables, setting.widths, test),
        "alone": quality(setting, alone.variables, [smallest], test),
        "bicubic": float(bicubic),
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
    table = Table("width", "MACs", "parameters", "PSNR", "alone", title=str(run))
    for name, psnr in summary["psnr"].items():
        alone = summary["alone"].get(name)
        table.add_row(
            name if name in summary["trained"] else f"{name} (never trained)",
            f"{summary['macs'][name]:,}",
            f"{summary['parameters'][name]:,}",
            f"{psnr:.2f}",
            "" if alone is None else f"{alone:.2f}",
        )
    table.add_row("bicubic", "", "", f"{summary['bicubic']:.2f}", "")
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
