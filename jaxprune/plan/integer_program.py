"""The allocation of most value under several costs, as a mixed-integer linear program."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.cost import terms_of
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.cost_tables import Sum, cost_tables, price
from jaxprune.plan.linear_program import INFEASIBLE, Program, parts
from jaxprune.plan.problems import Problem, check_problem

CUTS = 50
"""How often a solution is ruled out that keeps a bound within the tolerance of the solver only."""


def milp(problem: Problem, *, gap: float = 0.005, seconds: float = 60.0) -> Allocation:
    """Returns the allocation of the largest sum of values within all limits.

    Every choice takes one width of its ladder, a binary variable for each. A cost is a sum of
    products of widths; what depends on several choices is linearized exactly, by a variable for
    every combination of their widths. A choice that most products share, such as the stream of a
    decoder, is taken at each of its widths in turn. What is returned is within every limit by the
    closed form itself, not by the tolerance of the solver.

    What goes only with several branches together (of shared weights, say) counts as staying, and
    in `jp.cost.peak_memory` what goes with any: there the limits hold, a better allocation may be
    missed, and `gap` is None.

    Args:
      problem: what `jp.plan.problem` returned, whose costs are closed forms: those of `jp.cost`.
      gap: the solver ends once no allocation can be better by more than this share of the value
        above that of the least valued widths; 0 asks for the best.
      seconds: it ends after so long with the best that it has, and the gap that is left.

    Raises:
      BudgetError: a cost is not a closed form, or `gap` or `seconds` is negative.
      JaxpruneError: `problem` is not one, or the solver has nothing after `seconds`.

    Source: the choice of one block per layer of Bercovich et al., "Puzzle", 2024, section 4, whose
    costs are sums; combinations by their marginals, the local polytope of Wainwright and Jordan,
    "Graphical Models, Exponential Families, and Variational Inference", 2008, section 4.
    Solved by HiGHS (`scipy.optimize.milp`).

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
      >>> best = jp.plan.milp(jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5}))
      >>> best.keep["a"].tolist()
      [True, False, False, True]
    """
    check_problem(problem)
    gap, seconds = _number(gap, "gap"), _number(seconds, "seconds")
    if wrong := [limit.name for limit in problem.limits if terms_of(limit.cost) is None]:
        raise BudgetError(
            f"milp needs closed forms, and {', '.join(wrong)} are not.\nFix: costs of jp.cost, or "
            "jp.select.budget(bounds=...), which takes any cost."
        )
    costs = [(cost_tables(problem, limit.cost), limit.value) for limit in problem.limits]
    best = _search(problem, parts(problem.choices, costs), gap, seconds)
    if best.picks is None:
        raise JaxpruneError(
            f"the solver has no allocation after {seconds} s: {best.message}\n"
            "Fix: a larger seconds=, or smaller ladders."
        )
    more = max(0.0, best.bound - best.worth)
    share = more / best.worth if best.worth else math.inf if more > 0 else 0.0
    known = share if _exact(problem, costs) else None
    return allocation(problem, best.picks, gap=known, trace=best.trace)


def _exact(problem: Problem, costs: Sequence[tuple[Sum, float]]) -> bool:
    """False if without branches, all of them or both terms of one, less is left than counted."""
    known = branches(problem.graph)
    asked = {c.branch[0] for c in problem.choices if c.branch is not None}
    together = [asked, *({n for n in asked if known[n].within == whole} for whole in known)]
    for off in filter(None, together):
        picks = [int(c.branch is not None and c.branch[0] in off) for c in problem.choices]
        keep = problem.keep(picks)
        for limit, (tables, _) in zip(problem.limits, costs, strict=True):
            left = limit.left(problem.graph, keep)
            if price(tables, picks) > left + 1e-9 * abs(left):
                return False
    return True


class _Best(NamedTuple):
    """The best picks, what they are worth, what others may be worth, and what the solver said."""

    picks: list[int] | None
    worth: float
    bound: float
    trace: list[Decision]
    message: str = "no widths are within all bounds"


def _search(problem: Problem, programs: Sequence[Program], gap: float, seconds: float) -> _Best:
    """Solves the parts of a problem, the most promising first, as long as one may be better."""
    end = time.perf_counter() + seconds
    best = _Best(None, 0.0, 0.0, [])
    bounds = [program.relaxed(seconds) if len(programs) > 1 else math.inf for program in programs]
    for i in np.argsort(-np.array(bounds), kind="stable"):
        enough = best.worth * (1 + gap) if best.picks else -math.inf
        if bounds[i] <= enough or (best.picks and time.perf_counter() > end):
            return best._replace(bound=max(best.bound, bounds[i]))
        best = _better(problem, programs[i], best, enough, gap, end - time.perf_counter())
    return best


def _better(
    problem: Problem, program: Program, best: _Best, enough: float, gap: float, seconds: float
) -> _Best:
    """Returns the better one of the best picks and those of a program that are worth enough."""
    end = time.perf_counter() + seconds
    for _ in range(CUTS):
        solved = program.solve(gap, max(0.0, end - time.perf_counter()), least=enough)
        if solved.status == INFEASIBLE:
            return best._replace(bound=max(best.bound, enough))
        dual = solved.mip_dual_bound  # None where the time was over before there was one
        bound = math.inf if dual is None else max(best.bound, -float(dual))
        if solved.x is None:
            return best._replace(bound=bound, message=solved.message)
        picks = program.picks(solved.x)
        best.trace.append(Decision("candidate", problem.value(picks)))
        if problem.holds(problem.keep(picks)):
            worth = program.worth(problem.value(picks))
            if best.picks is None or worth > best.worth:
                best = best._replace(picks=picks, worth=worth)
            return best._replace(bound=bound)
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
