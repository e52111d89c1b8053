"""Which widths are looked for, and how: every search is judged by one supernet and one batch."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.data import Split
from experiments.data.augment import normalized
from experiments.methods.autoslim.config import Config
from experiments.procedures import supernet
from experiments.runner import training
from experiments.runner.task import Task
from jaxprune import slimmable
from jaxprune.slimmable import Found


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
