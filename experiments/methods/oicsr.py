"""OICSR: a group lasso on what makes a channel and what reads it, in rounds of prune and train.

Paper:     Li et al., "OICSR: Out-In-Channel Sparsity Regularization for Compact Deep Neural
           Networks", CVPR 2019, https://arxiv.org/abs/1905.11664
Command:   python -m experiments.oicsr
           python -m experiments.oicsr --regularizer separated
           python -m experiments.oicsr --preset resnet56-cifar10 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  85 s, with compilation
Expected:  59.3 % of the MACs stay; test accuracy over five seeds, in percent (python -m
           benchmarks.seeds --only oicsr): dense 99.25 to 99.50, after the first cut 99.00 to 99.50,
           after the second 94.50 to 98.50, fine-tuned 99.00 to 99.50
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import optax
from rich.table import Table

import jaxprune as jp
from experiments.procedures import kept_rounds, rounds
from experiments.procedures.rounds import Method, Score
from experiments.report import results
from experiments.runner import config as configuration
from experiments.runner import presets
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary, execute
from experiments.runner.fit import Variables
from experiments.tasks import classification
from jaxprune.schedule import Training, stepped, triangular

NAME = "oicsr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, then regularize and prune it in rounds, fine-tune it, and write it down."""

    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    batch_size: int = 128
    """Images in a step."""

    regularizer: Literal["oicsr", "separated", "l1"] = "oicsr"
    """Group lasso on the filters that make a channel and the weights that read it; on the filters
    alone; or L1 on single weights. The scores look at the same weights."""
    channels: Literal["interior", "all"] = "interior"
    """Those inside of residual blocks, as in the paper, or all."""
    max_prune_ratio: float = 0.5
    """What a group loses at most, in all rounds together."""
    keep_macs: tuple[float, ...] = (0.8, 0.6)
    """Shares of the dense MACs, falling: at each the network is cut and becomes a checkpoint."""
    share: float = 0.1
    """Of the channels left, how many go in a round."""

    dense: Training = Training(epochs=160, rates=stepped(0.1))  # noqa: RUF009
    """Before any pruning; with a strength it is regularized too."""
    train: Training = Training(epochs=10, rates=triangular(1e-3, 1e-2), strength=1e-4)  # noqa: RUF009
    """Of each round, before its pruning."""
    finetune: tuple[Training, ...] = (Training(epochs=40, rates=triangular(1e-3, 1e-2)),)
    """After the last cut."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = [] if self.train.strength else ["train.strength=0 is not a regularization"]
        configuration.check(self, problems)


_VGG = {"widths": (), "model": "vgg16", "keep_macs": (0.7, 0.5, 0.4)}
PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (16, 32, 64),
            "batch_size": 64,
            "share": 0.15,
            "dense": Training(epochs=15, rates=stepped(0.1)),
            "train": Training(epochs=3, rates=triangular(1e-3, 5e-2), strength=1e-3),
            "finetune": (Training(epochs=8, rates=triangular(1e-3, 2e-2)),),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "model": "resnet20",
            "widths": (8, 16, 32),
            "batch_size": 64,
            "share": 0.15,
            "dense": Training(epochs=12, rates=stepped(0.1)),
            "train": Training(epochs=2, rates=triangular(1e-3, 5e-2), strength=1e-3),
            "finetune": (Training(epochs=8, rates=triangular(1e-3, 2e-2)),),
        },
        **{
            f"{name}-{dataset}": fields | {"dataset": dataset}
            for dataset in ("cifar10", "cifar100")
            for name, fields in (
                ("resnet56", {"widths": (), "model": "resnet56"}),
                ("densenet40", {"widths": (), "model": "densenet40", "channels": "all"}),
                ("vgg16", _VGG),
            )
        },
    }
)
"""Name -> what differs from the defaults of `Config`.

The paper gives no strength, no share and no epochs of a round. Those here are ours.
"""


def method(config: Config) -> Method:
    """Returns the procedure that the configuration asks for."""
    dense, train = rounds.scaled(config, config.dense, config.train)
    return Method(
        plan=jp.schedule.iterative(
            keep_macs=config.keep_macs,
            prune_ratio=config.share,
            training=train,
            finetune=rounds.scaled(config, *config.finetune),
        ),
        dense=dense,
        begin=partial(_begin, config),
        penalty=partial(_penalty, config),
        score=Score(partial(_scores, config)),
    )


def _begin(config: Config, graph: jp.ChannelGraph) -> jp.schedule.Progress:
    return jp.schedule.begin(
        graph,
        keep_macs=config.keep_macs[-1],
        max_prune_ratio=config.max_prune_ratio,
        only=_only(config, graph),
    )


def _only(config: Config, graph: jp.ChannelGraph) -> tuple[str, ...] | None:
    return jp.interior(graph) if config.channels == "interior" else None


def _penalty(
    config: Config, training: Training, graph: jp.ChannelGraph, variables: Variables
) -> optax.GradientTransformation:
    if config.regularizer == "l1":
        kernels = jax.tree.map(lambda leaf: leaf.ndim > 1, variables["params"])
        return jp.sparsify.l1_gates(training.strength, kernels)
    penalty = {"oicsr": jp.sparsify.oicsr, "separated": jp.sparsify.group_lasso}
    return penalty[config.regularizer](graph, training.strength, only=_only(config, graph))


def _scores(
    config: Config, graph: jp.ChannelGraph, variables: Variables, *_: Any
) -> Mapping[str, Any]:
    """Returns the energy of what was regularized as a unit."""
    if config.regularizer == "l1":
        return jp.scores.l1(graph, variables)
    roles = ("out", "in") if config.regularizer == "oicsr" else ("out",)
    return jp.scores.channel_energy(graph, variables, roles=roles)


def table(summary: Mapping[str, Any]) -> Table:
    """Returns what every group lost: the ratios that one global order of all channels gave."""
    ratios = Table("channels of", "dense", "pruned", "removed", title="ratios that emerged")
    widths = summary["widths"]
    for name, ratio in summary["ratios"].items():
        cells = (f"{widths[stage][name]}" for stage in ("dense", "pruned"))
        ratios.add_row(name, *cells, f"{ratio:.0%}")
    return ratios


def report(run: Path, summary: Summary) -> None:
    """Prints what came out."""
    results.report(run, summary, table(summary))


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=kept_rounds.procedure(method),
    report=report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
