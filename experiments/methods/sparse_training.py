"""Sparse training: a trained network trains on toward channels that can go, and loses them at once.

Paper:     that of each method, in experiments/procedures/sparsifying.py
Command:   python -m experiments sparse_training --method sfp
           python -m experiments sparse_training --method greg2 --keep-macs 0.3
           python -m experiments sparse_training --method oicsr --strength 3e-3
Device:    CPU, 2 cores
Expected:  with --method asfp, seed 0, test accuracy on digits in percent: dense 99.50, trained with
           the method 91.75, after the cut 72.00, fine-tuned 99.75. The default strengths of all
           methods were chosen on these images with one seed: they are settings that work.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import optax

import jaxprune as jp
from experiments.procedures import kept_rounds, planning, rounds, sparsifying
from experiments.procedures.rounds import Method, Score, Transform
from experiments.procedures.sparsifying import SPARSITIES, Given
from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment
from experiments.runner.presets import Presets
from experiments.tasks import classification
from jaxprune.schedule import Training, stepped, triangular


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, train on with a sparsity, prune once, fine-tune, and write it down."""

    name: str = "sparse_training"
    """Name of the run; a name that is taken gets a number."""
    method: str = "sfp"
    """sfp, fpgm, asfp, ssl, growl, oicsr, admm, greg1, greg2 or morphnet: what is in the way of
    training, and what the channels to cut are chosen by."""
    strength: float | None = None
    """Of the method, in place of its own."""
    keep_macs: float = 0.4
    """Share of the dense MACs that stays."""
    planner: str = planning.NONE
    """How much of every group stays, a name in experiments/procedures/planning.py."""
    min_keep_ratio: float = 0.1
    """Of its channels, how many every group keeps."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """Before anything is sparse."""
    train: Training = Training(epochs=8, rates=triangular(1e-3, 2e-2))  # noqa: RUF009
    """With the method, before the pruning; its strength is that above."""
    finetune: tuple[Training, ...] = (Training(epochs=8, rates=triangular(1e-3, 2e-2)),)
    """After the pruning."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = sparsifying.unknown(self.method) + planning.unknown(self.planner)
        if self.train.strength:
            problems.append("train.strength is that of --strength")
        if self.strength is not None and not self.strength > 0:
            problems.append(f"strength={self.strength} must be above 0")
        configuration.check(self, problems, positive=("keep_macs",))


PRESETS: Presets = MappingProxyType({"digits": {"widths": (16, 32, 64)}})
"""Name -> what differs from the defaults of `Config`."""


def method(config: Config) -> Method:
    """Returns the procedure that the configuration asks for."""
    chosen = SPARSITIES[config.method]
    strength = chosen.strength if config.strength is None else config.strength
    dense, train, *finetune = rounds.scaled(config, config.dense, config.train, *config.finetune)
    train = replace(train, strength=strength)
    share = 1 - config.keep_macs**0.5  # of the filters and of what they read

    def wrap(sgd: Transform, how: Training, steps: int, graph: jp.ChannelGraph) -> Transform:
        return chosen.optimizer(Given(sgd, how, steps, graph, share))

    def begin(graph: jp.ChannelGraph) -> jp.schedule.Progress:
        wrap(optax.identity(), train, 1, graph)  # an error if the strength is out of range
        floor = config.min_keep_ratio
        return jp.schedule.begin(graph, keep_macs=config.keep_macs, min_keep_ratio=floor)

    def scores(graph: jp.ChannelGraph, variables: Any, *_: Any) -> Any:
        return chosen.score(graph, variables)

    return Method(
        plan=jp.schedule.one_shot(keep_macs=config.keep_macs, score=train, finetune=finetune),
        dense=dense,
        begin=begin,
        wrap=wrap,
        allocate=planning.after(config.planner, config.min_keep_ratio),
        score=Score(scores),
    )


EXPERIMENT = Experiment(
    name="sparse_training",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=kept_rounds.procedure(method),
    report=kept_rounds.report,
)
