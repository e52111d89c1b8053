"""Layer by layer: a group is pruned, what reads it makes up for it, and all else is frozen.

Paper:     Luo et al., "ThiNet", ICCV 2017, https://arxiv.org/abs/1707.06342; He et al., "Channel
           Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, with `--score lasso`
Command:   python -m experiments layerwise
           python -m experiments layerwise --score lasso --recover lasso
           python -m experiments layerwise --score fisher --recover none
Device:    CPU, 2 cores
"""

from dataclasses import dataclass
from types import MappingProxyType

import jaxprune as jp
from experiments.procedures import kept_rounds, recovering, rounds, scoring
from experiments.procedures.rounds import Method, Score
from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.tasks import classification
from jaxprune.schedule import Part, Training, stepped, triangular


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, prune one group after another, fine-tune it, and write it down."""

    name: str = "layerwise"
    """Name of the run; a name that is taken gets a number."""
    prune_ratio: float = 0.5
    """Share of its channels that every group loses."""
    score: str = "thinet"
    """Of the channels, a name in experiments/procedures/scoring.py, for each group anew."""
    recover: str = "scale"
    """After each pruning, a name in experiments/procedures/recovering.py."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """Before any pruning."""
    train: Training = Training(  # noqa: RUF009
        epochs=1, rates=triangular(1e-3, 1e-2), part=Part.READERS
    )
    """After each pruning; by default of nothing but the kernels that read the group."""
    finetune: tuple[Training, ...] = (Training(epochs=8, rates=triangular(1e-3, 2e-2)),)
    """After the last pruning."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = scoring.unknown(self.score) + recovering.unknown(self.recover)
        configuration.check(self, problems, positive=("prune_ratio",))


PRESETS: Presets = MappingProxyType({"digits": {"widths": (16, 32, 64)}})
"""Name -> what differs from the defaults of `Config`."""


def followed(run: Run[Config]) -> Summary:
    """Trains, prunes and fine-tunes, and tells what that gave."""
    groups = list(run.task.graph.groups)

    def method(config: Config) -> Method:
        dense, train, *finetune = rounds.scaled(
            config, config.dense, config.train, *config.finetune
        )
        return Method(
            plan=jp.schedule.layerwise(
                groups, prune_ratio=config.prune_ratio, training=train, finetune=finetune
            ),
            dense=dense,
            score=Score(scoring.reader(config.score)),
            recover=recovering.after(config.recover),
        )

    return kept_rounds.procedure(method)(run)


EXPERIMENT = Experiment(
    name="layerwise",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=followed,
    report=kept_rounds.report,
)
