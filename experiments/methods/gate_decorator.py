"""Gate Decorator: gates on BatchNorm and their gradients say, over many small rounds, what can go.

Paper:     You et al., "Gate Decorator: Global Filter Pruning Method for Accelerating Deep
           Convolutional Neural Networks", NeurIPS 2019, https://arxiv.org/abs/1909.08174
Command:   python -m experiments.gate_decorator
           python -m experiments.gate_decorator --framework one-shot --score slim --keep-macs 0.3
           python -m experiments.gate_decorator --preset resnet56-cifar10 --data-dir DIR
           python -m experiments.gate_decorator --preset resnet50-birds --data-dir DIR --start
           runs/imagenet
Device:    CPU, 2 cores
CPU time:  140 s, with compilation
Expected:  over five seeds (python -m benchmarks.seeds --only gate_decorator) 9.5 to 10.0 % of the
           MACs stay; test accuracy in percent: dense 99.25 to 99.50, after the first cut 94.75 to
           98.75, the second 92.75 to 96.75, the third 79.75 to 92.00, fine-tuned 98.00 to 99.00
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import optax

import jaxprune as jp
from experiments.procedures import kept_rounds, rounds
from experiments.procedures.rounds import Method, Score
from experiments.runner import config as configuration
from experiments.runner import presets
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, execute
from experiments.runner.fit import Variables
from experiments.runner.training import Gather
from experiments.tasks import classification
from jaxprune.schedule import FINETUNE, SCORE, TICK, TOCK, Part, Training, constant, stepped

NAME = "gate_decorator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, prune it in rounds of Ticks and Tocks, fine-tune it, and write it down."""

    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    batch_size: int = 128
    """Images in a step."""
    finetune_batch_size: int | None = None
    """The same in the fine-tuning, if it differs."""

    framework: Literal["tick-tock", "tick-only", "one-shot"] = "tick-tock"
    """Ticks between Tocks; Ticks alone; or all channels at once, with scores of one epoch."""
    score: Literal["gbn", "slim", "pcnn", "random"] = "gbn"
    """Taylor expansion by the gates; |gamma|; Taylor expansion by the activations; or none."""
    keep_macs: tuple[float, ...] = (0.5, 0.3)
    """Shares of the dense MACs, falling: at each the network is cut and becomes a checkpoint."""
    share: float = 0.002
    """Of the channels left, how many go in a Tick."""
    ticks: int = 10
    """Ticks between two Tocks."""
    min_keep_ratio: float = 0.1
    """Of its channels, how many every group keeps."""

    dense: Training = Training(epochs=160, rates=stepped(0.1))  # noqa: RUF009
    """Before any pruning."""
    start: Path | None = None
    """Directory of a finished run of `experiments dense`, whose network is transferred by that
    training, with a new classifier where the number of classes differs; none begins anew."""
    tick: Training = TICK
    """Gates, biases and head, while the scores add up."""
    tock: Training = TOCK
    """Everything, with the L1 penalty on the gates."""
    one_shot: Training = SCORE
    """The pass that gathers the scores of one-shot."""
    finetune: tuple[Training, ...] = FINETUNE
    """After the last cut."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        consistent = self.framework != "one-shot" or len(self.keep_macs) == 1
        problems = (
            [] if consistent else [f"one-shot prunes once, keep_macs={self.keep_macs} is more"]
        )
        if self.tick.strength and self.score == "gbn":
            problems.append("tick.strength: a Tick has no penalty, its gradients are the scores")
        configuration.check(self, problems)


_PAPER = {"widths": ()}
_RESNET = _PAPER | {"model": "resnet56", "finetune_batch_size": 64}
_VGG = _PAPER | {
    "model": "vgg16",
    "share": 0.005,
    "keep_macs": (0.5, 0.3, 0.1),
    "finetune": FINETUNE[:1],
}
PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (16, 32, 64),
            "batch_size": 64,
            "keep_macs": (0.5, 0.25, 0.1),
            "share": 0.06,
            "ticks": 5,
            "dense": Training(epochs=15, rates=stepped(0.1)),
            "tick": Training(epochs=1, rates=constant(1e-3), part=Part.GATES),
            "tock": Training(
                epochs=2, rates=((0.0, 1e-3), (0.5, 1e-2), (1.0, 1e-3)), strength=1e-3
            ),
            "finetune": (
                Training(epochs=8, rates=((0.0, 1e-3), (0.5, 2e-2), (1.0, 1e-3)), momentum=0.9),
            ),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "model": "resnet20",
            "widths": (8, 16, 32),
            "batch_size": 64,
            "keep_macs": (0.7, 0.5),
            "share": 0.04,
            "ticks": 5,
            "dense": Training(epochs=12, rates=stepped(0.1)),
            "tick": Training(epochs=1, rates=constant(1e-3), part=Part.GATES, data=0.25),
            "tock": Training(
                epochs=2, rates=((0.0, 1e-3), (0.5, 1e-2), (1.0, 1e-3)), strength=1e-4
            ),
            "finetune": (
                Training(epochs=8, rates=((0.0, 1e-3), (0.5, 2e-2), (1.0, 1e-3)), momentum=0.9),
            ),
        },
        "resnet50-birds": {
            **_PAPER,
            **classification.BIRDS,
            "model": "resnet50",
            "keep_macs": (0.5,),
            "finetune": FINETUNE[:1],
        },
        **{
            f"{name}-{dataset}": fields | {"dataset": dataset}
            for dataset in ("cifar10", "cifar100")
            for name, fields in (("resnet56", _RESNET), ("vgg16", _VGG))
        },
    }
)
"""Name -> what differs from the defaults of `Config`.

Those of CIFAR that name a model have the settings of the released code, whose fine-tuning of VGG-16
is without the last 10 epochs and whose Ticks pass over all images. The paper names none for its
birds: those of `resnet50-birds` are ours and not tuned.
"""


def method(config: Config) -> Method:
    """Returns the procedure that the configuration asks for."""
    return Method(
        plan=_plan(config),
        dense=rounds.scaled(config, config.dense)[0],
        start=config.start,
        begin=partial(_begin, config),
        penalty=_penalty,
        score=SCORES[config.score],
        decorated=True,
        finetune_batch_size=config.finetune_batch_size,
    )


def _begin(config: Config, graph: jp.ChannelGraph) -> jp.schedule.Progress:
    return jp.schedule.begin(
        graph,
        keep_macs=config.keep_macs[-1],
        min_keep_ratio=config.min_keep_ratio,
        only=tuple(SCORES[config.score].groups(graph)),  # others stay whole: no target below them
        members=jp.select.members(graph),
        ties=jp.select.pytorch_author,
    )


def _plan(config: Config) -> jp.schedule.Plan:
    finetune = rounds.scaled(config, *config.finetune)
    tick, tock, score = rounds.scaled(config, config.tick, config.tock, config.one_shot)
    if config.framework == "one-shot":
        return jp.schedule.one_shot(keep_macs=config.keep_macs[0], score=score, finetune=finetune)
    toward: Any = {"keep_macs": config.keep_macs, "prune_ratio": config.share, "finetune": finetune}
    if config.framework == "tick-only":
        return jp.schedule.tick_only(tick=tick, **toward)
    return jp.schedule.tick_tock(tick=tick, tock=tock, ticks=config.ticks, **toward)


def _penalty(
    training: Training, graph: jp.ChannelGraph, variables: Variables
) -> optax.GradientTransformation:
    del graph
    return jp.sparsify.l1_gates(training.strength, jp.scale_mask(variables))


def _gate_scores(model: Any, graph: jp.ChannelGraph) -> Gather:
    """Returns |phi * dL/dphi| of a batch, from the gradients that train the network."""
    del model
    return lambda variables, gradients, *_: jp.scores.taylor_gate(graph, variables, gradients)


def _activation_scores(model: Any, graph: jp.ChannelGraph) -> Gather:
    """Returns |sum of a * dL/da| of each image, summed; with running statistics, image by image."""
    apply = jp.gated(partial(model.apply, train=False), graph)

    def gather(
        variables: Variables, gradients: Any, images: jax.Array, labels: jax.Array
    ) -> Mapping[str, jax.Array]:
        del gradients
        melted = jp.gates.melt(variables)

        def loss(gates: Any, image: jax.Array, label: jax.Array) -> jax.Array:
            logits = apply(melted, gates, image[None])[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)

        slopes = jax.vmap(jax.grad(loss), (None, 0, 0))(jp.gates.unit(graph), images, labels)
        return jp.scores.taylor_activation(graph, slopes)

    return gather


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "gbn": Score(lambda _g, _v, tally, *_: tally.scores(), _gate_scores, jp.select.members),
        "slim": Score(
            lambda graph, variables, *_: jp.scores.bn_scale(graph, variables),
            groups=jp.select.members,
        ),
        "pcnn": Score(
            lambda _g, _v, tally, *_: jp.scores.normalized(tally.scores()),
            _activation_scores,
            jp.gates.unit,
        ),
        "random": Score(lambda graph, _v, _t, key, _task: jp.scores.random(graph, key)),
    }
)
"""The global importance rankings that the paper compares; PCNN is Molchanov et al., ICLR 2017."""


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=kept_rounds.procedure(method),
    report=kept_rounds.report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
