"""The choices in the order of their energy, each narrowed as far as the loss allows."""

from os import PathLike
from typing import Any

from jaxprune.arguments.checks import check_callable, kind_of
from jaxprune.arguments.numbers import check_positive, is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.inspecting.cost import Cost
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Journal, digest
from jaxprune.plan.prices import Point, Prices
from jaxprune.plan.problems import Problem, check_problem
from jaxprune.plan.recovering import Recover, Recovering


def energy_aware(
    problem: Problem,
    energy: Cost,
    evaluate: Evaluate,
    *,
    recover: Recover | None = None,
    variables: Any = None,
    rise: float = 0.01,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation where what takes most energy was narrowed first, as far as it may be.

    The choices are sorted by how much energy goes where each alone is at its narrowest, the most
    first: what comes first has the whole of the allowed loss before it. Each is narrowed width by
    width, recovered and evaluated, as long as the loss is at most `rise` above that of the dense
    network and the limits do not hold. If they do not hold behind the last choice, the allowance is
    doubled and the choices are gone through again.

    It knows the loss after a recovery and what was cut before, and it never looks back.

    Args:
      problem: what `jp.plan.problem` returned.
      energy: what sorts the choices, such as `jp.cost.energy(table)`; it may be one of the bounds.
      evaluate: `evaluate(keep)`, with `recover` `evaluate(keep, variables)`, to a finite loss,
        lower is better.
      recover: from variables in the full shapes and a keep to such variables: the paper restores
        what a layer wrote by least squares, `lambda v, keep: jp.recover.least_squares(graph, v,
        keep, batches).variables`. It must give the same for the same.
      variables: what `recover` begins with.
      rise: the first allowance, in units of the loss.
      journal: a file of losses, as of `jp.plan.netadapt`.

    Returns:
      The allocation; its `variables` are those of the last width that was taken.

    Raises:
      JaxpruneError: `problem` is not one, or a loss is not finite: the message names the widths.
      BudgetError: a number makes no sense, or `energy` is not a cost.
      CheckpointError: the journal is of another problem, other bounds, options, weights or data.

    Costs: a recovery and an evaluation for every width that is tried, at most one refused width for
    every choice in every pass.

    Source: Yang et al., "Designing Energy-Efficient Convolutional Neural Networks using
    Energy-Aware Pruning", CVPR 2017, section 4, of weights; here of channels, which the scores of
    the problem choose.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> energy = jp.cost.energy({jp.cost.macs: 1.0, jp.cost.activation_bytes: 50.0})
    >>> for decision in jp.plan.energy_aware(found, energy, loss, rise=2.0).trace:
    ...     print(decision.what, decision.value)
    second 4 -> 3, allowed 2 -1.0
    first 4 -> 3, allowed 2 -2.0
    second 3 -> 2, allowed 4 -4.0
    """
    check_problem(problem)
    check_callable(energy, "energy", "energy=jp.cost.energy({jp.cost.macs: 1.0}).", BudgetError)
    allowed = float(check_positive(rise, "rise", "rise=0.01.", BudgetError))
    limits = [[x.name, float(x.value), float(x.dense)] for x in problem.limits]
    asked = {"limits": limits, "rise": allowed, "recovers": recover is not None}
    order = by_energy(problem, energy)
    head = {"of": "energy_aware", "choices": digest(problem), "order": order, **asked}
    losses = Recovering(problem, evaluate, recover, variables, Journal(journal, head))
    point = Prices(problem).start([0] * len(problem.choices))
    dense, trace = losses.dense(), list[Decision]()
    loss = dense
    while not point.surely_holds():
        for choice in order:
            while choice in point.moves(1) and not point.surely_holds():
                after = point.copy()
                after.move(choice, point.picks[choice] + 1)
                key = [len(trace), choice]
                reached, recovered = losses.loss(key, after.picks, variables)
                if reached > dense + allowed:
                    break
                variables, loss = recovered(), reached
                trace.append(_told(problem, point, after, choice, allowed, loss))
                point = after
        allowed *= 2
    given = None if recover is None else variables
    return allocation(problem, point.picks, value=-loss, trace=trace, variables=given)


def by_energy(problem: Problem, energy: Cost) -> list[int]:
    """Returns the choices in the order of how much energy goes with each, the most first.

    Raises:
      BudgetError: `energy` gives no number.
    """
    left = []
    for place, choice in enumerate(problem.choices):
        picks = [len(choice.widths) - 1 if i == place else 0 for i in range(len(problem.choices))]
        spent = energy(problem.graph, problem.keep(picks))
        if not is_number(spent):
            raise BudgetError(
                f"energy gave {kind_of(spent)}, not a number.\nFix: jp.cost.energy(table)."
            )
        left.append(plain(spent))
    return sorted(range(len(left)), key=left.__getitem__)


def _told(
    problem: Problem, before: Point, after: Point, place: int, allowed: float, loss: float
) -> Decision:
    choice = problem.choices[place]
    old, new = (choice.widths[point.picks[place]] for point in (before, after))
    return Decision(f"{choice.name} {old:,} -> {new:,}, allowed {allowed:g}", -loss)
