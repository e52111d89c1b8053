"""AutoSlim: a slimmable supernet shows, without further training, where a network can be narrow.

Paper:     Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers",
           2019, https://arxiv.org/abs/1903.11728
Command:   python -m experiments.autoslim
           python -m experiments.autoslim --retrain jointly
           python -m experiments.autoslim --preset resnet20-cifar10 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  560 s, with compilation
Expected:  test accuracy of seed 0, in percent; other searches and five folds are in
           benchmarks/results/searches.md:

           target     MACs  greedy     MACs  uniform     MACs  random
           1.0     260,832   99.00  262,976    98.25  259,680   98.50
           0.5     119,800   98.75  125,356    98.50  129,504   99.25
           0.25     65,328   99.00   62,060    97.75   64,632   98.00
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import data
from experiments.data import Dataset, Split, Stream
from experiments.data.augment import normalized
from experiments.methods.slimmable import V2
from experiments.procedures import curves, supernet
from experiments.procedures.curves import Curves
from experiments.procedures.rounds import scaled
from experiments.procedures.supernet import Keeps, Method
from experiments.runner import config as configuration
from experiments.runner import presets, training
from experiments.runner.config import Slim
from experiments.runner.experiment import Experiment, execute
from experiments.runner.run import Run
from experiments.runner.task import Network, Task
from experiments.tasks import classification
from jaxprune import slimmable
from jaxprune.schedule import Training, stepped
from jaxprune.slimmable import Found

NAME = "autoslim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Slim):
    """Train a supernet, search widths with it, and train what was found from new weights."""

    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    widest: float = 1.5
    """Multiplier of the model that is the supernet; targets are of the model at 1."""
    low: float = 0.15
    """Multiplier of the narrowest width of a layer."""
    number: int = 4
    """Widths of a step, the narrowest and the widest among them; layers draw theirs apart."""
    parts: int = 12
    """Steps in which the search can narrow a layer."""
    keep_macs: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Targets, falling: shares of the MACs of the model at multiplier 1."""
    searches: tuple[Literal["greedy", "uniform", "scores", "random", "evolution"], ...] = (
        "greedy",
        "uniform",
        "random",
    )
    """How widths are found; uniform is one multiplier for all layers, scores are |gamma|."""
    samples: int = 100
    """Candidates of a random search; an evolution has as many in ten generations."""
    held_out: int = 2000
    """Training images that the supernet does not see, the batch of the search."""
    judge: Literal["top1", "loss"] = "top1"
    """What a search looks at: the share of wrong answers, or cross-entropy, which is finer."""
    retrain: Literal["alone", "jointly"] = "alone"
    """Whether the networks of a search train by themselves, or as one slimmable network."""
    smoothing: float = 0.0
    """Share of a label that goes to the other classes when these networks train."""
    supernet: Training = Training(epochs=50, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the supernet."""
    training: Training = Training(epochs=160, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the networks that were found."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if sorted(set(self.keep_macs), reverse=True) != list(self.keep_macs) or not self.keep_macs:
            problems.append(f"keep_macs={self.keep_macs} must fall")
        if not 0 < self.low < self.widest:
            problems.append(f"low={self.low} must lie between 0 and widest={self.widest}")
        if self.number < 3:
            problems.append(f"number={self.number} draws no width")
        if not 0 <= self.smoothing < 1:
            problems.append(f"smoothing={self.smoothing} must be in [0, 1)")
        configuration.check(self, problems, positive=("parts", "samples", "held_out"))


_LINEAR = ((0.0, 0.5), (1.0, 0.0))
_IMAGENET = {
    "dataset": "imagenet2012",
    "widths": (),
    "mobile": True,
    "batch_size": 2048,
    "held_out": 2048,
    "searches": ("greedy",),
    "smoothing": 0.1,
    "supernet": Training(epochs=50, rates=_LINEAR, weight_decay=1e-4),
    "training": Training(epochs=300, rates=_LINEAR, weight_decay=1e-4),
}

PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (12, 24, 48),
            "batch_size": 64,
            "divisor": 2,
            "held_out": 400,
            "supernet": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
            "training": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "widths": (24, 48, 96),
            "batch_size": 64,
            "divisor": 4,
            "held_out": 1000,
            "keep_macs": (0.5,),
            "searches": ("greedy", "uniform"),
            "supernet": Training(epochs=5, rates=stepped(0.1), weight_decay=1e-4),
            "training": Training(epochs=15, rates=stepped(0.1), weight_decay=1e-4),
        },
        **{
            f"{model}-{dataset}": {"dataset": dataset, "model": model} | fields
            for dataset in ("cifar10", "cifar100")
            for model, fields in (
                ("resnet20", {"widths": (24, 48, 96), "divisor": 4}),
                ("resnet56", {"widths": (24, 48, 96), "divisor": 4}),
                ("vgg16", {"widths": (96, 192, 384, 768, 768)}),
            )
        },
        **{
            f"{model}-{dataset}": {"dataset": dataset, "model": f"{model}_cifar_wide", "widths": ()}
            | fields
            for dataset in ("cifar10", "cifar100")
            for model, fields in (
                ("mobilenet_v1", {}),
                ("mobilenet_v2", {"expansion": V2["expansion"]}),
            )
        },
        "mobilenet_v1-imagenet": _IMAGENET
        | {"model": "mobilenet_v1_wide", "keep_macs": (1.006, 0.572, 0.264)},
        "mobilenet_v2-imagenet": _IMAGENET
        | {"expansion": V2["expansion"]}
        | {"model": "mobilenet_v2_wide", "keep_macs": (1.679, 1.015, 0.689)},
        "mnasnet-imagenet": _IMAGENET
        | {
            "model": "mnasnet_wide",
            "expansion": (
                ("Inverted_*/Conv_0/kernel", 6),
                *((f"Inverted_{block}/Conv_0/kernel", 3) for block in range(1, 7)),
            ),
            "keep_macs": (1.692, 1.002, 0.691),
        },
        "resnet50-imagenet": _IMAGENET
        | {
            "model": "resnet50",
            "widths": (96, 192, 384, 768),
            "mobile": False,
            "batch_size": 256,
            "keep_macs": (0.734, 0.49, 0.245, 0.14),
            "supernet": Training(epochs=50, rates=((0.0, 0.1), (1.0, 0.0)), weight_decay=1e-4),
            "training": Training(
                epochs=100, rates=stepped(0.1, at=(0.3, 0.6, 0.9)), weight_decay=1e-4
            ),
        },
    }
)
"""Name -> what differs from the defaults of `Config`. Their models are supernets, of 1.5 times the
channels."""


def procedure(config: Config, run: Run[Config]) -> Curves:
    """Returns the networks of the run."""
    whole = run.task
    train, batch = apart(config, whole.dataset)
    run = run._replace(task=whole._replace(dataset=replace(whole.dataset, train=train)))
    (first, second), task = scaled(config, config.supernet, config.training), run.task
    aims(config, task)  # out of reach, they are an error before any training
    trains = method(config, task)
    trained = curves.trained(run, trains, first)
    variables = supernet.cut(task, trained, *next(iter(trains.fixed.items()))).variables
    found = run.value("search", partial(search, config, task, variables, batch))
    again = run._replace(task=whole)
    networks: dict[str, dict[str, Network]] = {}
    for label, each in found.items():
        widths = {
            str(share): slimmable.prefix(task.graph, one["widths"])
            for share, one in zip(config.keep_macs, each, strict=True)
        }
        networks[label] = retrained(config, again, label, widths, second)
    return networks


def apart(config: Config, dataset: Dataset) -> tuple[Split | Stream, Split]:
    """Returns the training images that the supernet sees, and the batch of the search.

    Of a stream that batch is from the validation images, which the supernet does not see either.

    Raises:
      ValueError: the batch would be all of the training images.
    """
    train, validation = dataset.train, dataset.validation
    if isinstance(train, Split):
        if config.held_out >= train.size:
            raise ValueError(
                f"held_out={config.held_out} leaves none of {train.size} training images.\n"
                "Fix: a lower --held-out, or a higher --limit."
            )
        rest, batch = data.shuffled(train, config.held_out)
        return rest, batch
    assert isinstance(validation, Stream)
    return train, next(validation.batches(config.held_out, None))


def method(config: Config, task: Task) -> Method:
    """Returns how the supernet trains."""
    multipliers = np.linspace(config.low, config.widest, 28)
    prefix = partial(slimmable.prefix, task.graph, **config.rounding(config.widest))
    grid = [prefix(float(width)) for width in multipliers]
    fixed = {str(config.widest): grid[-1], str(config.low): grid[0]}
    draw = supernet.draws(grid, config.number - 2, nonuniform=True)
    distill = slimmable.distillation()
    return Method(fixed, slimmable.statistics, draw=draw, distill=distill)


def aims(config: Config, task: Task) -> tuple[slimmable.Space, list[float]]:
    """Returns the widths that layers may have, which have been trained, and the targets in MACs.

    Raises:
      BudgetError: a target is out of reach.
    """
    space = slimmable.space(
        task.graph, parts=config.parts, divisor=config.divisor, protect=config.protect
    )
    least = uniform(config, task)(config.low)
    space = {
        group: tuple(count for count in counts if count >= least[group])
        for group, counts in space.items()
    }
    base = jp.cost.macs(task.graph, uniform(config, task)(1.0))
    targets = [share * base for share in config.keep_macs]
    try:
        slimmable.check_targets(task.graph, space, targets, jp.cost.macs)
    except jp.errors.BudgetError as error:
        error.add_note(
            "Fix: higher --keep-macs, lower --low or --divisor, more --parts, less --protect."
        )
        raise
    return space, targets


def search(config: Config, task: Task, variables: Any, batch: Split) -> dict[str, Any]:
    """Returns the widths for each target, largest first: {search: [{"widths", "error", "cost"}]}.

    The candidates of all searches are judged by the answers of the supernet to one batch.
    """
    graph, rng = task.graph, np.random.default_rng(config.seed)
    space, targets = aims(config, task)
    images = normalized(task.dataset.mean, task.dataset.std, jnp.asarray(batch.images))
    evaluate = slimmable.evaluator(
        supernet.at(task),
        graph,
        variables,
        images,
        jnp.asarray(batch.labels),
        JUDGES[config.judge],
    )
    people: Any = {"population": max(2, config.samples // 10), "generations": 10}
    ways: dict[str, Callable[[], list[Found]]] = {
        "greedy": lambda: slimmable.greedy(evaluate, graph, space, targets),
        "uniform": lambda: [_widest_within(config, task, evaluate, t) for t in targets],
        "scores": lambda: [_by_scores(config, task, variables, evaluate, t) for t in targets],
        "random": lambda: [
            slimmable.random_search(evaluate, graph, space, t, rng, samples=config.samples)
            for t in targets
        ],
        "evolution": lambda: [
            slimmable.evolve(evaluate, graph, space, t, rng, **people) for t in targets
        ],
    }
    return {way: [found._asdict() for found in ways[way]()] for way in config.searches}


def wrong(logits: Any, labels: Any) -> Any:
    """Returns the share of wrong answers."""
    return jnp.mean(logits.argmax(-1) != labels)


JUDGES = MappingProxyType({"top1": wrong, "loss": training.cross_entropy})
"""Name -> (logits, labels) -> error."""


def uniform(config: Config, task: Task) -> Callable[[float], dict[str, int]]:
    """Returns multiplier -> widths, the same share of every group."""

    def widths(multiplier: float) -> dict[str, int]:
        rounding = config.rounding(config.widest)
        return jp.widths(task.graph, slimmable.prefix(task.graph, multiplier, **rounding))

    return widths


def retrained(
    config: Config, run: Run[Config], label: str, widths: Keeps, how: Training
) -> dict[str, Network]:
    """Returns networks of these widths, trained from new weights."""
    loss = training.smoothed(config.smoothing)
    if config.retrain == "alone":
        return curves.alone(run, label, widths, how, loss=loss)
    joint = Method(widths, slimmable.switchable, loss=loss)
    return curves.cut(run, label, curves.trained(run, joint, how, f"{label}-jointly"), widths)


def _widest_within(
    config: Config, task: Task, evaluate: slimmable.Evaluate, target: float
) -> Found:
    """Returns the widths of the largest multiplier whose cost is within the target."""
    shares = np.linspace(config.low, config.widest, 200)
    for multiplier in shares[::-1]:
        widths = uniform(config, task)(float(multiplier))
        if (cost := jp.cost.macs(task.graph, widths)) <= target:
            return Found(widths, float(evaluate([widths])[0]), cost, target)
    raise jp.errors.BudgetError(
        f"no multiplier from {config.low} costs at most {target:,.0f} MACs.\nFix: higher keep_macs."
    )


def _by_scores(
    config: Config, task: Task, variables: Any, evaluate: slimmable.Evaluate, target: float
) -> Found:
    """Returns the widths that are left where the channels of least |gamma| are cut."""
    scores = jax.device_get(jp.scores.bn_scale(task.graph, variables))
    keep = jp.select.budget(
        task.graph,
        scores,
        keep_macs=int(target),
        min_keep_ratio=config.low / config.widest,
        multiple_of=config.divisor,
        protect=config.protect,
    )
    widths = jp.widths(task.graph, keep)
    cost = jp.cost.macs(task.graph, widths)
    return Found(widths, float(evaluate([widths])[0]), cost, target)


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=curves.procedure(procedure),
    report=curves.report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
