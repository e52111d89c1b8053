"""What every width and every branch costs alone: the measured values of planners."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np

from jaxprune.inspecting.aligned import ruled, table
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Losses
from jaxprune.plan.problems import Problem, check_problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What the network loses where one choice alone is narrower; `print` shows a table.

    Attributes:
      dense: the loss of the network as it is.
      losses: {choice: f64[widths]}, along the ladder, from the full width down.
      problem: the same problem whose values are minus the rise of the loss: what
        `jp.plan.milp` and `jp.plan.sensitivity` take.
    """

    dense: float
    losses: Mapping[str, np.ndarray]
    problem: Problem = field(repr=False)

    def __str__(self) -> str:
        """One line per choice: the rise of the loss at every width."""
        longest = max(len(choice.widths) for choice in self.problem.choices)
        head = ["choice", "width: rise of the loss", *[""] * longest]
        rows = [tuple(head[:longest])]
        for choice in self.problem.choices:
            pairs = zip(choice.widths[1:], self.losses[choice.name][1:], strict=True)
            cells = [f"{width:,}: {loss - self.dense:+.4g}" for width, loss in pairs]
            rows.append((choice.name, *cells, *[""] * (longest - 1 - len(cells))))
        lines = ruled(table(rows, numbers=set(range(1, longest))), after=(0, len(rows) - 1))
        return "\n".join([*lines, f"dense loss: {self.dense:.6g}"])


def replace_one(
    problem: Problem, evaluate: Evaluate, *, journal: str | PathLike[str] | None = None
) -> Curves:
    """Returns what the network loses at every width of every ladder, all other choices whole.

    Groups that `equal` ties are narrowed together; a branch is off alone. The sum of such rises is
    what `milp` takes for the rise of them together.

    Args:
      problem: what `jp.plan.problem` returned; its scores say which channels stay.
      evaluate: from a keep to a finite number, lower is better, such as `jp.plan.evaluator` or
        `jp.plan.divergence` make it.
      journal: a file where every number is written as soon as it is known. If it is there, what it
        has is not measured again, except for one: killed and called again, the result is the same,
        bit for bit. It serves `evolution`, `random_search` and this, under whatever bounds.

    Raises:
      JaxpruneError: `problem` is not one, or `evaluate` gives no finite number: the message names
        the choice and the width.
      CheckpointError: the journal is of another problem, other weights or other data.

    Costs: one evaluation for each width of each ladder, and one.

    Source: the replace-one-block scores of Bercovich et al., "Puzzle", 2024, section 4.2; for one
    group the curves of Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.array([[3.0, 1.0]]), "second": np.ones((2, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 1)))
    >>> found = jp.plan.problem(graph, {"first": [3.0, 1.0]}, bounds={jp.cost.macs: 0.5})
    >>> print(jp.plan.replace_one(found, lambda keep: 2.0 - keep["first"].sum()))
    choice  width: rise of the loss
    -------------------------------
    first                     1: +1
    -------------------------------
    dense loss: 0
    """
    check_problem(problem)
    known = Losses(problem, [evaluate], journal)
    whole = [0] * len(problem.choices)
    dense = known.at(whole)
    losses = {}
    for place, choice in enumerate(problem.choices):
        rest = range(1, len(choice.widths))
        row = [dense, *(known.at([*whole[:place], n, *whole[place + 1 :]]) for n in rest)]
        losses[choice.name] = np.array(row)
    choices = [c._replace(values=dense - losses[c.name]) for c in problem.choices]
    return Curves(dense=dense, losses=losses, problem=replace(problem, choices=tuple(choices)))
