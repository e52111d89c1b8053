"""The allocation of most value under several costs, as a mixed-integer linear program."""

from typing import Any

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.inspecting.cost import terms_of
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.expressions import cost_expressions
from jaxprune.plan.linear_program import Program
from jaxprune.plan.problems import Problem

CUTS = 50
"""How often a solution is ruled out that keeps a bound within the tolerance of the solver only."""


def milp(problem: Problem, *, gap: float = 0.005, seconds: float = 60.0) -> Allocation:
    """Returns the allocation of the largest sum of values within all limits.

    Every choice takes one width of its ladder, a binary variable for each. A cost is a sum of
    products of widths; a product is linearized exactly, by what it is at each width of one of its
    factors. What is returned is within every limit by the closed form itself, not by the tolerance
    of the solver.

    What goes only with several branches together (of shared weights, say) counts as staying: there
    the limits hold, and a better allocation may be missed.

    Args:
      problem: what `jp.plan.problem` returned, whose costs are closed forms: those of `jp.cost`.
      gap: the solver ends once no allocation can be better by more than this share of the value
        above that of the least valued widths; 0 asks for the best.
      seconds: it ends after so long with the best that it has, and the gap that is left.

    Raises:
      BudgetError: a cost is not a closed form, or `gap` or `seconds` is negative.
      JaxpruneError: `problem` is not one, or the solver has nothing after `seconds`.

    Source: the choice of one block per layer of Bercovich et al., "Puzzle", 2024, section 4, whose
    costs are sums; products of widths by disaggregated bounds, as McCormick, 1976.
    Solved by HiGHS (`scipy.optimize.milp`).
    """
    if not isinstance(problem, Problem):
        raise JaxpruneError(
            f"problem must be a Problem, got {kind_of(problem)}.\n"
            "Fix: jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})."
        )
    gap, seconds = _number(gap, "gap"), _number(seconds, "seconds")
    if wrong := [limit.name for limit in problem.limits if terms_of(limit.cost) is None]:
        raise BudgetError(
            f"milp needs closed forms, and {', '.join(wrong)} are not.\nFix: costs of jp.cost, or "
            "jp.select.budget(bounds=...), which takes any cost."
        )
    program = Program(problem.choices)
    for limit in problem.limits:
        program.bound(cost_expressions(problem, limit.cost), limit.value)
    trace: list[Decision] = []
    for _ in range(CUTS):
        solved = program.solve(gap, seconds)
        if solved.x is None:
            raise JaxpruneError(
                f"the solver has no allocation after {seconds} s: {solved.message}\n"
                "Fix: a larger seconds=, or smaller ladders."
            )
        picks = program.picks(solved.x)
        trace.append(Decision("candidate", problem.value(picks)))
        if problem.holds(problem.keep(picks)):
            worth = program.worth(problem.value(picks))
            left = max(0.0, -float(solved.mip_dual_bound) - worth)
            share = left / worth if worth else 0.0
            return allocation(problem, picks, gap=share, trace=trace)
        program.rule_out(picks)
    raise JaxpruneError(
        f"{CUTS} solutions in a row keep a bound within the tolerance of the solver only.\n"
        "Fix: a bound that is a little smaller."
    )


def _number(value: Any, name: str) -> float:
    value = plain(value)
    if not is_number(value) or not value >= 0:
        raise BudgetError(f"{name} must be a number, at least 0, got {value!r}.\nFix: {name}=0.01.")
    return float(value)
