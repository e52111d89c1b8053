"""One pruned network: channels chosen by one criterion, readers made up by one reconstruction."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import data
from experiments.procedures import recovering, scoring
from experiments.report.each_example import each_example
from experiments.runner import training
from experiments.runner.fit import Variables
from experiments.runner.task import Task, key
from jaxprune.keep.check import Keep

SCOPE = (jp.Kind.STREAM, jp.Kind.HEADS, jp.Kind.HIDDEN)
"""Kinds of the groups that lose channels; dimensions inside of heads stay."""
ALONE = {"stream": jp.Kind.STREAM, "heads": jp.Kind.HEADS, "hidden": jp.Kind.HIDDEN}
"""Kinds that lose channels alone in a network with heads."""
BATCH_NORM = {"size": 250, "count": 4, "seed": 2}
"""Training images that BatchNorm's statistics are measured on."""

RECOVERIES = ("none", "least_squares", "scale", "bias", "at_once")
"""Names of `experiments.procedures.recovering` that fit what the criterion keeps."""
OWN = ("obs", "lasso")
"""Those that choose the channels themselves, at given widths."""


class Cell(NamedTuple):
    """What is measured; its name is its place in the journal."""

    share: float  # of the MACs that stay; of the channels where `widths` is a kind
    widths: str  # "uniform", "global", or of ALONE
    criterion: str
    recovery: str
    seed: int = 0  # of random scores

    @property
    def name(self) -> str:
        """Returns `0.5/uniform/l2/none`; random has its seed behind it."""
        criterion = f"random-{self.seed}" if self.criterion == "random" else self.criterion
        return f"{self.share}/{self.widths}/{criterion}/{self.recovery}"


class Measured(NamedTuple):
    """One number for each test example, and what is left."""

    losses: np.ndarray  # f32[examples], nats, mean over the positions
    right: np.ndarray  # f32[examples], share of right answers
    macs: float  # share of the dense ones


def image(task: Task[Any]) -> jax.ShapeDtypeStruct:
    """Returns one input of a network."""
    return jax.ShapeDtypeStruct((1, *task.dataset.image_shape), jnp.float32)


def recalibrated(task: Task[Any], update: Callable[..., Any], variables: Variables) -> Variables:
    """Returns the variables with BatchNorm's statistics measured anew, if there are any."""
    if "batch_stats" not in variables:
        return variables
    examples = data.examples(task.dataset.train, **BATCH_NORM)
    return jp.recover.recalibrate(update, variables, [batch.images for batch in examples])


class Bench:
    """A network with everything that its cells share: graph, data on the device, programs."""

    def __init__(self, task: Task[Any], variables: Variables):
        model = task.model
        apply = partial(model.apply, train=False)
        self.graph = jp.trace(apply, variables, image(task))
        self.task = task._replace(graph=self.graph)
        self.variables = jax.device_put(variables)
        self.update = training.batch_statistics(model, task.dataset)
        self.scores: dict[tuple[str, int], Any] = {}
        self.ratios: dict[float, float] = {}
        self.macs = jp.cost.macs(self.graph)
        self.alone = tuple(ALONE) if jp.Kind.HEADS in jp.kinds(self.graph).values() else ()

    def evaluate(self, variables: Variables) -> tuple[np.ndarray, np.ndarray]:
        """Returns loss and share of right answers of every test example."""
        return each_example(self.task.model, variables, self.task.dataset)

    def measure(self, cell: Cell) -> Measured:
        """Returns what a cell gives.

        Raises:
          JaxpruneError: the criterion does not score what should be pruned.
        """
        keep, variables = self.pruned(cell)
        masked = jp.mask(self.graph, variables, keep)
        variables = recalibrated(self.task, self.update, masked)
        losses, right = self.evaluate(variables)
        return Measured(losses, right, jp.cost.macs(self.graph, keep) / self.macs)

    def pruned(self, cell: Cell) -> tuple[Keep, Variables]:
        """Returns which channels stay, and full variables that make up for the others."""
        own = cell.recovery in OWN
        keep = self.random(self.ratio(cell.share)) if own else self.keep(cell)
        return recovering.recovered(cell.recovery, self.given(), keep)

    def given(self, seed: int = 0) -> scoring.Given:
        """Returns what criteria and reconstructions look at."""
        return scoring.Given(self.task, self.graph, self.variables, self.key(seed))

    def keep(self, cell: Cell) -> Keep:
        """Returns the channels that a criterion keeps."""
        scores = self.scored(cell.criterion, cell.seed)
        if cell.widths == "global":
            return jp.select.budget(
                self.graph,
                jp.scores.normalized(scores),
                keep_macs=cell.share,
                min_keep_ratio=0.1,
                only=SCOPE,
                strict=True,
            )
        alone = cell.widths in ALONE
        ratio = 1 - cell.share if alone else self.ratio(cell.share)
        scope = (ALONE[cell.widths],) if alone else SCOPE
        return jp.select.per_group(self.graph, scores, prune_ratio=ratio, only=scope, strict=True)

    def scored(self, criterion: str, seed: int) -> Mapping[str, Any]:
        """Returns the scores of a criterion, computed once."""
        if (criterion, seed) not in self.scores:
            found = scoring.scores(criterion, self.given(seed))
            self.scores[criterion, seed] = jax.device_get(found)
        return self.scores[criterion, seed]

    def key(self, seed: int) -> jax.Array:
        """Returns the key of what a criterion draws."""
        return jax.random.fold_in(key(self.task.config, "criteria"), seed)

    def ratio(self, share: float) -> float:
        """Returns the least share of the channels of every group to remove for these MACs."""
        if share not in self.ratios:
            tried = np.arange(200) / 200
            self.ratios[share] = next(
                r for r in tried if jp.cost.macs(self.graph, self.random(r)) <= share * self.macs
            )
        return self.ratios[share]

    def random(self, ratio: float) -> Keep:
        """Returns any channels, of every group in scope the same share."""
        some = jp.scores.random(self.graph, self.key(0))
        return jp.select.per_group(self.graph, some, prune_ratio=ratio, only=SCOPE)
