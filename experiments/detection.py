"""A slimmable backbone that feeds the neck and the head of a detector, which stay at full width.

Paper:     Yu et al., "Slimmable Neural Networks", ICLR 2019, https://arxiv.org/abs/1812.08928,
           and the authors' code for detection; the detector is a small FCOS, Tian et al., ICCV
           2019, https://arxiv.org/abs/1904.01355
Command:   python -m experiments.detection
           python -m experiments.detection --grid 1.0 0.5 --seed 1
Device:    CPU, 2 cores
CPU time:  225 s, with compilation
Expected:  average precision at an overlap of 0.5, the mean of three classes, on the test images of
           seed 0, in percent:

           width        MACs  slimmable backbone  alone
           1.0    12,531,712                90.7
           0.75    7,735,296                90.5
           0.5     4,265,984                90.2
           0.25    2,123,776                88.4   84.9

The authors pad what the stages of a narrow backbone give with zeros, back to full width, before the
neck reads it. Channels of zeros are what a neck does not read: here a width slices the backbone and
the input of the neck, and `protect=` keeps the rest of neck and head whole. That is the same
function with the same gradients, and it multiplies no zeros. BatchNorm, of which every width has
its own, is that of the classifier, frozen in eval mode; the losses of all widths are summed.
"""

import zlib
from collections.abc import Callable, Mapping
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
from experiments import boxes, epochs, plots, presets, procedures, resume, runs, shapes
from experiments import config as configuration
from experiments.boxes import Found
from experiments.config import Common
from experiments.epochs import State
from experiments.models.detector import Classifier, Detector, centers
from experiments.shapes import Objects
from experiments.training import cross_entropy
from jaxprune import slimmable
from jaxprune.arguments import paths
from jaxprune.keep.check import Keep
from jaxprune.slimmable.state import Split, combine, only

NAME = "detection"
WHOLE = ("neck/*", "head/*")
"""Groups of the detector that never slim."""
SINGLE = 32
"""Height and width of the images of one object that the backbone is trained on first."""
PARTS = {"single": 2000, "train": 2000, "test": 400}
"""Generated images: of one object each, and those to detect in."""
CLASSES = shapes.CLASSES[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a slimmable backbone to classify, then a detector on it, all widths at once."""

    preset: str = "shapes"
    """Settings to start from, a name among the presets; every other flag overrides it."""
    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    dataset: Literal["shapes"] = "shapes"
    """Data set; it is made here."""
    data_dir: tyro.conf.Suppress[Path | None] = None
    checkpoint_every: tyro.conf.Suppress[int] = 1
    workers: tyro.conf.Suppress[int] = 0
    mobile: tyro.conf.Suppress[bool] = False
    image_size: int = 64
    """Height and width in pixels of the images; a multiple of 2 ** stages."""
    model: Literal["fcos"] = "fcos"
    """The model."""
    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of every stage of the backbone."""
    neck: int = 32
    """Channels of neck and head."""
    frozen: int = 2
    """Convolutions of the backbone, from the first, that do not train in the detector."""
    batch_size: int = 32
    """Images in a step."""

    grid: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Widths, the largest first."""
    divisor: int = 4
    """Widths are multiples of so many channels."""
    pretrain_epochs: int = 3
    """Passes over the images of one object."""
    epochs: int = 8
    """Passes over the images to detect in."""
    learning_rate: float = 0.02
    """Of the detector; of the classifier it is `pretrain_learning_rate`."""
    pretrain_learning_rate: float = 0.05
    """Both rise for a tenth of the steps and fall along a cosine."""
    weight_decay: float = 1e-4
    """On all that trains."""
    clip: float = 35.0
    """The gradients of the detector, summed over the widths, are cut to this norm."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if list(self.grid) != sorted(set(self.grid), reverse=True):
            problems.append(f"grid={self.grid} must fall")
        if len(self.widths) < 2 or self.image_size % 2 ** len(self.widths):
            problems.append(
                f"image_size={self.image_size} must be a multiple of 2 ** stages, and the stages "
                f"of widths={self.widths} two or more"
            )
        positive = ("epochs", "pretrain_epochs", "learning_rate", "neck", "divisor", "clip")
        configuration.check(self, problems, positive=positive)


PRESETS: presets.Presets = MappingProxyType({"shapes": {}})
"""Name -> what differs from the defaults of `Config`."""


class Network(NamedTuple):
    """A model and its widths."""

    model: Any
    graph: jp.ChannelGraph
    widths: dict[str, Keep]


class Setup(NamedTuple):
    """What the phases of a run share."""

    config: Config
    single: Objects
    train: Objects
    test: Objects
    classifier: Network
    detector: Network


def setup(config: Config) -> Setup:
    """Returns the images, the two networks, their channel graphs and their widths."""
    single, train, test = (
        shapes.objects(count, size=size, seed=seed, each=each)
        for seed, (count, size, each) in enumerate(
            (
                (PARTS["single"], SINGLE, 1),
                (min(PARTS["train"], config.limit or PARTS["train"]), config.image_size, 2),
                (PARTS["test"], config.image_size, 2),
            )
        )
    )
    classifier = Classifier(config.widths, len(CLASSES))
    detector = Detector(config.widths, config.neck, len(CLASSES))
    return Setup(
        config,
        single,
        train,
        test,
        _network(config, classifier, partial(classifier.apply, train=False), SINGLE),
        _network(config, detector, detector.apply, config.image_size, protect=WHOLE),
    )


def _network(
    config: Config, model: Any, apply: Callable[..., Any], size: int, protect: tuple[str, ...] = ()
) -> Network:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    options = {"train": False} if isinstance(model, Classifier) else {}
    variables = jax.eval_shape(partial(model.init, **options), jax.random.key(0), image)
    graph = jp.trace(apply, variables, image)
    prefix = partial(slimmable.prefix, graph, divisor=config.divisor, protect=protect)
    return Network(model, graph, {str(width): prefix(width) for width in config.grid})


@jax.jit
def scaled(images: Any) -> jax.Array:
    """Returns u8 pixels as the networks see them, f32 from -1 to 1."""
    return images.astype(jnp.float32) / 127.5 - 1


def pretrain(run: Path, setup: Setup, phase: str, names: tuple[str, ...]) -> State:
    """Returns the state of the classifier of these widths: an S-Net if there are several."""
    config, (model, graph, widths) = setup.config, setup.classifier
    rate, number = config.pretrain_learning_rate, config.scaled(config.pretrain_epochs)
    image = jnp.zeros((1, SINGLE, SINGLE, 3))
    init = jax.jit(partial(model.init, train=False))
    grid = {name: widths[name] for name in names}
    params, rest = slimmable.split(graph, init(procedures.key(config, phase), image), grid)

    def network(keep: Keep) -> Callable[..., Any]:
        small = jp.linen.resize(model, graph, keep)
        return partial(small.apply, train=True, mutable=["batch_stats"])

    def batch(rows: np.ndarray, _: int) -> tuple[jax.Array, np.ndarray]:
        return scaled(setup.single.images[rows]), setup.single.classes[rows, 0] - 1

    gradients = slimmable.gradients(network, graph, cross_entropy)
    tx = _optimizer(config, rate, number * (len(setup.single.images) // config.batch_size))
    epoch = epochs.joint(
        tx,
        gradients,
        lambda _: grid,
        batch,
        examples=len(setup.single.images),
        batch_size=config.batch_size,
        seed=(config.seed, zlib.crc32(phase.encode())),
    )
    state = epochs.begin(params, rest, tx)
    return epochs.train(run, graph, phase, state, epoch, epochs=number)


def detect(run: Path, setup: Setup, phase: str, names: tuple[str, ...], backbone: State) -> State:
    """Returns the state of the detector of these widths, on a trained backbone.

    BatchNorm and the first convolutions are frozen; every width keeps the BatchNorm that it has.
    """
    config, (model, graph, widths) = setup.config, setup.detector
    grid = {name: widths[name] for name in names}
    params, rest = adopted(setup, procedures.key(config, phase), grid, backbone)
    side = config.image_size // model.stride
    middle = centers(side, side, model.stride)

    def network(keep: Keep) -> Callable[..., Any]:
        small = jp.linen.resize(model, graph, keep)
        return lambda variables, images: (small.apply(variables, images), {})

    assigned = jax.jit(partial(boxes.assigned, middle, stride=model.stride))

    def batch(rows: np.ndarray, _: int) -> tuple[jax.Array, Any]:
        images, *true = (part[rows] for part in setup.train)
        return scaled(images), assigned(*true)

    gradients = slimmable.gradients(network, graph, boxes.loss)
    number, size = config.scaled(config.epochs), len(setup.train.images)
    rate, steps = config.learning_rate, number * (size // config.batch_size)
    tx = optax.chain(optax.clip_by_global_norm(config.clip), _optimizer(config, rate, steps))
    epoch = epochs.joint(
        tx,
        gradients,
        lambda _: grid,
        batch,
        examples=len(setup.train.images),
        batch_size=config.batch_size,
        seed=(config.seed, zlib.crc32(phase.encode())),
    )
    state = epochs.begin(params, rest, tx)
    return epochs.train(run, graph, phase, state, epoch, epochs=number)


def adopted(
    setup: Setup, key: jax.Array, grid: Mapping[str, Keep], backbone: State
) -> tuple[Split, Split]:
    """Returns (params, rest) of a new detector on a trained backbone; what is frozen is `rest`."""
    model, graph, _ = setup.detector
    image = jnp.zeros((1, *setup.train.images.shape[1:]))
    fresh = jax.device_get(jax.jit(model.init)(key, image))
    params, rest = slimmable.split(graph, fresh, grid)

    def renewed(part: Split, source: Split) -> Split:
        private = {n: _replaced(tree, source.private[n]) for n, tree in part.private.items()}
        return Split(_replaced(part.shared, source.shared), private)

    params, rest = map(renewed, (params, rest), jax.device_get((backbone.params, backbone.rest)))
    first = {f"params/backbone/Conv_{i}/kernel" for i in range(setup.config.frozen)}
    leaves = paths.flatten(params.shared)[0].keys()
    private = {name: combine(tree, params.private[name]) for name, tree in rest.private.items()}
    still = combine(rest.shared, only(params.shared, first))
    return Split(only(params.shared, leaves - first), {}), Split(still, private)


def _replaced(tree: Any, source: Any) -> Any:
    """Returns the tree with the leaves that `source` has at the same paths."""
    there, (leaves, treedef) = paths.flatten(source)[0], paths.flatten(tree)
    return jax.tree.unflatten(treedef, [there.get(path, leaf) for path, leaf in leaves.items()])


def _optimizer(config: Config, rate: float, steps: int) -> optax.GradientTransformation:
    rises = optax.warmup_cosine_decay_schedule(0.0, rate, max(steps // 10, 1), max(steps, 2))
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(rises, momentum=0.9)
    )


def accuracy(setup: Setup, state: State, name: str) -> float:
    """Returns the share of the images of one object that a width of the classifier gets right.

    They are those that it was trained on.
    """
    model, graph, widths = setup.classifier
    small = slimmable.variables(graph, state.params, state.rest, name, widths[name])
    run = jax.jit(partial(jp.linen.resize(model, graph, widths[name]).apply, train=False))
    logits = run(small, scaled(setup.single.images))
    return float(np.mean(np.argmax(logits, -1) == setup.single.classes[:, 0] - 1))


def precision(setup: Setup, state: State, name: str) -> dict[str, float]:
    """Returns the average precision of each class on the test images, for one width."""
    model, graph, widths = setup.detector
    small = slimmable.variables(graph, state.params, state.rest, name, widths[name])
    run = jax.jit(jp.linen.resize(model, graph, widths[name]).apply)
    logits, places = map(np.asarray, run(small, scaled(setup.test.images)))
    found = {}
    for label, kind in enumerate(CLASSES):
        scores = logits[..., label].reshape(len(logits), -1)
        each = [
            detected(*pair) for pair in zip(places.reshape(len(places), -1, 4), scores, strict=True)
        ]
        true = [
            b[c == label + 1] for b, c in zip(setup.test.boxes, setup.test.classes, strict=True)
        ]
        found[kind] = boxes.average_precision(each, true)
    return found


def detected(places: np.ndarray, logits: np.ndarray, *, most: int = 20) -> Found:
    """Returns what one image has of one class.

    Args:
      places: boxes f32[n, 4].
      logits: f32[n], of this class.
      most: places that are looked at, those with the highest logits.
    """
    best = np.argsort(-logits, kind="stable")[:most]
    return boxes.suppressed(Found(places[best], logits[best]))


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    run = resume.begin(config, configuration.to_json(config) | {"experiment": NAME})
    summary = runs.summarized(run, lambda: summarize(run, setup(config)))
    draw(run, summary)
    report(run, summary)
    return run


def summarize(run: Path, setup: Setup) -> dict[str, Any]:
    """Trains, and returns all that a run found: the one place where the test images are used."""
    resume.rewind(run, resume.finished(run))
    names = tuple(setup.detector.widths)
    classifier = pretrain(run, setup, "classifier", names)
    detector = detect(run, setup, "detector", names, classifier)
    smallest = names[-1:]
    alone = pretrain(run, setup, "classifier-alone", smallest)
    alone = detect(run, setup, "detector-alone", smallest, alone)
    resume.drop(run, resume.RUNNING)
    graph, widths = setup.detector.graph, setup.detector.widths
    return {
        "seed": setup.config.seed,
        "precision": {name: precision(setup, detector, name) for name in names},
        "alone": {name: precision(setup, alone, name) for name in smallest},
        "accuracy": {name: accuracy(setup, classifier, name) for name in names},
        **{
            of: {name: count(graph, keep) for name, keep in widths.items()}
            for of, count in (("macs", jp.cost.macs), ("parameters", jp.cost.params))
        },
    }


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Writes the figure of a finished run."""
    curves = {
        label: [
            (summary["macs"][name], float(np.mean(list(each.values()))))
            for name, each in summary[of].items()
        ]
        for label, of in (("slimmable backbone", "precision"), ("alone", "alone"))
    }
    plots.spectrum(run / "precision.png", curves, measure="mean AP on test images, IoU 0.5")


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out."""
    table = Table("width", "MACs", "parameters", "AP", *CLASSES, "AP alone", title=str(run))
    for name, found in summary["precision"].items():
        each, alone = list(found.values()), summary["alone"].get(name)
        table.add_row(
            name,
            f"{summary['macs'][name]:,}",
            f"{summary['parameters'][name]:,}",
            *(f"{100 * value:.1f}" for value in (np.mean(each), *each)),
            "" if alone is None else f"{100 * np.mean(list(alone.values())):.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"{summary['wall_time_s']:.0f} s")


if __name__ == "__main__":
    start = presets.chosen(presets=PRESETS, start=Config())
    main(tyro.cli(Config, prog=f"python -m experiments.{NAME}", default=start))
