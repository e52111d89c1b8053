"""AGP: the channels of lowest score go in rounds, many at first and fewer toward the end.

Paper:     Zhu and Gupta, "To prune, or not to prune", 2017, https://arxiv.org/abs/1710.01878; there
           single weights go, here channels, by default those of the least energy
Command:   python -m experiments agp
           python -m experiments agp --final 0.7 --rounds 8
           python -m experiments agp --score fisher --recover lasso
           python -m experiments agp --rounds 1 --retrain scratch-b
           python -m experiments agp --rounds 1 --planner milp
           python -m experiments agp --rounds 1 --start untrained --score snip
           python -m experiments agp --distill 0.9
Device:    CPU, 2 cores
"""

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

import jax

import jaxprune as jp
from experiments.procedures import (
    distilling,
    kept_rounds,
    planning,
    recovering,
    restarting,
    rounds,
    scoring,
)
from experiments.procedures.restarting import Retrain
from experiments.procedures.rounds import Method, Score
from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment
from experiments.runner.presets import Presets
from experiments.tasks import classification
from jaxprune.schedule import Training, stepped, triangular

Start = Literal["trained", "untrained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, prune it in rounds along a ramp, fine-tune it, and write it down."""

    name: str = "agp"
    """Name of the run; a name that is taken gets a number."""
    final: float = 0.5
    """Share of the channels that is gone in the end; of the MACs with a planner."""
    rounds: int = 5
    """Prunings."""
    score: str = "l2"
    """Of the channels, a name in experiments/procedures/scoring.py; the lowest go, of all groups
    together."""
    planner: str = planning.NONE
    """How much of every group stays, a name in experiments/procedures/planning.py; planned anew at
    each pruning, from the scores and from losses on validation images."""
    recover: str = recovering.NONE
    """After each pruning, a name in experiments/procedures/recovering.py; the rounds go on from
    there."""
    min_keep_ratio: float = 0.1
    """Of its channels, how many every group keeps."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """Before any pruning."""
    train: Training = Training(epochs=2, rates=triangular(1e-3, 5e-2))  # noqa: RUF009
    """Of each round, before its pruning."""
    finetune: tuple[Training, ...] = (Training(epochs=8, rates=triangular(1e-3, 2e-2)),)
    """After the last pruning; for new and initial weights the training `dense` in its place."""
    start: Start = "trained"
    """When the prunings come: after the training `dense`; or before any, as in SNIP (Lee et al.,
    ICLR 2019), and what is left trains as `dense` says."""
    distill: float = 0.0
    """In the fine-tuning, the share of the loss that learns from the dense network's logits."""
    temperature: float = 4.0
    """Of these logits."""
    retrain: Retrain = "finetune"
    """After the cut go on; or train anew from the initial weights of the channels that stay, or
    from new weights, for as many epochs as the dense network or for as many MACs."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = scoring.unknown(self.score) + recovering.unknown(self.recover)
        problems += planning.unknown(self.planner)
        problems += restarting.unknown(self.retrain)
        problems += distilling.unknown(self.distill, self.temperature)
        if self.start not in get_args(Start):
            problems.append(f"start={self.start!r} is not one of {', '.join(get_args(Start))}")
        if self.start == "untrained" and (self.retrain != "finetune" or self.distill):
            problems.append("start=untrained has no dense network to train anew or to learn from")
        configuration.check(self, problems, positive=("rounds", "final"))


PRESETS: Presets = MappingProxyType({"digits": {"widths": (16, 32, 64)}})
"""Name -> what differs from the defaults of `Config`."""


def method(config: Config) -> Method:
    """Returns the procedure that the configuration asks for."""
    untrained = config.start == "untrained"
    anew = untrained or config.retrain != "finetune"
    after = (config.dense,) if anew else config.finetune
    dense, train, *finetune = rounds.scaled(config, config.dense, config.train, *after)
    plan = jp.schedule.agp(
        prune_ratio=config.final,
        rounds=config.rounds,
        training=train,
        of=_quota(config),
        finetune=finetune,
    )
    return Method(
        plan=rounds.still(plan) if untrained else plan,
        dense=None if untrained else dense,
        begin=partial(_begin, config),
        score=Score(scoring.reader(config.score)),
        allocate=planning.after(config.planner, config.min_keep_ratio),
        recover=recovering.after(config.recover),
        retrain=config.retrain,
        distill=distilling.asked(config.distill, config.temperature),
    )


def _quota(config: Config) -> jp.schedule.Quota:
    """What `final` is a share of."""
    return jp.schedule.Quota.CHANNELS if config.planner == planning.NONE else jp.schedule.Quota.MACS


def _begin(config: Config, graph: jp.ChannelGraph) -> jp.schedule.Progress:
    progress = jp.schedule.begin(graph, min_keep_ratio=config.min_keep_ratio)
    last = jp.schedule.Prune(prune_ratio=config.final, of=_quota(config))
    progress.prune(last, jp.scores.random(graph, jax.random.key(0)))  # an error if out of reach
    return progress


EXPERIMENT = Experiment(
    name="agp",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=kept_rounds.procedure(method),
    report=kept_rounds.report,
)
